package trainmodel

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/training"
)

// artifacts is the folder of the run that holds the model.
const artifacts = "model"

// pointWait is how long a point of the curve may hold up the training.
const pointWait = 10 * time.Second

// record keeps a job's run and model version in the registry.
//
// Whatever is done here can be done again by another process: runs and versions are found by the job's tag,
// and everything else says the same thing each time.
type record struct {
	models *registry.Client
	plan   plan
	log    *zap.Logger
	run    registry.Run
	curve  []training.Epoch
	// profile says how the inputs are distributed, see training.Profile.
	profile func(context.Context) ([]byte, error)
}

// registered returns the version of the job, if there is one.
func (r *record) registered(ctx context.Context) (registry.ModelVersion, bool, error) {
	versions, err := r.models.ModelVersions(ctx, r.plan.model, map[string]string{registry.TagJob: r.plan.job.ID})
	if err != nil || len(versions) == 0 {
		return registry.ModelVersion{}, false, err
	}
	return versions[0], true, nil
}

// claim makes the registered model this tenant's, or refuses to touch it.
//
// Versions of one name are compared with each other and replace each other, so they must come from one place.
// A model without an owner, from before there were owners or registered by hand, gets this one.
func (r *record) claim(ctx context.Context) error {
	owner, err := r.models.ClaimModel(ctx, r.plan.model, registry.TagTenant, r.plan.tenant)
	if err == nil && owner != r.plan.tenant {
		err = fault.AsConfiguration(fmt.Errorf("the registered model %q belongs to the training schema %q, and this is %q: choose another name with --model-name (the workflow's parameter model-name); "+
			"or, if this schema is the other one after a move, delete the tag %q of the registered model in MLflow", r.plan.model, owner, r.plan.tenant, registry.TagTenant))
	}
	return err
}

// train opens the run, drives the training and registers its model.
func (r *record) train(ctx context.Context, driver *training.Driver, experiment string) (outcome, error) {
	if err := r.begin(ctx, experiment); err != nil {
		return outcome{}, err
	}
	model, err := driver.Train(ctx)
	if err != nil {
		if ctx.Err() == nil && fault.Of(err) != fault.Temporary {
			r.fail()
		}
		return outcome{}, err
	}
	if r.curve == nil { // trained by an earlier driver
		if r.curve, err = driver.Epochs(ctx); err != nil {
			return outcome{}, err
		}
	}
	version, created, err := r.register(ctx, model)
	return outcome{version, model, created}, err
}

// begin finds or makes the run and says what is going to be trained.
func (r *record) begin(ctx context.Context, experiment string) error {
	id, err := r.models.EnsureExperiment(ctx, experiment)
	if err != nil {
		return err
	}
	job := r.plan.job
	r.run, err = r.models.EnsureRun(ctx, id, fmt.Sprintf("%s-%.12s", r.plan.manifest.Name, job.ID), r.tags(), registry.TagJob, registry.TagTenant)
	if err != nil {
		return err
	}
	if r.run.Status != registry.Running {
		if err := r.models.UpdateRun(ctx, r.run.ID, registry.Running); err != nil {
			return err
		}
	}
	r.log.Info("run", zap.String("run_id", r.run.ID), zap.String("job", job.ID), zap.String("url", r.models.RunURL(id, r.run.ID)))
	return r.models.LogParams(ctx, r.run.ID, r.parameters())
}

func (r *record) tags() map[string]string {
	tags := map[string]string{registry.TagJob: r.plan.job.ID, registry.TagCode: r.plan.job.Release.Digest, registry.TagDataset: r.plan.job.Dataset,
		registry.TagRows: r.plan.job.Spec.Rows, registry.TagTenant: r.plan.tenant}
	if r.plan.gitSHA != "" {
		tags[registry.TagGit] = r.plan.gitSHA
	}
	return tags
}

// parameters are the hyper-parameters and what else decides the result: MLflow refuses to change them,
// and the job's id makes sure that nobody tries.
func (r *record) parameters() map[string]string {
	job := r.plan.job
	out := map[string]string{"seed": strconv.FormatInt(job.Spec.Seed, 10), "shards": strconv.Itoa(job.Spec.Shards)}
	for name, value := range job.Spec.Parameters {
		out[name] = plain(value)
	}
	return out
}

