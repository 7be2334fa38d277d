// Package inference deploys models to the inference database, proves that they
// predict there what they predicted where they were trained, and switches between them.
//
// It stores and compares; predicting is the work of the SQL functions in the database.
package inference

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/registry"
)

// Registry is what this package asks of the model registry.
type Registry interface {
	ModelVersion(ctx context.Context, name string, version int) (registry.ModelVersion, error)
	GetRun(ctx context.Context, id string) (registry.Run, error)
	DownloadArtifact(ctx context.Context, run registry.Run, path string, limit int64) ([]byte, error)
}

// Model is one version of a model, complete with its bytes.
type Model struct {
	Name     string
	Version  int
	Digest   string // SHA-256 of ONNX, hexadecimal
	Manifest string // JSON: insitu.json of the registered model
	Metrics  string // JSON: the run's metrics by name
	GitSHA   string // "" when the registry has none
	ONNX     []byte

	// What it was made from; the parity check finds the originals by these.
	Job, CodeDigest, DatasetDigest string
}

// Limits of what is downloaded, in bytes. One bytea value holds less than 1 GB.
const (
	maxONNX     = 1_000_000_000
	maxManifest = 16 << 20
)

// Fetch reads a model version from the registry and verifies its bytes.
func Fetch(ctx context.Context, r Registry, name string, version int) (Model, error) {
	v, err := r.ModelVersion(ctx, name, version)
	if err != nil {
		return Model{}, err
	}
	doing := fmt.Sprintf("model %q version %d", name, version)
	m := Model{Name: name, Version: version, GitSHA: v.Tags[registry.TagGit], Job: v.Tags[registry.TagJob], CodeDigest: v.Tags[registry.TagCode], DatasetDigest: v.Tags[registry.TagDataset]}
	for _, tag := range []string{registry.TagJob, registry.TagCode, registry.TagDataset, registry.TagONNX} {
		if v.Tags[tag] == "" {
			return Model{}, fmt.Errorf("%s has no tag %q in the registry; only models registered by train-model can be deployed", doing, tag)
		}
	}
	run, err := r.GetRun(ctx, v.RunID)
	if err != nil {
		return Model{}, err
	}
	if m.ONNX, err = r.DownloadArtifact(ctx, run, "model/model.onnx", maxONNX); err != nil {
		return Model{}, err
	}
	manifest, err := r.DownloadArtifact(ctx, run, "model/insitu.json", maxManifest)
	if err != nil {
		return Model{}, err
	}
	sum := sha256.Sum256(m.ONNX)
	if m.Digest = hex.EncodeToString(sum[:]); !strings.EqualFold(m.Digest, v.Tags[registry.TagONNX]) {
		return Model{}, fmt.Errorf("%s: model.onnx has SHA-256 %s, the registry's tag %q says %s; the artifact was changed after it was registered", doing, m.Digest, registry.TagONNX, v.Tags[registry.TagONNX])
	}
	if m.Manifest, err = compact(manifest); err != nil {
		return Model{}, fmt.Errorf("%s: insitu.json: %w", doing, err)
	}
	metrics, err := json.Marshal(run.Metrics) // sorted by name; MLflow keeps no NaN
	if err != nil {
		return Model{}, fmt.Errorf("%s: metrics: %w", doing, err)
	}
	m.Metrics = string(metrics)
	return m, nil
}

// compact checks that text is a JSON object and takes the space out.
func compact(text []byte) (string, error) {
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		return "", fmt.Errorf("expected a JSON object: %w", err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return "", err
	}
	return out.String(), nil
}

// changeset inserts the model's row; its undo also takes the model out of service,
// which makes the version that was active before it the active one.
func (m Model) changeset() (changelog.Changeset, error) {
	name, err := changelog.Literal(m.Name)
	if err != nil {
		return changelog.Changeset{}, fault.AsConfiguration(fmt.Errorf("model name %q: %w", m.Name, err))
	}
	manifest, err := changelog.Literal(m.Manifest)
	if err != nil {
		return changelog.Changeset{}, fmt.Errorf("manifest of model %q: %w", m.Name, err)
	}
	metrics, err := changelog.Literal(m.Metrics)
	if err != nil {
		return changelog.Changeset{}, fmt.Errorf("metrics of model %q: %w", m.Name, err)
	}
	where := fmt.Sprintf("where version = %d and name =\n%s", m.Version, name)
	return changelog.Changeset{
		ID:      fmt.Sprintf("model-%s-%d-%.12s", changelog.Slug(m.Name), m.Version, m.made()),
		Comment: fmt.Sprintf("model %s version %d, SHA-256 %s", m.Name, m.Version, m.Digest),
		SQL: fmt.Sprintf("insert into models (name, version, digest, manifest, metrics)\nselect\n%s,\n%d, '%s',\ncast(%s\nas json), cast(%s\nas json)\nwhere not exists (select 1 from models %s);",
			name, m.Version, m.Digest, manifest, metrics, where),
		Rollback: "delete from activations " + where + ";\ndelete from models " + where + ";",
	}, nil
}

// made names what the model was made of, rows, code and parameters: the job that insitu.json tells, wherever it was read.
// A manifest without one leaves the result itself, the file's digest.
func (m Model) made() string {
	var details struct {
		Job string `json:"job"`
	}
	if json.Unmarshal([]byte(m.Manifest), &details) == nil && details.Job != "" {
		return details.Job
	}
	return m.Digest
}
