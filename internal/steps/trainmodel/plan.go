package trainmodel

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/training"
)

// wanted is what the user asked for.
type wanted struct {
	schema, code, dataset string
	parameters            func(*mlapp.Manifest) (map[string]any, error) // all of the app's, checked
	seed                  int64
	gitSHA                string
	model                 string // registered model; "": the app's
	start                 string // version or alias of the registered model to start from; "": none
}

// versions is what planning asks of the model registry.
type versions interface {
	ModelVersion(ctx context.Context, name string, version int) (registry.ModelVersion, error)
	Alias(ctx context.Context, name, alias string) (registry.ModelVersion, error)
}

// plan is a job that can be trained, and what the registry is told about it.
type plan struct {
	job       training.Job
	manifest  mlapp.Manifest
	data      *dataset.Manifest
	gitSHA    string
	model     string            // registered model
	tenant    string            // see training.Tenant
	libraries map[string]string // versions in the database, python among them; empty when the schema cannot tell
	dialect   postgres.Dialect  // of the database
	start     string            // in words, what the weights start from; "": nothing was asked for
}

// accuracy says whether there is such a thing.
func (p plan) accuracy() bool { return p.data.Task == dataset.Classification }

// plan reads the deployed app and the dataset, resolves the parameters and checks that it all fits.
// It writes nothing; all problems are returned at once, as a configuration fault.
func (w wanted) plan(ctx context.Context, config postgres.Config, models versions) (plan, error) {
	c, err := postgres.Connect(ctx, config, postgres.Options{})
	if err != nil {
		return plan{}, err
	}
	defer c.Close()
	release, releaseErr := training.ReadRelease(ctx, c, w.schema, w.code)
	data, dataErr := training.ReadDataset(ctx, c, w.schema, w.dataset)
	if err := both(releaseErr, dataErr); err != nil {
		return plan{}, err
	}
	p := plan{data: data, gitSHA: w.gitSHA, dialect: c.Dialect}
	if p.gitSHA == "" {
		p.gitSHA = release.GitSHA
	}
	if err := json.Unmarshal(release.Manifest, &p.manifest); err != nil {
		return plan{}, fmt.Errorf("manifest of release %q: %w", w.code, err)
	}
	p.model = cmp.Or(w.model, p.manifest.Model)
	parameters, err := w.parameters(&p.manifest)
	if err := errors.Join(err, fits(&p.manifest, data)); err != nil {
		return plan{}, fault.AsConfiguration(err)
	}
	if p.libraries, err = training.Libraries(ctx, c, w.schema); err != nil {
		return plan{}, err
	}
	if p.tenant, err = training.Tenant(ctx, c, w.schema); err != nil {
		return plan{}, err
	}
	p.job = training.Job{
		Release: release, Dataset: data.Digest, PackTable: data.Table, TrainRows: data.Splits.Train.Rows,
		Spec:   training.Spec{Input: training.InputOf(data), Parameters: parameters, Seed: w.seed, Shards: data.Shards},
		Epochs: int(parameters["epochs"].(int64)), Patience: int(parameters["patience"].(int64)),
	}
	if p.job.Spec.Rows, err = training.Fingerprint(ctx, config, w.schema, data); err != nil {
		return plan{}, err
	}
	if err := w.warm(ctx, c, models, &p); err != nil {
		return plan{}, err
	}
	p.job.ID, err = p.jobID(p.job.Spec.Start)
	return p, err
}

// jobID is the job's id if it starts from that job.
func (p plan) jobID(start string) (string, error) {
	spec := p.job.Spec
	return mlapp.Job{Code: p.job.Release.Digest, Dataset: p.job.Dataset, Rows: spec.Rows, Parameters: spec.Parameters, Seed: spec.Seed, Start: start}.ID()
}

// warm finds the job whose weights the training starts from. An alias that nobody holds yet is no mistake:
// the first of a series of trainings starts cold.
func (w wanted) warm(ctx context.Context, c *postgres.Conn, models versions, p *plan) error {
	if w.start == "" {
		return nil
	}
	number, err := strconv.Atoi(w.start)
	alias := err != nil
	var from registry.ModelVersion
	if alias {
		from, err = models.Alias(ctx, p.model, w.start)
	} else {
		from, err = models.ModelVersion(ctx, p.model, number)
	}
	switch {
	case errors.Is(err, registry.ErrNotFound) && alias:
		p.start = fmt.Sprintf("nothing: no version of model %q holds the alias %q yet", p.model, w.start)
		return nil
	case errors.Is(err, registry.ErrNotFound):
		return fault.AsConfiguration(fmt.Errorf("--warm-start=%s: model %q has no such version", w.start, p.model))
	case err != nil:
		return err
	}
	job := from.Tags[registry.TagJob]
	before, err := training.StartOf(ctx, c, w.schema, job)
	if err != nil {
		return fmt.Errorf("--warm-start=%s: version %d of model %q: %w", w.start, from.Version, p.model, err)
	}
	p.job.Spec.Start, p.start = job, fmt.Sprintf("version %d of model %q", from.Version, p.model)
	if !alias {
		return nil
	}
	// The alias moves to what was trained from its holder: with nothing else changed, that is the same job, not one more.
	if id, err := p.jobID(before); err != nil || id == job {
		p.job.Spec.Start = before
		return err
	}
	return nil
}

// both returns the errors of two reads: joined when they are both mistakes of the user, else the graver one.
func both(a, b error) error {
	switch {
	case a == nil, b == nil:
		return errors.Join(a, b)
	case fault.Of(a) == fault.Configuration && fault.Of(b) == fault.Configuration:
		return fault.AsConfiguration(errors.Join(a, b))
	case fault.Of(a) == fault.Configuration:
		return b
	}
	return a
}

// fits says why an app cannot be trained on a dataset.
func fits(m *mlapp.Manifest, data *dataset.Manifest) error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if m.Task != data.Task {
		problem("the ML app %q is for %s, the dataset for %s", m.Name, m.Task, data.Task)
	}
	if !slices.Equal(m.Input.Shape, data.Input.Shape) || m.Input.DType != data.Input.DType {
		problem("the ML app %q takes %s %v, the dataset holds %s %v", m.Name, m.Input.DType, m.Input.Shape, data.Input.DType, data.Input.Shape)
	}
	if len(m.Input.Labels) > 0 && !slices.Equal(m.Input.Labels, data.Classes) {
		problem("the ML app %q has the classes %q, the dataset %q", m.Name, m.Input.Labels, data.Classes)
	}
	if most := m.MaxShards; most != nil && data.Shards > *most {
		problem("the ML app %q says max_shards: %d, the dataset has %d shards: upload it again with --shards=%d", m.Name, *most, data.Shards, *most)
	}
	if data.Splits.Train.Rows == 0 {
		problem("the dataset has no rows in its train split")
	}
	return errors.Join(problems...)
}
