// Command evaluate-model is the pipeline step of that name; see docs/steps/evaluate-model.md.
package main

import (
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps/evaluatemodel"
)

func main() { step.Main(evaluatemodel.Spec()) }
