// Package monitor is the step beside the pipeline that watches the model in service: it measures drift and live accuracy
// and says, once, when the model should be trained again. It is part of the program insitu: insitu monitor.
package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/argo"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/monitoring"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
)

// registryWait is how long the registry may hold up a check, in all.
const registryWait = 30 * time.Second

// Report is what a person who ran the step is told.
type Report struct {
	Text string
	// Signal says that --exit-code was given and there is something to do.
	Signal bool
}

// Spec declares the step; tell gets the report at its end.
func Spec(tell func(Report)) step.Spec {
	one, zero := 1.0, 0.0
	mlflow := services.MLflowFlags()
	for i := range mlflow {
		mlflow[i].Required = false // without a registry the metrics are kept elsewhere
	}
	flags := []step.Flag{
		{Name: "inference-schema", Usage: "schema in the inference database", Required: true},
		{Name: "window", Usage: "how far back predictions are looked at", Kind: step.Duration, Default: "24h"},
		{Name: "max-psi", Usage: "population stability index above which a feature or the predictions have drifted", Kind: step.Float, Default: "0.2", Min: &zero},
		{Name: "max-accuracy-drop", Usage: "how far the live accuracy (R2 of a regression) may lie below that of the evaluation", Kind: step.Float, Default: "0.05", Min: &zero, Max: &one},
		{Name: "min-rows", Usage: "sampled predictions below which drift is not judged", Kind: step.Int, Default: "500", Min: &one},
		{Name: "min-truths", Usage: "predictions with a known truth below which accuracy is not judged", Kind: step.Int, Default: "100", Min: &one},
		{Name: "retrain", Usage: "ask for a retraining when a limit is crossed", Kind: step.Bool, Default: "false"},
		{Name: "cooldown", Usage: "after the end of a retraining, how long none is asked for", Kind: step.Duration, Default: "24h"},
		{Name: "check", Usage: "name of this check, such as the workflow's: the same one gets the same answer again"},
		{Name: "arguments", Usage: "parameters of the pipeline for the retraining, as a JSON object from name to value", Kind: step.JSON},
		{Name: "ended", Usage: "name of a retraining that has ended; nothing is measured then"},
		{Name: "result", Usage: "how it ended", Default: "ended"},
		{Name: "metrics", Usage: "file that all metrics are written to, for Prometheus' textfile collector; its name ends in .prom"},
		{Name: "exit-code", Usage: "end with exit code 3 when there is something to do: with --retrain when this check got a run to submit, else when a limit is crossed", Kind: step.Bool, Default: "false"},
	}
	flags = append(flags, services.InferenceFlags()...)
	flags = append(flags, mlflow...)
	return step.Spec{
		Name:    "monitor",
		Summary: "Measures drift and live accuracy of the model in service, and asks for a retraining when a limit is crossed",
		Description: "It runs as `insitu monitor`, by a schedule, and needs the inference database alone. " +
			"The database compares the sampled predictions of the window (`set_sampling`) with the profile of the active version: each feature, the predicted labels or values, and the probabilities of the labels, by the population stability index. " +
			"Where truths came in (`record_feedback`), the live accuracy is compared with that of the evaluation.\n\n" +
			"With `--retrain` and a crossed limit, the row of a retraining is added to the table `retrainings`, and the output `run` names the run to submit. " +
			"That happens once: while a retraining is open, and for the cool-down after its end, other checks get none, also those at the same moment. " +
			"`--ended` says that it has ended; so does a deployment since, or eight days without news.\n\n" +
			"The metrics `live_psi_...`, `live_accuracy`, `live_rows` and `live_truths` go to the run of the version in MLflow, if there is a registry; one that does not answer stops nothing. " +
			"`--metrics` names a file for all of them in Prometheus' text format. What is older than the sampling wants to keep is deleted.\n\n" +
			"A crossed limit is a result, not an error: the exit code is 0 unless `--exit-code` is given.",
		Flags: flags,
		Outputs: []step.Output{
			{Name: "crossed", Usage: "true or false: whether a limit is crossed"},
			{Name: "retrain", Usage: "true or false: whether this check got a run to submit"},
			{Name: "run", Usage: "name of that run; empty if there is none"},
			{Name: "arguments", Usage: "parameters of that run, the reason among them: a JSON list of name and value"},
			{Name: "reason", Usage: "one line that says which limit is crossed, or how things stand"},
			{Name: "psi", Usage: "largest population stability index that was judged; empty if none was"},
			{Name: "accuracy", Usage: "live accuracy; empty if it was not judged"},
		},
		Examples: []step.Example{{
			Text:    "See how the model is doing",
			Command: "insitu monitor --inference-schema=team-a --window=168h",
		}, {
			Text:    "Ask for a retraining if it has decayed; exit code 3 says that this check is to start it",
			Command: "insitu monitor --inference-schema=team-a --retrain=true --exit-code=true",
		}, {
			Text:    "Say that it has ended, so that the cool-down begins",
			Command: "insitu monitor --inference-schema=team-a --ended=retrain-team-a-v3-1f2e3d4c --result=Succeeded",
		}},
		Run: func(ctx context.Context, in *step.Input) error { return run(ctx, in, tell) },
	}
}