// plain writes strings as they are and other values as JSON does.
func plain(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	text, err := json.Marshal(v)
	if err != nil { // resolved parameters are strings, booleans and finite numbers
		panic(err)
	}
	return string(text)
}

// epoch logs each epoch and adds it to the run's curves. A registry that is away does not stop the training.
func (r *record) epoch(ctx context.Context) func(training.Epoch, bool) {
	return func(e training.Epoch, resumed bool) {
		r.curve = append(r.curve, e)
		if resumed {
			r.log.Info("epoch was trained before", zap.Int("epoch", e.Epoch))
			return
		}
		train := e.Train()
		fields := []zap.Field{
			zap.Int("epoch", e.Epoch), zap.Int("epochs", r.plan.job.Epochs), zap.Float64("loss", train.MeanLoss()),
			zap.Float64("rows_per_second", e.RowsPerSecond()), zap.Float64("seconds", e.Seconds),
		}
		if r.plan.accuracy() {
			fields = append(fields, zap.Float64("accuracy", train.Accuracy()))
		}
		if e.Validation != nil {
			fields = append(fields, zap.Float64("validation_loss", e.Validation.MeanLoss()))
			if r.plan.accuracy() {
				fields = append(fields, zap.Float64("validation_accuracy", e.Validation.Accuracy()))
			}
		}
		r.log.Info("epoch", fields...)
		ctx, cancel := context.WithTimeout(ctx, pointWait)
		defer cancel()
		if err := r.models.LogMetrics(ctx, r.run.ID, r.points(e)); err != nil {
			r.log.Warn("the registry did not take the epoch's metrics; they are sent again at the end", zap.Int("epoch", e.Epoch), zap.Error(err))
		}
	}
}

// points are the epoch's values; their time is the checkpoint's, so that sending them again changes nothing.
func (r *record) points(epochs ...training.Epoch) (points []registry.Metric) {
	for _, e := range epochs {
		add := func(key string, value float64) {
			points = append(points, registry.Metric{Key: key, Value: value, Step: int64(e.Epoch), Time: e.Recorded})
		}
		train := e.Train()
		add("loss", train.MeanLoss())
		add("rows_per_second", e.RowsPerSecond())
		add("epoch_seconds", e.Seconds)
		add("shard_skew", training.Skew(e.Shards))
		if e.Validation != nil {
			add("validation_loss", e.Validation.MeanLoss())
		}
		if r.plan.accuracy() {
			add("accuracy", train.Accuracy())
			if e.Validation != nil {
				add("validation_accuracy", e.Validation.Accuracy())
			}
		}
	}
	return points
}

// register makes the run complete and its model a version of the registered model, the only one of the job.
func (r *record) register(ctx context.Context, model training.Model) (registry.ModelVersion, bool, error) {
	version, found, err := r.registered(ctx)
	if err != nil {
		return registry.ModelVersion{}, false, err
	}
	if found {
		if err := same(version, model); err != nil {
			return registry.ModelVersion{}, false, err
		}
	}
	if err := r.models.LogMetrics(ctx, r.run.ID, r.points(r.curve...)); err != nil {
		return registry.ModelVersion{}, false, err
	}
	created := false
	if !found {
		if err := r.describe(ctx, model); err != nil {
			return registry.ModelVersion{}, false, err
		}
		if err := r.claim(ctx); err != nil { // two that claimed a model without an owner at once may both have got it before
			return registry.ModelVersion{}, false, err
		}
		tags := r.tags()
		tags[registry.TagONNX] = model.ONNXDigest
		if version, created, err = r.models.EnsureModelVersion(ctx, r.plan.model, r.run, artifacts, registry.TagJob, tags); err != nil {
			return registry.ModelVersion{}, false, err
		}
	}
	return version, created, r.models.UpdateRun(ctx, r.run.ID, registry.Finished)
}

