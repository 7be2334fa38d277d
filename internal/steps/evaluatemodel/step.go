// Package evaluatemodel is the step that scores a candidate against the champion and decides the gate.
package evaluatemodel

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/assets"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
)

// worstKept is how many mistakes the report shows.
const worstKept = 24

// Spec declares the step.
func Spec() step.Spec {
	zero, one := 0.0, 1.0
	flags := []step.Flag{
		{Name: "schema", Usage: "schema in the training database", Required: true},
		{Name: "model-name", Usage: "registered model", Required: true},
		{Name: "model-version", Usage: "version to evaluate, or a JSON list of candidates, of which the one with the lowest validation loss is evaluated", Required: true},
		{Name: "alias", Usage: "alias whose holder is the champion to beat", Default: "staging"},
		{Name: "min-accuracy", Usage: "least accuracy that passes (R2 for regression); when unset, the ML app's gate", Kind: step.Float, Min: &zero, Max: &one},
		{Name: "min-f1", Usage: "least macro-F1 that passes; when unset, the ML app's gate", Kind: step.Float, Min: &zero, Max: &one},
		{Name: "tolerance", Usage: "how far the accuracy may lie below the champion's; when unset, the ML app's gate", Kind: step.Float, Min: &zero, Max: &one},
	}
	flags = append(flags, services.TrainingFlags()...)
	flags = append(flags, services.MLflowFlags()...)
	flags = append(flags, services.LiveEvidenceFlags()...)
	return step.Spec{
		Name:    "evaluate-model",
		Summary: "Scores a model on held-out data, compares it with the champion and decides whether it passed",
		Description: "The registered ONNX files of the candidate and of the champion (the holder of the alias) predict the test split inside the training database; no data leaves it but labels, predictions and the examples of the worst mistakes. " +
			"The train and validation splits are not touched.\n\n" +
			"Of several candidates the step first takes the one with the lowest validation loss, as training recorded it: the test split takes no part in the choice. " +
			"The log, the report and `evaluation/metrics.json` list them all; the chosen version's tag `insitu.sweep` says how many there were, and which.\n\n" +
			"The candidate passes if it reaches the absolute thresholds and is not less accurate than the champion by more than the tolerance, on the same rows. " +
			"McNemar's test and a confidence interval of the difference are reported and decide nothing. " +
			"A champion that cannot be compared (other classes, another input), or that is the candidate itself, leaves the absolute thresholds; the reason says so. " +
			"With `--live-evidence` the calls count, too, that a shadow or canary sent to both the candidate and the champion in the inference database (see serving.md): " +
			"there must be at least so many, the candidate must have failed at none, and where the truth of at least so many came to light, it must not be less accurate there by more than the tolerance. " +
			"Too few calls are a reason not to pass. A candidate that holds the alias itself has none and needs none.\n\n" +
			"A model that does not pass is a result, not an error: the step ends with exit code 0 and `passed` is `false`.\n\n" +
			"The run of the version gets the metrics `test_accuracy`, `test_f1` and `test_log_loss` (`test_r2`, `test_rmse`, `test_mae` for regression) and, under their older names, `testing_accuracy`, `testing_loss`, `accuracy_score` and `f1_score`; " +
			"the version gets the tags `insitu.test-accuracy`, `insitu.test-f1`, `insitu.test-log-loss`, `insitu.passed`, `insitu.reason` and `insitu.champion-version`, with `--live-evidence` also `insitu.live-evidence`. " +
			"The report is stored as the run's artifact `evaluation/report.html`, the numbers as `evaluation/metrics.json`.\n\n" +
			"Numbers have six significant digits. A second run with the same champion gives the same outputs.",
		Flags: flags,
		Outputs: []step.Output{
			{Name: "model-name", Usage: "registered model"},
			{Name: "model-version", Usage: "version that was evaluated"},
			{Name: "passed", Usage: "true or false"},
			{Name: "accuracy", Usage: "accuracy on the test split; R2 for regression"},
			{Name: "f1", Usage: "macro-F1 on the test split; empty for regression"},
			{Name: "reason", Usage: "one line that says why it passed or not"},
			{Name: "champion-version", Usage: "version that holds the alias; empty if none does"},
			{Name: "report", Usage: "the evaluation as one HTML page", File: "report.html"},
		},
		Examples: []step.Example{{
			Text:    "Hold version 4 to 95 % accuracy, and to the holder of the alias staging less half a point",
			Command: "evaluate-model --schema=team-a --model-name=cifar_cnn --model-version=4 --min-accuracy=0.95 --tolerance=0.005",
		}, {
			Text:    "Let version 4 pass only if 500 live calls speak for it, too",
			Command: "evaluate-model --schema=team-a --model-name=cifar_cnn --model-version=4 --live-evidence=500 --inference-schema=team-a",
		}, {
			Text:    "Evaluate the best of three candidates",
			Command: "evaluate-model --schema=team-a --model-name=cifar_cnn --model-version='[4, 5, 6]'",
		}},
		Run: run,
	}
}