// settings are the step's own flags.
type settings struct {
	schema         string
	window         time.Duration
	limits         monitoring.Limits
	retrain        bool
	cooldown       time.Duration
	check          string
	arguments      map[string]any
	ended, result  string
	metrics        string
	signal         bool
	mlflow         services.MLflowConfig
	inferenceLogin postgres.Config
}

func run(ctx context.Context, in *step.Input, tell func(Report)) error {
	s := settings{
		schema: in.String("inference-schema"), window: in.Duration("window"),
		limits:  monitoring.Limits{PSI: in.Float("max-psi"), AccuracyDrop: in.Float("max-accuracy-drop"), Rows: int64(in.Int("min-rows")), Truths: int64(in.Int("min-truths"))},
		retrain: in.Bool("retrain"), cooldown: in.Duration("cooldown"), check: in.String("check"), arguments: in.JSON("arguments"),
		ended: in.String("ended"), result: in.String("result"), metrics: in.String("metrics"), signal: in.Bool("exit-code"), mlflow: services.MLflow(in), inferenceLogin: services.Inference(in),
	}
	if err := in.Validate(s.mlflow.Check(), changelog.CheckSchema(s.schema), s.checkWindow(), s.checkArguments(), s.checkMetrics()); err != nil {
		return err
	}
	for _, o := range []string{"run", "reason", "psi", "accuracy"} {
		in.Output(o, "")
	}
	in.Output("crossed", "false")
	in.Output("retrain", "false")
	in.Output("arguments", "[]")

	conn, err := postgres.Connect(ctx, s.inferenceLogin, postgres.Options{})
	if err != nil {
		return err
	}
	defer conn.Close()
	at := monitoring.Place{Conn: conn, Schema: s.schema}
	if s.ended != "" {
		if err := monitoring.End(ctx, at, s.ended, s.result); err != nil {
			return err
		}
		in.Log.Info("the retraining has ended", zap.String("run", s.ended), zap.String("result", s.result))
		tell(Report{Text: fmt.Sprintf("Retraining %s has ended.\n", s.ended)})
		return nil
	}
	return s.measure(ctx, in, at, tell)
}

// measure checks the active version and asks for a retraining if it has decayed.
func (s settings) measure(ctx context.Context, in *step.Input, at monitoring.Place, tell func(Report)) error {
	gone, err := monitoring.Prune(ctx, at)
	if err != nil {
		return err
	}
	if gone > 0 {
		in.Log.Info("deleted old predictions", zap.Int64("rows", gone))
	}
	state, err := monitoring.Read(ctx, at, s.window)
	if err != nil {
		return err
	}
	verdict := monitoring.Judge(state, s.limits)
	in.Log.Info("checked", zap.String("model", state.Model), zap.Int("version", state.Version), zap.Bool("crossed", verdict.Crossed), zap.String("reason", verdict.Reason))
	text := monitoring.Table(state, s.limits) + "Crossed: " + strconv.FormatBool(verdict.Crossed) + ": " + verdict.Reason + "\n"
	in.Output("crossed", strconv.FormatBool(verdict.Crossed))
	in.Output("reason", verdict.Reason)
	psi, accuracy := s.judged(state)
	in.Output("psi", psi)
	in.Output("accuracy", accuracy)
	if s.metrics != "" {
		metrics, err := monitoring.Metrics(s.schema, state, verdict)
		if err != nil {
			return err
		}
		if err := argo.WriteOutputs(filepath.Dir(s.metrics), map[string][]byte{filepath.Base(s.metrics): metrics}); err != nil {
			return err
		}
	}
	s.record(ctx, in, state)

	if !s.retrain || !verdict.Crossed {
		tell(Report{text, s.signal && verdict.Crossed && !s.retrain})
		return nil
	}
	answer, err := monitoring.Retrain(ctx, at, monitoring.Ask{Model: state.Model, Version: state.Version, Reason: verdict.Reason, Check: s.check, Cooldown: s.cooldown})
	if err != nil {
		return err
	}
	in.Log.Info("asked for a retraining", zap.String("run", answer.Run), zap.String("answer", answer.Why))
	if answer.Run != "" {
		list, err := s.parameters(verdict.Reason)
		if err != nil {
			return err
		}
		in.Output("retrain", "true")
		in.Output("run", answer.Run)
		in.Output("arguments", list)
	}
	tell(Report{text + "Asked for a retraining: " + answer.Why + "\n", s.signal && answer.Run != ""})
	return nil
}

