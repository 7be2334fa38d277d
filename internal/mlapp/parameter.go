package mlapp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"

	"github.com/insitu-ml/insitu/internal/fault"
)

// Parameter declares one hyper-parameter.
type Parameter struct {
	Type        string   `json:"type"` // int, float, string or bool
	Default     any      `json:"default"`
	Min         *float64 `json:"min,omitempty"`
	Max         *float64 `json:"max,omitempty"`
	Enum        []any    `json:"enum,omitempty"`
	Description string   `json:"description,omitempty"`
}

var parameterName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// maxInt is the largest integer that every JSON reader keeps exactly.
const maxInt = 1<<53 - 1

// reservedParameters are what every app has, with their declaration unless the app declares them itself.
func reservedParameters() map[string]Parameter {
	one, zero := 1.0, 0.0
	return map[string]Parameter{
		"epochs":   {Type: "int", Default: json.Number("10"), Min: &one, Description: "times the training data is gone through"},
		"patience": {Type: "int", Default: json.Number("0"), Min: &zero, Description: "epochs without improvement on the validation data before training stops; 0: never"},
	}
}

// AllParameters are the declared parameters and those that every app has: epochs and patience.
func (m *Manifest) AllParameters() map[string]Parameter {
	all := reservedParameters()
	maps.Copy(all, m.Parameters)
	return all
}

// Resolve checks the given parameters and adds the defaults of the others.
// Values are int64, float64, string or bool by the parameter's type; given numbers may be any Go or JSON number.
// Every problem is returned at once, as a configuration fault.
func (m *Manifest) Resolve(given map[string]any) (map[string]any, error) {
	all := m.AllParameters()
	var problems []error
	for _, name := range sortedKeys(given) {
		if _, known := all[name]; !known {
			problems = append(problems, fmt.Errorf("parameter %q is not declared in %s; expected one of %q", name, ManifestFile, sortedKeys(all)))
		}
	}
	out := make(map[string]any, len(all))
	for _, name := range sortedKeys(all) {
		value, found := given[name]
		if !found {
			value = all[name].Default
		}
		var err error
		if out[name], err = all[name].value(value); err != nil {
			problems = append(problems, fmt.Errorf("parameter %q: %w", name, err))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fault.AsConfiguration(err)
	}
	return out, nil
}

func (p Parameter) check() error {
	switch p.Type {
	case "int", "float", "string", "bool":
	default:
		return fmt.Errorf("type %q: expected int, float, string or bool", p.Type)
	}
	if (p.Min != nil || p.Max != nil) && p.Type != "int" && p.Type != "float" {
		return fmt.Errorf("min and max are for int and float, not for %s", p.Type)
	}
	for _, choice := range p.Enum {
		if _, err := p.typed(choice); err != nil {
			return fmt.Errorf("enum: %w", err)
		}
	}
	if p.Default == nil {
		return errors.New("expected a default")
	}
	if _, err := p.value(p.Default); err != nil {
		return fmt.Errorf("default: %w", err)
	}
	return nil
}

// value checks v against type, bounds and choices.
func (p Parameter) value(v any) (any, error) {
	v, err := p.typed(v)
	if err != nil {
		return nil, err
	}
	if len(p.Enum) > 0 && !slices.ContainsFunc(p.Enum, func(choice any) bool { typed, err := p.typed(choice); return err == nil && typed == v }) {
		return nil, fmt.Errorf("%v is none of %v", v, p.Enum)
	}
	var number float64
	switch v := v.(type) {
	case int64:
		number = float64(v)
	case float64:
		number = v
	default:
		return v, nil
	}
	if p.Min != nil && number < *p.Min {
		return nil, fmt.Errorf("%v is less than %v", v, *p.Min)
	}
	if p.Max != nil && number > *p.Max {
		return nil, fmt.Errorf("%v is more than %v", v, *p.Max)
	}
	return v, nil
}

// typed converts v to the parameter's type without losing anything.
func (p Parameter) typed(v any) (any, error) {
	switch p.Type {
	case "string":
		if s, ok := v.(string); ok {
			return s, nil
		}
	case "bool":
		if b, ok := v.(bool); ok {
			return b, nil
		}
	case "int":
		if f, ok := number(v); ok && f == math.Trunc(f) && math.Abs(f) <= maxInt {
			return int64(f), nil
		}
	case "float":
		if f, ok := number(v); ok {
			return f + 0, nil // no negative zero
		}
	}
	return nil, fmt.Errorf("%#v is no %s", shown(v), p.Type)
}

func shown(v any) any {
	if n, ok := v.(json.Number); ok {
		return n.String()
	}
	return v
}

// number returns v as a finite float64.
func number(v any) (f float64, ok bool) {
	var err error
	switch v := v.(type) {
	case json.Number:
		f, err = strconv.ParseFloat(v.String(), 64)
	case float64:
		f = v
	case float32:
		f = float64(v)
	case int:
		f = float64(v)
	case int64:
		f = float64(v)
	default:
		return 0, false
	}
	return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}

// Job is everything that the result of a training depends on.
type Job struct {
	Code, Dataset string         // digests
	Rows          string         // fingerprint of the rows that are read
	Parameters    map[string]any // from Resolve
	Seed          int64
	Start         string // job whose model it starts from; "": none
}

// ID identifies the training; database/README.md defines it.
func (j Job) ID() (string, error) {
	spec := map[string]any{"parameters": j.Parameters, "seed": j.Seed}
	if j.Start != "" {
		spec["start"] = j.Start
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(map[string]any{"code": j.Code, "dataset": j.Dataset, "rows": j.Rows, "spec": spec}); err != nil {
		return "", fmt.Errorf("write the job's canonical JSON: %w", err)
	}
	sum := sha256.Sum256(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
	return hex.EncodeToString(sum[:]), nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
