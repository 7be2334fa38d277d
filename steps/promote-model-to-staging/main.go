// Command promote-model-to-staging is the pipeline step of that name; see docs/steps/promote-model-to-staging.md.
package main

import (
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps/promotemodeltostaging"
)

func main() { step.Main(promotemodeltostaging.Spec()) }
