// Package trainmodel is the step that trains an ML app inside the database and registers the result.
package trainmodel

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/assets"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/lineage"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/mlapp/parameterflags"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/training"
)

// Spec declares the step.
func Spec() step.Spec {
	zero := 0.0
	flags := []step.Flag{
		{Name: "schema", Usage: "schema in the training database", Required: true},
		{Name: "code-digest", Usage: "digest of the deployed ML app (output of deploy-training-code)", Required: true},
		{Name: "dataset-digest", Usage: "digest of the dataset (output of upload-dataset)", Required: true},
	}
	flags = append(flags, parameterflags.Flags()...)
	flags = append(flags, []step.Flag{
		{Name: "seed", Usage: "seed of the initial state and of everything random in training", Kind: step.Int, Default: "0", Min: &zero},
		{Name: "model-name", Usage: "registered model; when unset, the ML app's. Tenants that share an MLflow server need one each"},
		{Name: "warm-start", Usage: "version number, or alias, of the registered model whose weights the training starts from; when unset, or while nobody holds the alias, the learner's own initial state"},
		{Name: "experiment", Usage: "MLflow experiment; when unset, the ML app's name"},
		{Name: "git-sha", Usage: "commit of the ML app, for the tag git_sha; when unset, the one it was deployed with"},
		{Name: "cache-bytes", Usage: "most bytes of packs that the session of a shard keeps in memory from one epoch to the next; a shard with more is read from its table in every epoch", Kind: step.Int, Default: strconv.Itoa(training.DefaultCache), Min: &zero},
		{Name: "lock-wait", Usage: "how long to wait while another driver trains the same job", Kind: step.Duration, Default: "30s"},
	}...)
	flags = append(flags, services.TrainingFlags()...)
	flags = append(flags, services.MLflowFlags()...)
	return step.Spec{
		Name:    "train-model",
		Summary: "Trains the ML app inside the database, epoch by epoch, and registers the model in MLflow",
		Description: "The examples do not leave the database: each shard of the dataset is trained on by a session of its own (by its segment on Greenplum), " +
			"then the shards are merged, the validation split is scored where it lies, and one statement records the epoch. " +
			"The test split is not touched.\n\n" +
			"A training is a job: data, code, parameters and seed, and the version it starts from if there is one. " +
			"Data is the fingerprint of the rows as they lie in the database now: one changed byte is another job. " +
			"The step can be killed at any moment; the next one resumes after the last recorded epoch and ends with the same bytes. " +
			"When it is stopped, it cancels its statements in the database before it ends. " +
			"A job whose model is registered already is not trained again: `trained` is `false`, `reason` says so, and the outputs are that version's.\n\n" +
			"The best epoch by validation loss becomes the model; a `patience` among the parameters stops the training after so many epochs without a better one. " +
			"It is exported as ONNX and registered as one model version a job, which `mlflow.pyfunc.load_model` can load. " +
			"The version has the tags `insitu.job`, `insitu.code-digest`, `insitu.dataset-digest`, `insitu.rows-digest`, `insitu.onnx-digest`, `insitu.tenant` and `git_sha`.\n\n" +
			"A registered model belongs to one tenant: the schema and database that first trained it, which its tag `insitu.tenant` names. " +
			"The step refuses another tenant's before it trains; `--model-name` gives yours a name of its own.\n\n" +
			"The learning curve goes to MLflow epoch by epoch: `loss`, `accuracy`, `validation_loss`, `validation_accuracy`, `rows_per_second`, `epoch_seconds`, `shard_skew`. " +
			"A point that MLflow does not take is sent again at the end. " +
			"Where each shard was trained (its segment, or its session), its rows, packs and pace are in the log, in the run's artifact `placement.json` and in the report of evaluate-model. " +
			"On Greenplum a shard that was trained on the coordinator is an error.\n\n" +
			"How the inputs of the train split are distributed, which monitoring compares the model's calls with, is the run's artifact `monitoring/inputs.json`: bounds and counts, made in the database.",
		Flags: flags,
		Outputs: []step.Output{
			{Name: "model-name", Usage: "registered model"},
			{Name: "model-version", Usage: "version of this job"},
			{Name: "run-id", Usage: "MLflow run of the version"},
			{Name: "job", Usage: "digest of data, code, parameters and seed"},
			{Name: "epochs-trained", Usage: "recorded epochs of the job"},
			{Name: "trained", Usage: "true, or false if the version was there already"},
			{Name: "validation-accuracy", Usage: "of the model's epoch; empty for regression and without a validation split"},
			{Name: "reason", Usage: "one line that says what was done"},
		},
		Examples: []step.Example{{
			Text:    "Train for three epochs with a smaller learning rate",
			Command: `train-model --schema=team-a --code-digest=4f0c... --dataset-digest=91ab... --epochs=3 --parameters='{"learning_rate": 0.001}'`,
		}},
		Run: run,
	}
}