func run(ctx context.Context, in *step.Input) error {
	mlflow, training := services.MLflow(in), services.Training(in)
	o := options{
		Schema: in.String("schema"), Model: in.String("model-name"), Alias: in.String("alias"),
		MinAccuracy: optional(in, "min-accuracy"), MinF1: optional(in, "min-f1"), Tolerance: optional(in, "tolerance"),
	}
	versions, versionErr := parseVersions(in.String("model-version"))
	if err := in.Validate(mlflow.Check(), changelog.CheckSchema(o.Schema), versionErr, services.CheckLiveEvidence(in)); err != nil {
		return err
	}
	models, err := registry.New(mlflow.Registry())
	if err != nil {
		return err
	}
	conn, err := postgres.Connect(ctx, training, postgres.Options{})
	if err != nil {
		return err
	}
	defer conn.Close()

	if in.IsSet("live-evidence") {
		schema, inferenceDB := in.String("inference-schema"), services.Inference(in)
		o.LeastLive = in.Int("live-evidence")
		o.live = func(ctx context.Context, candidate, champion int) (evaluation.Live, error) {
			return inference.AskLive(ctx, inferenceDB, schema, o.Model, candidate, champion)
		}
	}
	e := evaluator{options: o, models: models, db: database{conn, o.Schema}, log: in.Log, progress: in.Progress}
	if err := e.choose(ctx, versions); err != nil {
		return fmt.Errorf("choose from %d versions of model %q: %w", len(versions), o.Model, err)
	}
	result, err := e.evaluate(ctx)
	if err != nil {
		return fmt.Errorf("evaluate model %q version %d: %w", e.Model, e.Version, err)
	}
	in.Reads(assets.Evaluated(models.Address(), result.Model, result.Version, assets.PacksRef(services.TrainingDatabase(in, conn.Dialect), o.Schema, result.packs))...)
	in.Output("model-name", result.Model)
	in.Output("model-version", strconv.Itoa(result.Version))
	in.Output("passed", strconv.FormatBool(result.Decision.Passed))
	in.Output("accuracy", significant(result.Candidate.Score()))
	in.Output("f1", "")
	if result.Candidate.Task == evaluation.Classification {
		in.Output("f1", significant(result.Candidate.MacroF1))
	}
	in.Output("reason", result.Decision.Reason)
	in.Output("champion-version", "")
	if result.Champion != nil {
		in.Output("champion-version", result.Champion.Version)
	}
	in.OutputFile("report", result.page)
	return nil
}

// options are the step's own flags; nil thresholds come from the ML app's gate.
type options struct {
	Schema, Model                 string
	Version                       int
	Alias                         string
	MinAccuracy, MinF1, Tolerance *float64

	LeastLive int // 0: live calls are not looked at
	live      func(ctx context.Context, candidate, champion int) (evaluation.Live, error)
}

func optional(in *step.Input, name string) *float64 {
	if v := in.Float(name); in.IsSet(name) {
		return &v
	}
	return nil
}

// significant prints six significant digits.
func significant(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }

// modelRegistry is what this step asks of the model registry.
type modelRegistry interface {
	inference.Registry
	Alias(ctx context.Context, name, alias string) (registry.ModelVersion, error)
	LogMetrics(ctx context.Context, runID string, metrics []registry.Metric) error
	SetVersionTag(ctx context.Context, name string, version int, key, value string) error
	UploadArtifact(ctx context.Context, run registry.Run, path string, content []byte) error
}

// evaluator does the work of the step.
type evaluator struct {
	options
	models   modelRegistry
	db       database
	log      *zap.Logger
	progress func(done, total int64)

	contenders []contender // that Version was chosen from; none if there was no choice
}

