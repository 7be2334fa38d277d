package evaluatemodel

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	datasets "github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/report"
	"github.com/insitu-ml/insitu/internal/training"
)

// page puts together what the report tells.
func (e *evaluator) page(r *result, candidate inference.Model, champ *champion, data dataset, o origin, examples [][]byte) (report.Report, error) {
	p := report.Report{
		Model: e.Model, Version: strconv.Itoa(e.Version), Alias: e.Alias,
		Decision: r.Decision, Tolerance: r.Thresholds.Tolerance, Candidate: r.Candidate, Champion: r.Champion,
		Sweep: e.sweep(), BestEpoch: o.best, Features: data.Columns,
	}
	if r.Champion.Scored() && r.Champion.OtherData {
		about := "both were split by what is in a row and by the same seed, so none of these test rows was among those it learned from."
		if r.Champion.MayKnow {
			about = "that was split in another way, so it may have learned some of these test rows, which flatters it."
		}
		p.Notes = append(p.Notes, fmt.Sprintf("Champion version %s was trained on another dataset (%.16s…): %s", r.Champion.Version, champ.model.DatasetDigest, about))
	}
	for _, epoch := range o.epochs {
		point := report.Epoch{Epoch: epoch.Epoch}
		train := epoch.Train()
		point.TrainLoss, point.TrainScore = means(&train, r.Candidate.Task)
		point.ValidationLoss, point.ValidationScore = means(epoch.Validation, r.Candidate.Task)
		p.Curve = append(p.Curve, point)
	}
	shards := training.Placement(o.epochs)
	p.Placement, p.Skew = placement(shards), training.Skew(shards)
	mistakes, err := pictured(data, r.Candidate.Worst, examples)
	if err != nil {
		return p, err
	}
	p.Mistakes = mistakes
	p.Dataset = described(data)
	p.Origin = facts(
		"Dataset digest", data.Digest, "Code digest", candidate.CodeDigest, "Job", candidate.Job,
		"Model digest", candidate.Digest, "ML app", o.app, "Git commit", candidate.GitSHA)
	p.Parameters = parameters(o.spec)
	p.Libraries = libraries(candidate.Manifest)
	return p, nil
}

// means are loss and accuracy of a row; NaN where there are none.
func means(s *training.Sums, task evaluation.Task) (loss, score float64) {
	switch {
	case s == nil || s.Rows == 0:
		return math.NaN(), math.NaN()
	case task == evaluation.Regression:
		return s.MeanLoss(), math.NaN()
	}
	return s.MeanLoss(), s.Accuracy()
}

func placement(shards []training.Shard) []report.Shard {
	var out []report.Shard
	for _, s := range shards {
		out = append(out, report.Shard{Shard: s.Shard, Place: s.Place(), Rows: s.Rows, Packs: int64(s.Packs), Seconds: s.Seconds, RowsPerSec: s.RowsPerSecond()})
	}
	return out
}

// pictured shows examples as pictures if the input's shape is an image's, else as features.
func pictured(data dataset, worst []evaluation.Mistake, examples [][]byte) ([]report.Mistake, error) {
	out := make([]report.Mistake, len(worst))
	for i, m := range worst {
		out[i].Mistake = m
	}
	layout, ok := report.LayoutOf(data.Input.Shape, data.Input.DType)
	if !ok {
		for i := range out {
			out[i].Features = report.Values(examples[i], data.Input.DType)
		}
		return out, nil
	}
	pictures, err := report.Pictures(layout, examples)
	for i := range pictures {
		out[i].Picture = pictures[i]
	}
	return out, err
}

func described(data dataset) report.Dataset {
	source := data.Source
	if data.Raw.Bytes > 0 {
		source += fmt.Sprintf(" (%d bytes)", data.Raw.Bytes)
	}
	input := data.Input.DType + " " + strings.Trim(strings.ReplaceAll(fmt.Sprint(data.Input.Shape), " ", " × "), "[]")
	out := report.Dataset{Facts: facts(
		"Source", source, "SHA-256", data.Raw.SHA256, "Format", data.Format, "Label", data.Label, "Input", input,
		"Split", fmt.Sprintf("%g, %g, %g with seed %d", data.Split.Fractions[0], data.Split.Fractions[1], data.Split.Fractions[2], data.Split.Seed),
		"Packs", fmt.Sprintf("up to %d rows, in %d shards, table %s", data.PackSize, data.Shards, data.Table))}
	for _, name := range datasets.SplitNames() {
		s := data.Splits.Of(name)
		out.Splits = append(out.Splits, report.Split{Name: name, Rows: s.Rows, Classes: s.Histogram})
	}
	return out
}

// facts pairs names and values and leaves out what is empty.
func facts(pairs ...string) []report.Fact {
	var out []report.Fact
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			out = append(out, report.Fact{Name: pairs[i], Value: pairs[i+1]})
		}
	}
	return out
}

// parameters are the hyper-parameters of the job's spec, and its seed.
func parameters(spec map[string]any) []report.Fact {
	values, _ := spec["parameters"].(map[string]any)
	var out []report.Fact
	for _, name := range slices.Sorted(maps.Keys(values)) {
		out = append(out, report.Fact{Name: name, Value: plain(values[name])})
	}
	for _, name := range []string{"epochs", "seed", "shards"} {
		if v, ok := spec[name]; ok && values[name] == nil {
			out = append(out, report.Fact{Name: name, Value: plain(v)})
		}
	}
	return out
}

// libraries are the versions that train-model recorded in insitu.json.
func libraries(manifest string) []report.Fact {
	var m struct {
		Libraries map[string]any `json:"libraries"`
	}
	if json.Unmarshal([]byte(manifest), &m) != nil {
		return nil
	}
	var out []report.Fact
	for _, name := range slices.Sorted(maps.Keys(m.Libraries)) {
		out = append(out, report.Fact{Name: name, Value: plain(m.Libraries[name])})
	}
	return out
}

func plain(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