// parameters are those of the run that is to be submitted, as Argo writes them.
func (s settings) parameters(reason string) (string, error) {
	type parameter struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	list := []parameter{{"inference-schema", s.schema}, {"reason", reason}}
	for _, name := range slices.Sorted(maps.Keys(s.arguments)) {
		value, ok := s.arguments[name].(string)
		if !ok {
			text, err := json.Marshal(s.arguments[name]) // a sweep, say
			if err != nil {
				return "", fmt.Errorf("parameter %q of the retraining: %w", name, err)
			}
			value = string(text)
		}
		list = append(list, parameter{name, value})
	}
	text, err := json.Marshal(list)
	return string(text), err
}

// judged are the largest index and the accuracy that the verdict is about, "" for none.
func (s settings) judged(state monitoring.State) (psi, accuracy string) {
	worst := math.Inf(-1)
	for _, d := range state.Drift {
		if d.PSI != nil && d.Rows >= s.limits.Rows {
			worst = max(worst, *d.PSI)
			psi = strconv.FormatFloat(worst, 'g', 6, 64)
		}
	}
	if state.Accuracy != nil && state.Truths >= s.limits.Truths {
		accuracy = strconv.FormatFloat(*state.Accuracy, 'g', 6, 64)
	}
	return psi, accuracy
}

// record sends the metrics to the version's run. A check goes on without the registry.
func (s settings) record(ctx context.Context, in *step.Input, state monitoring.State) {
	if s.mlflow.URI == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, registryWait)
	defer cancel()
	if err := s.send(ctx, state); err != nil {
		in.Log.Warn("the registry did not take the metrics", zap.Error(err))
	}
}

func (s settings) send(ctx context.Context, state monitoring.State) error {
	models, err := registry.New(s.mlflow.Registry())
	if err != nil {
		return err
	}
	version, err := models.ModelVersion(ctx, state.Model, state.Version)
	if err != nil {
		return err
	}
	now := time.Now()
	points := []registry.Metric{{Key: "live_rows", Value: float64(state.Rows()), Time: now}, {Key: "live_truths", Value: float64(state.Truths), Time: now}}
	worst := map[string]float64{}
	for _, d := range state.Drift {
		if d.PSI != nil {
			worst[d.Kind] = max(worst[d.Kind], *d.PSI)
		}
	}
	for kind, psi := range worst {
		points = append(points, registry.Metric{Key: "live_psi_" + kind, Value: psi, Time: now})
	}
	if state.Accuracy != nil {
		points = append(points, registry.Metric{Key: "live_accuracy", Value: *state.Accuracy, Time: now})
	}
	return models.LogMetrics(ctx, version.RunID, points)
}

func (s settings) checkWindow() error {
	if s.window <= 0 {
		return fmt.Errorf("--window is %s, expected a time such as 24h", s.window)
	}
	return nil
}

// checkMetrics refuses a name that the collector would not look at.
func (s settings) checkMetrics() error {
	if s.metrics != "" && filepath.Ext(s.metrics) != ".prom" {
		return fmt.Errorf("--metrics is %q, expected a file whose name ends in .prom", s.metrics)
	}
	return nil
}

func (s settings) checkArguments() error {
	for _, name := range []string{"inference-schema", "reason"} {
		if _, given := s.arguments[name]; given {
			return fmt.Errorf("--arguments has %q, which the check sets itself", name)
		}
	}
	return nil
}
