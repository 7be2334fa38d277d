package mlapp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/insitu-ml/insitu/internal/fault"
)

// The tasks an app can be for.
const (
	Classification = "classification"
	Regression     = "regression"
)

// Manifest is insitu.yaml. docs/ml-app.md explains every key.
type Manifest struct {
	Name        string               `json:"name"`
	Model       string               `json:"model"`
	Task        string               `json:"task"`
	Description string               `json:"description,omitempty"`
	Input       Input                `json:"input"`
	Dataset     Dataset              `json:"dataset"`
	Parameters  map[string]Parameter `json:"parameters"`
	Gate        Gate                 `json:"gate"`
	// MaxShards is the most shards the learner can be trained in; nil for any number.
	MaxShards *int `json:"max_shards,omitempty"`
}

// Input is the schema of one example.
type Input struct {
	Shape  []int       `json:"shape"`
	DType  string      `json:"dtype"`            // uint8 or float32
	Range  *[2]float64 `json:"range,omitempty"`  // closed interval of the values; nil for any finite ones
	Labels []string    `json:"labels,omitempty"` // classes in the order of their numbers; empty: those of the data
	Resize bool        `json:"resize,omitempty"` // scale images to Shape
}

// Dataset says where the data comes from unless the user names another source.
type Dataset struct {
	Source  string   `json:"source,omitempty"` // URL, or a path in the app's folder
	Format  string   `json:"format,omitempty"` // empty: detected
	Label   string   `json:"label,omitempty"`  // label column or array
	Columns []string `json:"columns,omitempty"`
}

// Gate is what a model must reach to be promoted. Nil fields are not checked.
type Gate struct {
	Accuracy  *float64 `json:"accuracy,omitempty"`
	F1        *float64 `json:"f1,omitempty"`
	Tolerance *float64 `json:"tolerance,omitempty"` // how much worse than the champion is still good enough
}

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)

// ParseManifest reads insitu.yaml strictly and returns every problem at once, as a configuration fault.
func ParseManifest(text []byte) (Manifest, error) {
	var m Manifest
	if len(text) > maxManifest {
		return m, fault.AsConfiguration(fmt.Errorf("%s has %d bytes, the limit is %d", ManifestFile, len(text), maxManifest))
	}
	useNumber := func(d *json.Decoder) *json.Decoder { d.UseNumber(); return d }
	if err := yaml.UnmarshalStrict(text, &m, useNumber); err != nil {
		return m, fault.AsConfiguration(fmt.Errorf("read %s: %w", ManifestFile, err))
	}
	if m.Task == "" {
		m.Task = Classification
	}
	if m.Model == "" {
		m.Model = m.Name
	}
	if err := m.check(); err != nil {
		return m, fault.AsConfiguration(fmt.Errorf("%s: %w", ManifestFile, err))
	}
	return m, nil
}

// CheckModel says what is wrong with the name of a registered model, by the rule of the key model.
func CheckModel(name string) error { return checkName(name) }

func checkName(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("%q: expected up to 100 letters, digits, %q, %q and %q", name, "_", ".", "-")
	}
	return nil
}

func (m *Manifest) check() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for key, value := range map[string]string{"name": m.Name, "model": m.Model} {
		if err := checkName(value); err != nil {
			problem("%s %w", key, err)
		}
	}
	if m.Task != Classification && m.Task != Regression {
		problem("task %q: expected %q or %q", m.Task, Classification, Regression)
	}
	problems = append(problems, m.Input.check(m.Task)...)
	if s := m.Dataset.Source; s != "" && !strings.Contains(s, ":") && (!fs.ValidPath(path.Clean(s)) || path.IsAbs(s)) {
		problem("dataset.source %q: expected a URL or a path inside the app's folder", s)
	}
	for _, name := range sortedKeys(m.Parameters) {
		if !parameterName.MatchString(name) {
			problem("parameter %q: expected a name of lower-case letters, digits and %q", name, "_")
		}
		p := m.Parameters[name]
		if err := p.check(); err != nil {
			problem("parameter %q: %w", name, err)
		}
		if want, reserved := reservedParameters()[name]; reserved && p.Type != want.Type {
			problem("parameter %q: it counts epochs for every app; expected the type %q", name, want.Type)
		}
	}
	if m.MaxShards != nil && *m.MaxShards < 1 {
		problem("max_shards is %d, expected 1 or more", *m.MaxShards)
	}
	for name, value := range map[string]*float64{"accuracy": m.Gate.Accuracy, "f1": m.Gate.F1, "tolerance": m.Gate.Tolerance} {
		if value != nil && !(*value >= 0 && *value <= 1) {
			problem("gate.%s is %v, expected a number from 0 to 1", name, *value)
		}
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(problems...)
}

func (in Input) check(task string) (problems []error) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if len(in.Shape) < 1 || len(in.Shape) > 3 {
		problem("input.shape %v: expected one to three sizes", in.Shape)
	}
	values := 1
	for _, size := range in.Shape {
		if size < 1 || size > maxValues/values {
			problem("input.shape %v: expected positive sizes and at most %d values", in.Shape, maxValues)
			break
		}
		values *= size
	}
	if in.DType != "uint8" && in.DType != "float32" {
		problem("input.dtype %q: expected %q or %q", in.DType, "uint8", "float32")
	}
	if r := in.Range; r != nil && (!(r[0] < r[1]) || math.IsInf(r[1]-r[0], 0)) {
		problem("input.range [%v, %v]: expected a lower and a higher number", r[0], r[1])
	}
	if task == Regression && len(in.Labels) > 0 {
		problem("input.labels: a regression has no classes")
	}
	if len(in.Labels) == 1 {
		problem("input.labels has one class, expected two or more, or none to take those of the data")
	}
	for i, label := range in.Labels {
		if label == "" || slices.Contains(in.Labels[:i], label) {
			problem("input.labels: class %q is empty or listed twice", label)
		}
	}
	return problems
}
