package inference

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

// maxProfile bounds what a profile is made of, in bytes.
const maxProfile = 16 << 20

// profile is what monitoring compares the calls of a version with; the SQL function drift and insitu_runtime/drift.py read it.
type profile struct {
	Rows       int64           `json:"rows"` // of the train split, for the features
	Features   json.RawMessage `json:"features"`
	Prediction bins            `json:"prediction"`           // of the test split
	Confidence *bins           `json:"confidence,omitempty"` // probability of the label; none for a regression
}

// bins are labels, or the edges between ranges, of which there is one more.
type bins struct {
	Labels []string  `json:"labels,omitempty"`
	Edges  []float64 `json:"edges,omitempty"`
	Counts []int64   `json:"counts"`
}

// FetchProfile makes the profile of a version from what train-model and evaluate-model left with its run.
// It is nil for a version of which they left none, as older releases did.
func FetchProfile(ctx context.Context, r Registry, v Version) ([]byte, error) {
	version, err := r.ModelVersion(ctx, v.Name, v.Version)
	if err != nil {
		return nil, err
	}
	run, err := r.GetRun(ctx, version.RunID)
	if err != nil {
		return nil, err
	}
	var p profile
	var evaluated struct {
		Candidate evaluation.Metrics `json:"candidate"`
	}
	for path, into := range map[string]any{registry.ArtifactInputs: &p, registry.ArtifactMetrics: &evaluated} {
		text, err := r.DownloadArtifact(ctx, run, path, maxProfile)
		if errors.Is(err, registry.ErrNotFound) {
			return nil, nil
		}
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			return nil, fmt.Errorf("%s of model %q version %d: %w", path, v.Name, v.Version, err)
		}
	}
	m := evaluated.Candidate
	if m.Task == evaluation.Regression {
		if m.Estimates == nil {
			return nil, nil
		}
		p.Prediction = bins{Edges: m.Estimates.Edges, Counts: m.Estimates.Counts}
		return json.Marshal(p)
	}
	for _, c := range m.Classes {
		p.Prediction.Labels = append(p.Prediction.Labels, c.Name)
		p.Prediction.Counts = append(p.Prediction.Counts, c.Predicted)
	}
	p.Confidence = &bins{}
	for i, b := range m.Calibration {
		if i > 0 {
			p.Confidence.Edges = append(p.Confidence.Edges, float64(i)/float64(len(m.Calibration)))
		}
		p.Confidence.Counts = append(p.Confidence.Counts, b.Rows)
	}
	return json.Marshal(p)
}

// StoreProfile keeps the profile of a deployed version; the same one again changes nothing.
func StoreProfile(ctx context.Context, c *postgres.Conn, schema string, v Version, text []byte) error {
	table := postgres.Ident(schema, "profiles")
	_, err := c.Exec(ctx, "insert into "+table+" as p (name, version, profile) values ($1, $2, $3::text::json) on conflict (name, version) do update set profile = excluded.profile, stored_at = excluded.stored_at where p.profile::text <> excluded.profile::text",
		v.Name, v.Version, string(text))
	return postgres.Wrap(err, fmt.Sprintf("store the profile of model %q version %d in %s", v.Name, v.Version, table))
}
