// Command upload-dataset is the pipeline step of that name; see docs/steps/upload-dataset.md.
package main

import (
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps/uploaddataset"
)

func main() { step.Main(uploaddataset.Spec()) }
