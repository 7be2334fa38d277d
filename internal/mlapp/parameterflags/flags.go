// Package parameterflags declares the flags for an ML app's hyper-parameters once, and checks them against the app.
//
// train-model uses them. The two steps before it, which change the database, take them too: a run with parameters
// that the app does not have must end before anything has changed. They also take a sweep: values to try, of which
// train-model sees one combination at a time.
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

// CheckedFlags are the same and the sweep, for a step that refuses what train-model would refuse.
func CheckedFlags() []step.Flag {
	const purpose = ": only checked against the ML app, before anything changes"
	return append(flags("as for train-model"+purpose, "as for train-model"+purpose),
		step.Flag{Name: "sweep", Usage: "hyper-parameters to try, as a JSON object from name to list of values: a candidate for each combination, at most 64", Kind: step.JSON})
}

func flags(epochs, parameters string) []step.Flag {
	one := 1.0
	return []step.Flag{
		{Name: "epochs", Usage: epochs, Kind: step.Int, Min: &one},
		{Name: "parameters", Usage: parameters, Kind: step.JSON},
	}
}

// given is --parameters with --epochs.
func given(in *step.Input) (map[string]any, error) {
	parameters := maps.Clone(in.JSON("parameters"))
	if parameters == nil {
		parameters = map[string]any{}
	}
	if !in.IsSet("epochs") {
		return parameters, nil
	}
	epochs, other := in.Int("epochs"), parameters["epochs"]
	parameters["epochs"] = epochs
	if other != nil && fmt.Sprint(other) != fmt.Sprint(epochs) {
		return parameters, fmt.Errorf("--epochs is %d and --parameters says %v, expected one of them", epochs, other)
	}
	return parameters, nil
}

// Resolve adds --epochs to --parameters, checks them against the app's declaration and adds the defaults of the others.
func Resolve(in *step.Input, m *mlapp.Manifest) (map[string]any, error) {
	parameters, problem := given(in)
	resolved, err := m.Resolve(parameters)
	return resolved, errors.Join(problem, err)
}

// Candidates are the --parameters of every training that a step with CheckedFlags is asked for: one, unless there is
// a sweep. What is wrong with them is a configuration fault.
func Candidates(in *step.Input, m *mlapp.Manifest) ([]map[string]any, error) {
	parameters, problem := given(in)
	candidates, err := m.Candidates(parameters, in.JSON("sweep"))
	return candidates, fault.AsConfiguration(errors.Join(problem, err))
}
