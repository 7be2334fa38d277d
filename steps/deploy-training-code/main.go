// Command deploy-training-code is the pipeline step of that name; see docs/steps/deploy-training-code.md.
package main

import (
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps/deploytrainingcode"
)

func main() { step.Main(deploytrainingcode.Spec()) }
