package evaluatemodel

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/registry"
)

// record stores the result with the version: report and numbers as artifacts, metrics of the run, tags.
// Doing it again changes nothing.
func (e *evaluator) record(ctx context.Context, r *result) error {
	version, err := e.models.ModelVersion(ctx, e.Model, e.Version)
	if err != nil {
		return err
	}
	run, err := e.models.GetRun(ctx, version.RunID)
	if err != nil {
		return err
	}
	numbers, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := e.models.UploadArtifact(ctx, run, registry.ArtifactReport, r.page); err != nil {
		return err
	}
	if err := e.models.UploadArtifact(ctx, run, registry.ArtifactMetrics, append(numbers, '\n')); err != nil {
		return err
	}
	var points []registry.Metric
	for _, m := range named(r.Candidate) {
		// The version's own time: the same point again is the same point.
		points = append(points, registry.Metric{Key: m.name, Value: m.value, Time: version.Created})
	}
	if err := e.models.LogMetrics(ctx, run.ID, points); err != nil {
		return err
	}
	list := tags(r)
	if len(e.contenders) > 0 {
		list = append(list, tag{"insitu.sweep", e.sweepTag()})
	}
	if r.liveReason != "" {
		list = append(list, tag{registry.TagLive, r.liveReason})
	}
	for _, t := range list {
		if err := e.models.SetVersionTag(ctx, e.Model, e.Version, t.name, t.value); err != nil {
			return err
		}
	}
	return nil
}

type metric struct {
	name  string
	value float64
}

// named are the metrics of the run: our names, then those of the original pipeline.
func named(m evaluation.Metrics) []metric {
	if m.Task == evaluation.Regression {
		return []metric{{"test_r2", m.R2}, {"test_rmse", m.RMSE}, {"test_mae", m.MAE}, {"testing_loss", m.RMSE * m.RMSE}}
	}
	return []metric{
		{"test_accuracy", m.Accuracy}, {"test_f1", m.MacroF1}, {"test_log_loss", m.LogLoss},
		{"testing_accuracy", m.Accuracy}, {"testing_loss", m.LogLoss}, {"accuracy_score", m.Accuracy}, {"f1_score", m.MacroF1},
	}
}

type tag struct{ name, value string }

// tags of the model version.
func tags(r *result) []tag {
	out := []tag{
		{"insitu.passed", strconv.FormatBool(r.Decision.Passed)},
		{"insitu.reason", r.Decision.Reason},
		{"insitu.champion-version", ""},
	}
	if r.Champion != nil {
		out[2].value = r.Champion.Version
	}
	if m := r.Candidate; m.Task == evaluation.Regression {
		return append(out, tag{"insitu.test-r2", significant(m.R2)}, tag{"insitu.test-rmse", significant(m.RMSE)})
	}
	return append(out,
		tag{"insitu.test-accuracy", significant(r.Candidate.Accuracy)},
		tag{"insitu.test-f1", significant(r.Candidate.MacroF1)},
		tag{"insitu.test-log-loss", significant(r.Candidate.LogLoss)})
}