// same refuses a version whose file is another than the database's model of the same job.
func same(version registry.ModelVersion, model training.Model) error {
	if version.Tags[registry.TagONNX] == model.ONNXDigest {
		return nil
	}
	return fault.AsPermanent(fmt.Errorf("version %d of model %q has the same data, code and parameters, but its ONNX file has SHA-256 %q and the database's %q: "+
		"the job was trained again with other Python libraries; delete that version in MLflow or choose another seed",
		version.Version, version.Name, version.Tags[registry.TagONNX], model.ONNXDigest))
}

// confirm checks a version that was registered before, and ends its run if the step was killed before it could.
func (r *record) confirm(ctx context.Context, version registry.ModelVersion, model training.Model) error {
	if err := same(version, model); err != nil {
		return err
	}
	if version.Tags[registry.TagTenant] == "" { // registered before there was this tag
		if err := r.models.SetVersionTag(ctx, version.Name, version.Version, registry.TagTenant, r.plan.tenant); err != nil {
			return err
		}
	}
	run, err := r.models.GetRun(ctx, version.RunID)
	if err != nil || run.Status == registry.Finished {
		return err
	}
	return r.models.UpdateRun(ctx, run.ID, registry.Finished)
}

// describe uploads the model's files and the facts that are known at the end only.
func (r *record) describe(ctx context.Context, model training.Model) error {
	files, err := r.files(model)
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := r.models.UploadArtifact(ctx, r.run, artifacts+"/"+name, content); err != nil {
			return err
		}
	}
	placement := training.Placement(r.curve)
	text, err := json.MarshalIndent(placement, "", " ")
	if err != nil {
		return fmt.Errorf("write the placement: %w", err)
	}
	if err := r.models.UploadArtifact(ctx, r.run, "placement.json", text); err != nil {
		return err
	}
	inputs, err := r.profile(ctx)
	if err != nil {
		return err
	}
	if err := r.models.UploadArtifact(ctx, r.run, registry.ArtifactInputs, inputs); err != nil {
		return err
	}
	var rows []string
	for _, s := range placement {
		rows = append(rows, strconv.FormatInt(s.Rows, 10))
	}
	// Tags, not parameters: what a resumed training sees may be newer than what the first one saw.
	facts := map[string]string{
		"insitu.best-epoch": strconv.Itoa(model.Epoch), "insitu.shard-rows": strings.Join(rows, ","),
		"insitu.database": r.plan.dialect.Version, registry.TagONNX: model.ONNXDigest,
	}
	for name, version := range r.plan.libraries {
		facts["insitu.library."+name] = version
	}
	for name, value := range facts {
		if err := r.models.SetRunTag(ctx, r.run.ID, name, value); err != nil {
			return err
		}
	}
	return nil
}

// files are the MLflow model. insitu.json is what the inference database knows of it.
func (r *record) files(model training.Model) (map[string][]byte, error) {
	job, data := r.plan.job, r.plan.data
	outputs := max(1, len(data.Classes))
	details := map[string]any{
		"app": r.plan.manifest.Name, "task": data.Task, "classes": data.Classes, "columns": data.Columns, "input": job.Spec.Input, "libraries": r.plan.libraries,
		"job": job.ID, "code_digest": job.Release.Digest, "dataset_digest": data.Digest, "git_sha": r.plan.gitSHA,
		"parameters": job.Spec.Parameters, "seed": job.Spec.Seed, "shards": job.Spec.Shards, "epoch": model.Epoch,
	}
	packages := maps.Clone(r.plan.libraries)
	delete(packages, "python")
	return registry.ONNXModel{
		ONNX:   model.ONNX,
		Input:  registry.Tensor{DType: data.Input.DType, Shape: append([]int{-1}, data.Input.Shape...)},
		Output: registry.Tensor{DType: "float32", Shape: []int{-1, outputs}},
		RunID:  r.run.ID, Packages: packages, Python: r.plan.libraries["python"], Created: model.Created, Details: details,
	}.Files()
}

// fail marks the run of a training that cannot go on; the error itself is the step's.
func (r *record) fail() {
	ctx, cancel := context.WithTimeout(context.Background(), pointWait)
	defer cancel()
	if err := r.models.UpdateRun(ctx, r.run.ID, registry.Failed); err != nil {
		r.log.Warn("the registry did not take the run's status", zap.String("run_id", r.run.ID), zap.Error(err))
	}
}
