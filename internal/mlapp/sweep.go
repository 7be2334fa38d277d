package mlapp

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/insitu-ml/insitu/internal/fault"
)

// maxCandidates bounds a sweep: every candidate is a training and a version in the model registry.
const maxCandidates = 64

// Candidates returns the hyper-parameters of every candidate of a sweep: the given ones with each combination of the
// values that the sweep lists for others, the last name's values first. Without a sweep there is one candidate.
//
// Values are those of Resolve; parameters that neither names are left out, but for epochs: a candidate is shown by
// its values, and so has at least one. Every problem is returned at once, as a configuration fault.
func (m *Manifest) Candidates(given, sweep map[string]any) ([]map[string]any, error) {
	_, err := m.Resolve(given)
	problems := []error{err}
	one := maps.Clone(given)
	if one == nil {
		one = map[string]any{}
	}
	candidates, count := []map[string]any{one}, 1.0
	for _, name := range sortedKeys(sweep) {
		if _, twice := given[name]; twice {
			problems = append(problems, fmt.Errorf("parameter %q has a value and a sweep, expected one of them", name))
		}
		values, err := m.swept(name, sweep[name])
		problems = append(problems, err)
		if count *= float64(max(len(values), 1)); count > maxCandidates {
			continue // refused below, however many there are
		}
		var next []map[string]any
		for _, c := range candidates {
			for _, value := range values {
				d := maps.Clone(c)
				d[name] = value
				next = append(next, d)
			}
		}
		candidates = next
	}
	if count > maxCandidates {
		problems = append(problems, fmt.Errorf("the sweep has %.0f candidates, one for each combination of its values; expected at most %d", count, maxCandidates))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fault.AsConfiguration(err)
	}
	for _, c := range candidates {
		all, err := m.Resolve(c)
		if err != nil {
			return nil, err
		}
		c["epochs"] = nil
		for name := range c {
			c[name] = all[name]
		}
	}
	return candidates, nil
}

// swept checks the values that a sweep lists for a parameter.
func (m *Manifest) swept(name string, list any) ([]any, error) {
	p, known := m.AllParameters()[name]
	if !known {
		return nil, fmt.Errorf("sweep: parameter %q is not declared in %s; expected one of %q", name, ManifestFile, sortedKeys(m.AllParameters()))
	}
	given, _ := list.([]any)
	if len(given) == 0 {
		example, err := json.Marshal([]any{p.Default})
		return nil, errors.Join(fmt.Errorf("sweep: parameter %q: expected a list of values, such as %s", name, example), err)
	}
	var values []any
	var problems []error
	seen := map[any]bool{}
	for _, v := range given {
		value, err := p.value(v)
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("sweep: parameter %q: %w", name, err))
		case seen[value]:
			problems = append(problems, fmt.Errorf("sweep: parameter %q: %v is listed twice", name, value))
		}
		seen[value] = true
		values = append(values, value)
	}
	return values, errors.Join(problems...)
}
