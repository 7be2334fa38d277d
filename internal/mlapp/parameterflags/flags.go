// Package parameterflags declares the flags for an ML app's hyper-parameters once, and checks them against the app.
//
// train-model uses them. The two steps before it, which change the database, take them too: a run with parameters
// that the app does not have must end before anything has changed.
package parameterflags

import (
	"errors"
	"fmt"
	"maps"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/step"
)

// Flags are how a model is trained.
func Flags() []step.Flag {
	return flags("times the training data is gone through; when unset, the ML app's default",
		"hyper-parameters as a JSON object; those left out have the ML app's defaults")
}

// CheckedFlags are the same, for a step that refuses what train-model would refuse and has no other use for them.
func CheckedFlags() []step.Flag {
	const purpose = ": only checked against the ML app, before anything changes"
	return flags("as for train-model"+purpose, "as for train-model"+purpose)
}

func flags(epochs, parameters string) []step.Flag {
	one := 1.0
	return []step.Flag{
		{Name: "epochs", Usage: epochs, Kind: step.Int, Min: &one},
		{Name: "parameters", Usage: parameters, Kind: step.JSON},
	}
}

// Resolve adds --epochs to --parameters, checks them against the app's declaration and adds the defaults of the others.
func Resolve(in *step.Input, m *mlapp.Manifest) (map[string]any, error) {
	given := maps.Clone(in.JSON("parameters"))
	if given == nil {
		given = map[string]any{}
	}
	var problem error
	if in.IsSet("epochs") {
		epochs := in.Int("epochs")
		if other, twice := given["epochs"]; twice && fmt.Sprint(other) != fmt.Sprint(epochs) {
			problem = fmt.Errorf("--epochs is %d and --parameters says %v, expected one of them", epochs, other)
		}
		given["epochs"] = epochs
	}
	parameters, err := m.Resolve(given)
	return parameters, errors.Join(problem, err)
}

// Check says what is wrong with the parameters, nil for nothing.
func Check(in *step.Input, m *mlapp.Manifest) error {
	_, err := Resolve(in, m)
	return fault.AsConfiguration(err)
}