func run(ctx context.Context, in *step.Input) error {
	database, mlflow := services.Training(in), services.MLflow(in)
	w := wanted{
		schema: in.String("schema"), model: in.String("model-name"), code: in.String("code-digest"), dataset: in.String("dataset-digest"),
		parameters: func(m *mlapp.Manifest) (map[string]any, error) { return parameterflags.Resolve(in, m) },
		seed:       int64(in.Int("seed")), gitSHA: in.String("git-sha"), start: in.String("warm-start"),
	}
	experiment, wait := in.String("experiment"), in.Duration("lock-wait")
	if err := in.Validate(mlflow.Check(), changelog.CheckSchema(w.schema), checkModel(w.model),
		checkDigest("code-digest", w.code), checkDigest("dataset-digest", w.dataset), checkWait(wait)); err != nil {
		return err
	}
	models, err := registry.New(mlflow.Registry())
	if err != nil {
		return err
	}
	p, err := w.plan(ctx, database, models)
	if err != nil {
		return err
	}
	if experiment == "" {
		experiment = p.manifest.Name
	}
	db := services.TrainingDatabase(in, p.dialect)
	packs := assets.PacksRef(db, w.schema, p.data.Table)
	in.Reads(packs, assets.ReleasesRef(db, w.schema))

	rec := &record{models: models, plan: p, log: in.Log, profile: func(ctx context.Context) ([]byte, error) {
		return training.Profile(ctx, database, w.schema, p.data)
	}}
	if err := rec.claim(ctx); err != nil {
		return err
	}
	driver, err := training.Open(ctx, database, p.job, training.Options{Schema: w.schema, LockWait: wait, Cache: int64(in.Int("cache-bytes")), Epoch: rec.epoch(ctx), Progress: in.Progress})
	if err != nil {
		return err
	}
	defer driver.Close() // keeps the lock until the version is registered

	model, trained, err := driver.Model(ctx)
	if err != nil {
		return err
	}
	version, registered, err := rec.registered(ctx)
	if err != nil {
		return err
	}
	result := outcome{version: version, model: model}
	if trained && registered {
		err = rec.confirm(ctx, version, model)
	} else {
		result, err = rec.train(ctx, driver, experiment)
	}
	if err != nil {
		return err
	}
	curve, err := driver.Epochs(ctx)
	if err != nil {
		return err
	}
	result.write(in, p, curve)
	in.Writes(result.asset(models.Address(), p, curve, packs))
	return nil
}

// outcome is what the step ends with.
type outcome struct {
	version registry.ModelVersion
	model   training.Model
	created bool // the version, by this step
}

func (o outcome) write(in *step.Input, p plan, curve []training.Epoch) {
	reason := fmt.Sprintf("registered version %d: epoch %d of %d was the best", o.version.Version, o.model.Epoch, len(curve))
	if !o.created {
		reason = fmt.Sprintf("same data, code and parameters as version %d", o.version.Version)
	}
	if p.start != "" {
		reason += "; started from " + p.start
	}
	accuracy := ""
	for _, e := range curve {
		if e.Epoch == o.model.Epoch && e.Validation != nil && p.accuracy() {
			accuracy = significant(e.Validation.Accuracy())
		}
	}
	placement := training.Placement(curve)
	for _, s := range placement {
		in.Log.Info("shard", zap.Int("shard", s.Shard), zap.String("place", s.Place()), zap.Int64("rows", s.Rows), zap.Int("packs", s.Packs),
			zap.Float64("seconds", s.Seconds), zap.Float64("rows_per_second", s.RowsPerSecond()))
	}
	in.Log.Info("placement", zap.Int("shards", len(placement)), zap.Float64("skew", training.Skew(placement)))
	in.Log.Info("model", zap.String("model", o.version.Name), zap.Int("version", o.version.Version), zap.Bool("trained", o.created), zap.String("reason", reason))
	in.Output("model-name", o.version.Name)
	in.Output("model-version", strconv.Itoa(o.version.Version))
	in.Output("run-id", o.version.RunID)
	in.Output("job", p.job.ID)
	in.Output("epochs-trained", strconv.Itoa(len(curve)))
	in.Output("trained", strconv.FormatBool(o.created))
	in.Output("validation-accuracy", accuracy)
	in.Output("reason", reason)
}

// asset describes the version as its training did, whenever that was.
func (o outcome) asset(registryURL string, p plan, curve []training.Epoch, packs lineage.Dataset) lineage.Model {
	m := lineage.Model{
		Registry: registryURL, Name: o.version.Name, Version: o.version.Version, SHA256: o.model.ONNXDigest, TrainedOn: []lineage.Dataset{packs},
		Parameters: map[string]string{"seed": strconv.FormatInt(p.job.Spec.Seed, 10)}, Metrics: map[string]string{},
		Properties: map[string]string{"job": p.job.ID, "code_digest": p.job.Release.Digest, "dataset_digest": p.job.Dataset, "rows_digest": p.job.Spec.Rows,
			"tenant": p.tenant, "run_id": o.version.RunID, "git_sha": p.gitSHA},
	}
	for name, value := range p.job.Spec.Parameters {
		m.Parameters[name] = plain(value)
	}
	for _, e := range curve {
		if e.Epoch != o.model.Epoch {
			continue
		}
		m.Metrics["loss"] = significant(e.Train().MeanLoss())
		if e.Validation != nil {
			m.Metrics["validation_loss"] = significant(e.Validation.MeanLoss())
			if p.accuracy() {
				m.Metrics["validation_accuracy"] = significant(e.Validation.Accuracy())
			}
		}
	}
	return m
}

// significant prints six significant digits.
func significant(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }

func checkModel(name string) error {
	if name == "" {
		return nil
	}
	if err := mlapp.CheckModel(name); err != nil {
		return fmt.Errorf("--model-name is %w", err)
	}
	return nil
}

func checkDigest(flag, value string) error {
	if value != "" && (len(value) != 64 || strings.Trim(value, "0123456789abcdef") != "") {
		return fmt.Errorf("--%s is %q, expected 64 hexadecimal digits in lower case", flag, value)
	}
	return nil
}

func checkWait(d time.Duration) error {
	if d < 0 {
		return errors.New("--lock-wait is negative, expected 0s or more")
	}
	return nil
}
