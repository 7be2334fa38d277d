// Package steps is the one list of the pipeline's steps.
package steps

import (
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps/deployinferencedb"
	"github.com/insitu-ml/insitu/internal/steps/deploytrainingcode"
	"github.com/insitu-ml/insitu/internal/steps/evaluatemodel"
	"github.com/insitu-ml/insitu/internal/steps/promotemodeltostaging"
	"github.com/insitu-ml/insitu/internal/steps/trainmodel"
	"github.com/insitu-ml/insitu/internal/steps/uploaddataset"
)

// All are the six steps in the pipeline's order.
func All() []step.Spec {
	return []step.Spec{
		uploaddataset.Spec(),
		deploytrainingcode.Spec(),
		trainmodel.Spec(),
		evaluatemodel.Spec(),
		promotemodeltostaging.Spec(),
		deployinferencedb.Spec(),
	}
}
