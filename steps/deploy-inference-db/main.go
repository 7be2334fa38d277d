// Command deploy-inference-db is the pipeline step of that name; see docs/steps/deploy-inference-db.md.
package main

import (
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps/deployinferencedb"
)

func main() { step.Main(deployinferencedb.Spec()) }
