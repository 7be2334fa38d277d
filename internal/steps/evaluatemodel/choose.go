package evaluatemodel

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/report"
)

// parseVersions reads --model-version: a version, or a JSON list of versions, which may be texts as in Argo's lists.
// An unset one has none.
func parseVersions(text string) ([]int, error) {
	wrong := func(why string) ([]int, error) {
		return nil, fmt.Errorf("--model-version is %q%s; expected a version such as 4, or a JSON list of versions such as [4, 5]", text, why)
	}
	if text == "" {
		return nil, nil
	}
	list := []any{text}
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&list); err != nil || d.More() || len(list) == 0 {
			return wrong("")
		}
	}
	var versions []int
	for _, item := range list {
		version, err := strconv.Atoi(plain(item)) // of a text or a number; everything else is none
		switch {
		case err != nil || version < 1:
			return wrong("")
		case slices.Contains(versions, version):
			return wrong(fmt.Sprintf(", which names version %d twice", version))
		}
		versions = append(versions, version)
	}
	return versions, nil
}

// contender is a version among which the step chooses, with what it reached on the validation split.
type contender struct {
	Version    int            `json:"version"`
	Parameters map[string]any `json:"parameters"` // those that not all contenders share
	Loss       float64        `json:"validation_loss"`
	Accuracy   *float64       `json:"validation_accuracy,omitempty"` // nil for regression

	dataset string // digest of its rows
}

// choose takes the version with the lowest validation loss, the earliest of equals, from several.
// It sees what training recorded and no test row.
func (e *evaluator) choose(ctx context.Context, versions []int) error {
	if e.Version = versions[0]; len(versions) == 1 {
		return nil
	}
	for _, version := range versions {
		c, err := e.contender(ctx, version)
		if err != nil {
			return err
		}
		e.contenders = append(e.contenders, c)
		if first := e.contenders[0]; c.dataset != first.dataset {
			return fault.AsConfiguration(fmt.Errorf("versions %d and %d learned from different datasets, %.16s and %.16s: their validation losses cannot be compared",
				first.Version, c.Version, first.dataset, c.dataset))
		}
	}
	shared := func(name string, value any) bool {
		return !slices.ContainsFunc(e.contenders, func(c contender) bool { return plain(c.Parameters[name]) != plain(value) })
	}
	for name, value := range maps.Clone(e.contenders[0].Parameters) {
		if shared(name, value) {
			for _, c := range e.contenders {
				delete(c.Parameters, name)
			}
		}
	}
	best := e.contenders[0]
	for _, c := range e.contenders {
		fields := []zap.Field{zap.Int("version", c.Version), zap.Any("parameters", c.Parameters), zap.Float64("validation_loss", c.Loss)}
		if c.Accuracy != nil {
			fields = append(fields, zap.Float64("validation_accuracy", *c.Accuracy))
		}
		e.log.Info("candidate", fields...)
		if c.Loss < best.Loss {
			best = c
		}
	}
	e.Version = best.Version
	e.log.Info("candidate is chosen", zap.Int("version", best.Version), zap.Float64("validation_loss", best.Loss), zap.Int("candidates", len(e.contenders)))
	return nil
}

// contender reads what the registry and the training database know of a version; its file stays where it is.
func (e *evaluator) contender(ctx context.Context, version int) (contender, error) {
	v, err := e.models.ModelVersion(ctx, e.Model, version)
	if err != nil {
		return contender{}, err
	}
	o, err := e.db.origin(ctx, inference.Model{Job: v.Tags[registry.TagJob], CodeDigest: v.Tags[registry.TagCode]})
	if err != nil {
		return contender{}, err
	}
	c := contender{Version: version, Parameters: map[string]any{}, dataset: cmp.Or(v.Tags[registry.TagRows], v.Tags[registry.TagDataset])}
	if values, ok := o.spec["parameters"].(map[string]any); ok {
		maps.Copy(c.Parameters, values)
	}
	for _, epoch := range o.epochs {
		if epoch.Epoch != o.best || epoch.Validation == nil || epoch.Validation.Rows == 0 {
			continue
		}
		c.Loss = epoch.Validation.MeanLoss()
		if o.task != string(evaluation.Regression) {
			accuracy := epoch.Validation.Accuracy()
			c.Accuracy = &accuracy
		}
		return c, nil
	}
	return contender{}, fault.AsConfiguration(fmt.Errorf("schema %q of the training database has no validation loss of version %d to choose by; evaluate in the schema the version was trained in", e.Schema, version))
}

// sweep is the contenders for the report; nil if there was no choice.
func (e *evaluator) sweep() *report.Sweep {
	if len(e.contenders) == 0 {
		return nil
	}
	names := map[string]bool{}
	for _, c := range e.contenders {
		for name := range c.Parameters {
			names[name] = true
		}
	}
	s := &report.Sweep{Parameters: slices.Sorted(maps.Keys(names))}
	for _, c := range e.contenders {
		row := report.Contender{Version: strconv.Itoa(c.Version), Chosen: c.Version == e.Version, Loss: c.Loss, Accuracy: math.NaN()}
		if c.Accuracy != nil {
			row.Accuracy = *c.Accuracy
		}
		for _, name := range s.Parameters {
			value := ""
			if v, ok := c.Parameters[name]; ok {
				value = plain(v)
			}
			row.Values = append(row.Values, value)
		}
		s.Contenders = append(s.Contenders, row)
	}
	return s
}

// sweepTag says what the chosen version was chosen from.
func (e *evaluator) sweepTag() string {
	var versions []string
	for _, c := range e.contenders {
		versions = append(versions, strconv.Itoa(c.Version))
	}
	return fmt.Sprintf("lowest validation loss of %d candidates: versions %s", len(versions), strings.Join(versions, ", "))
}
