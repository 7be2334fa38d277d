// Command train-model is the pipeline step of that name; see docs/steps/train-model.md.
package main

import (
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps/trainmodel"
)

func main() { step.Main(trainmodel.Spec()) }