// result is what was found out.
type result struct {
	Model      string                `json:"model"`
	Version    int                   `json:"version"`
	Dataset    string                `json:"dataset"`
	Decision   evaluation.Decision   `json:"decision"`
	Thresholds evaluation.Thresholds `json:"thresholds"`
	Candidate  evaluation.Metrics    `json:"candidate"`
	Champion   *evaluation.Champion  `json:"champion,omitempty"`
	Live       *evaluation.Live      `json:"live,omitempty"`
	Contenders []contender           `json:"candidates,omitempty"`
	liveReason string
	page       []byte
	packs      string // table the test rows are in
}

func (e *evaluator) evaluate(ctx context.Context) (*result, error) {
	candidate, err := inference.Fetch(ctx, e.models, e.Model, e.Version)
	if err != nil {
		return nil, err
	}
	data, err := e.db.dataset(ctx, candidate.DatasetDigest)
	if err != nil {
		return nil, err
	}
	origin, err := e.db.origin(ctx, candidate)
	if err != nil {
		return nil, err
	}
	limits := e.thresholds(origin.gate)

	scores, err := e.score(ctx, candidate, data, 0)
	if errors.Is(err, evaluation.ErrNotFinite) {
		err = fmt.Errorf("%w; the training diverged: try a lower learning rate", err)
	}
	if err != nil {
		return nil, err
	}
	switch want := data.Splits.Test.Rows; {
	case want == 0:
		return nil, fmt.Errorf("dataset %.16s has no test rows: pack it again with a larger last fraction of upload-dataset --split", data.Digest)
	case scores.Rows() != want:
		return nil, fmt.Errorf("dataset %.16s has %d test rows in %s, expected %d: rows were deleted or added; drop the table and its row of datasets, then run upload-dataset again", data.Digest, scores.Rows(), data.packs, want)
	}
	r := &result{Model: e.Model, Version: e.Version, Dataset: data.Digest, Thresholds: limits, Candidate: scores.Metrics(), Contenders: e.contenders, packs: data.Table}
	champion, err := e.champion(ctx, candidate, data, scores)
	if err != nil {
		return nil, err
	}
	r.Champion = champion.asScored()
	r.Decision = evaluation.Decide(r.Candidate, r.Champion, limits)
	if err := e.weighLive(ctx, r); err != nil {
		return nil, err
	}
	e.log.Info("decided", zap.Bool("passed", r.Decision.Passed), zap.String("reason", r.Decision.Reason))

	examples, err := e.db.examples(ctx, data, r.Candidate.Worst)
	if err != nil {
		return nil, err
	}
	page, err := e.page(r, candidate, champion, data, origin, examples)
	if err != nil {
		return nil, err
	}
	if r.page, err = page.HTML(); err != nil {
		return nil, err
	}
	return r, e.record(ctx, r)
}

// weighLive adds what live calls say to the decision, if that was asked for.
func (e *evaluator) weighLive(ctx context.Context, r *result) error {
	if e.LeastLive == 0 {
		return nil
	}
	if r.Champion != nil && r.Champion.Same {
		r.liveReason = "not looked at: the version holds the alias itself"
		return nil
	}
	l := evaluation.Live{Candidate: r.Version}
	if r.Champion != nil {
		champion, err := strconv.Atoi(r.Champion.Version)
		if err != nil {
			return err
		}
		if l, err = e.live(ctx, r.Version, champion); err != nil {
			return err
		}
	}
	d := l.Decide(e.LeastLive, r.Thresholds.Tolerance)
	r.Live, r.liveReason, r.Decision = &l, d.Reason, r.Decision.And(d)
	e.log.Info("live evidence", zap.Bool("passed", d.Passed), zap.String("reason", d.Reason), zap.Any("calls", l))
	return nil
}

func (e *evaluator) thresholds(g mlapp.Gate) evaluation.Thresholds {
	pick := func(flag, app *float64, fallback float64) float64 {
		switch {
		case flag != nil:
			return *flag
		case app != nil:
			return *app
		}
		return fallback
	}
	return evaluation.Thresholds{
		MinAccuracy: pick(e.MinAccuracy, g.Accuracy, 0),
		MinF1:       pick(e.MinF1, g.F1, 0),
		Tolerance:   pick(e.Tolerance, g.Tolerance, defaultTolerance),
	}
}

// defaultTolerance is one point of accuracy: about what another seed changes on a few hundred test rows.
const defaultTolerance = 0.01
