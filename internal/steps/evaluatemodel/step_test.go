package evaluatemodel

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	deployed "github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	datasets "github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

// fakeRegistry keeps versions and what is recorded with them.
type fakeRegistry struct {
	versions  map[int]registry.ModelVersion
	artifacts map[string][]byte // by run and path
	aliases   map[string]int
	metrics   map[string]float64
	points    map[string]bool
	failAlias error
}

func (f *fakeRegistry) ModelVersion(_ context.Context, name string, version int) (registry.ModelVersion, error) {
	v, ok := f.versions[version]
	if !ok {
		return v, fmt.Errorf("get model %q version %d: %w", name, version, registry.ErrNotFound)
	}
	return v, nil
}

func (f *fakeRegistry) GetRun(_ context.Context, id string) (registry.Run, error) {
	return registry.Run{ID: id, Metrics: map[string]float64{}}, nil
}

func (f *fakeRegistry) DownloadArtifact(_ context.Context, run registry.Run, path string, _ int64) ([]byte, error) {
	b, ok := f.artifacts[run.ID+"/"+path]
	if !ok {
		return nil, fmt.Errorf("download %q: %w", path, registry.ErrNotFound)
	}
	return b, nil
}

func (f *fakeRegistry) Alias(ctx context.Context, name, alias string) (registry.ModelVersion, error) {
	if f.failAlias != nil {
		return registry.ModelVersion{}, f.failAlias
	}
	v, ok := f.aliases[alias]
	if !ok {
		return registry.ModelVersion{}, fmt.Errorf("get alias: %w", registry.ErrNotFound)
	}
	return f.ModelVersion(ctx, name, v)
}

func (f *fakeRegistry) LogMetrics(_ context.Context, _ string, list []registry.Metric) error {
	for _, m := range list {
		f.metrics[m.Key] = m.Value
		f.points[fmt.Sprint(m.Key, m.Value, m.Step, m.Time)] = true
	}
	return nil
}

func (f *fakeRegistry) SetVersionTag(_ context.Context, _ string, version int, key, value string) error {
	f.versions[version].Tags[key] = value
	return nil
}

func (f *fakeRegistry) UploadArtifact(_ context.Context, run registry.Run, path string, content []byte) error {
	f.artifacts[run.ID+"/"+path] = content
	return nil
}

// add registers a version whose ONNX file is the given text; the stand-in of predict_onnx understands it.
func (f *fakeRegistry) add(version int, model, dataset string) {
	sum := sha256.Sum256([]byte(model))
	run := fmt.Sprintf("run%d", version)
	f.versions[version] = registry.ModelVersion{
		Name: "toy", Version: version, RunID: run, Created: time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC),
		Tags: map[string]string{"insitu.job": fmt.Sprintf("job%d", version), "insitu.code-digest": "code", "insitu.dataset-digest": dataset, "insitu.onnx-digest": hex.EncodeToString(sum[:])},
	}
	f.artifacts[run+"/model/model.onnx"] = []byte(model)
	f.artifacts[run+"/model/insitu.json"] = []byte(`{"classes": ["no", "yes"], "libraries": {"numpy": "1.24.2"}}`)
}

func newRegistry() *fakeRegistry {
	return &fakeRegistry{versions: map[int]registry.ModelVersion{}, artifacts: map[string][]byte{}, aliases: map[string]int{}, metrics: map[string]float64{}, points: map[string]bool{}}
}

// The stand-in models: the examples are probabilities already, so "identity" returns them.
const (
	identity = "identity"
	constant = "constant" // always the first class
	narrow   = "narrow"   // too few outputs
	broken   = "broken"   // an error in Python
	diverged = "diverged" // NaN
)

//go:embed testdata/schema.sql
var schemaSQL string

// dataset classes and rows of the toy: 6 packs of 20, in two shards; only test packs may be read.
const toyDigest = "feedfacefeedfacefeedface"

// load makes the toy schema: a dataset whose examples are the probabilities of their labels, two of ten wrong.
// It runs the given SQL first, by default that of the stand-ins.
func load(t *testing.T, setup ...func(postgres.Dialect) []string) (database, func()) {
	t.Helper()
	ctx := context.Background()
	cfg, schema := server(t)
	conn, err := postgres.Connect(ctx, cfg, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "set search_path to "+postgres.Ident(schema)); err != nil {
		t.Fatal(err)
	}
	statements := []string{schemaSQL}
	for _, of := range setup {
		statements = of(conn.Dialect)
	}
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	insertDataset(t, conn, toyDigest, "packs_toy", []string{"no", "yes"}, []int{2}, 0)
	i := 0
	for pack := range 6 {
		split := []string{datasets.Test, datasets.Train, datasets.Test, datasets.Validation, datasets.Test, datasets.Test}[pack]
		var labels, data []byte
		for range 20 {
			label := i % 2
			sure := float32(0.6 + 0.003*float64(i))
			p := []float32{1 - sure, sure}
			if (label == 0) != (i%10 == 3 || i%10 == 6) {
				p[0], p[1] = p[1], p[0]
			}
			labels = binary.LittleEndian.AppendUint32(labels, uint32(label))
			data, _ = binary.Append(data, binary.LittleEndian, p)
			i++
		}
		if split != datasets.Test {
			data = []byte("must not be read") // any use of it is an error
		}
		if _, err := conn.Exec(ctx, "insert into packs_toy values ($1, $2, $3, $4, $5, $6)", split, pack%2, pack+1, 20, labels, data); err != nil {
			t.Fatal(err)
		}
	}
	return database{conn, schema}, conn.Close
}

func insertDataset(t *testing.T, conn *postgres.Conn, digest, table string, classes []string, shape []int, seed uint64) {
	t.Helper()
	m := datasets.Manifest{
		Version: datasets.ManifestVersion, Digest: digest, Table: table, Task: datasets.Classification, Classes: classes,
		Input: datasets.Input{Shape: shape, DType: datasets.Float32}, Rows: 120, Format: "csv", Source: "file:toy.csv", Columns: []string{"p(no)", "p(yes)"},
		Split: datasets.SplitOptions{Fractions: [3]float64{0.2, 0.2, 0.6}, Seed: seed}, Cuts: datasets.Cuts{0.2, 0.4},
		Splits: datasets.Splits{Train: datasets.SplitCount{Rows: 20, Histogram: []int64{10, 10}}, Validation: datasets.SplitCount{Rows: 20, Histogram: []int64{10, 10}}, Test: datasets.SplitCount{Rows: 80, Histogram: []int64{40, 40}}},
	}
	text, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(context.Background(), "insert into datasets values ($1, $2, $3::text::json)", digest, table, string(text)); err != nil {
		t.Fatal(err)
	}
}

func newEvaluator(db database, models *fakeRegistry) *evaluator {
	return &evaluator{options: options{Schema: db.schema, Model: "toy", Version: 2, Alias: "staging"}, models: models, db: db, log: zap.NewNop(), progress: func(int64, int64) {}}
}

func TestAFirstModelIsHeldToTheAppsGate(t *testing.T) {
	t.Parallel()
	db, done := load(t)
	defer done()
	models := newRegistry()
	models.add(2, identity, toyDigest)
	e := newEvaluator(db, models)
	var last, total int64
	e.progress = func(d, n int64) { last, total = d, n }

	r, err := e.evaluate(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if want := "passed: accuracy 0.800 >= 0.750, macro-F1 0.800 (no minimum set); there is no champion yet"; r.Decision.Reason != want {
		t.Errorf("reason %q, want %q", r.Decision.Reason, want)
	}
	if last != 80 || total != 160 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	want := map[string]float64{"test_accuracy": .8, "testing_accuracy": .8, "accuracy_score": .8, "test_f1": .8, "f1_score": .8, "test_log_loss": r.Candidate.LogLoss, "testing_loss": r.Candidate.LogLoss}
	near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-12 })
	if d := cmp.Diff(want, models.metrics, near); d != "" {
		t.Errorf("metrics (-want +got):\n%s", d)
	}
	for key, value := range map[string]string{"insitu.passed": "true", "insitu.test-accuracy": "0.8", "insitu.test-f1": "0.8", "insitu.champion-version": "", "insitu.reason": r.Decision.Reason} {
		if got := models.versions[2].Tags[key]; got != value {
			t.Errorf("tag %s = %q, want %q", key, got, value)
		}
	}
	page := models.artifacts["run2/evaluation/report.html"]
	if !bytes.Equal(page, r.page) {
		t.Error("the stored report is not the step's")
	}
	for _, text := range []string{"toy <small>version 2", "Learning curve", "epoch 2 kept", "learning_rate", "0.02", "1.24.2", "p(yes)", toyDigest, "4,096", "13653"} {
		if !strings.Contains(string(page), text) {
			t.Errorf("the report lacks %q", text)
		}
	}
	if w := r.Candidate.Worst[0]; w.Pack != 6 || w.Row != 16 {
		t.Errorf("the worst mistake is pack %d row %d, want pack 6 row 16", w.Pack, w.Row)
	}
}

func TestTheGateAgainstChampions(t *testing.T) {
	t.Parallel()
	half := 0.5
	tests := map[string]struct {
		prepare func(*evaluator, *fakeRegistry)
		reason  string
		passed  bool
	}{
		"a better candidate": {func(_ *evaluator, f *fakeRegistry) { f.add(1, constant, toyDigest) }, "passed: accuracy 0.800 >= 0.750, macro-F1 0.800 (no minimum set); champion version 1 has 0.500 on the same 80 rows (difference +0.300, McNemar p = 0.00011)", true},
		"a worse candidate": {func(e *evaluator, f *fakeRegistry) {
			f.add(1, identity, toyDigest)
			f.add(2, constant, toyDigest)
			e.MinAccuracy = &half
		}, "not passed: accuracy 0.500 >= 0.500, macro-F1 0.333 (no minimum set); champion version 1 has 0.800 on the same 80 rows (difference -0.300 is beyond the tolerance 0.010, McNemar p = 0.00011)", false},
		"a worse candidate within a wide tolerance": {func(e *evaluator, f *fakeRegistry) {
			f.add(1, identity, toyDigest)
			f.add(2, constant, toyDigest)
			e.MinAccuracy, e.Tolerance = &half, &half
		}, "passed: accuracy 0.500 >= 0.500, macro-F1 0.333 (no minimum set); champion version 1 has 0.800 on the same 80 rows (difference -0.300 is within the tolerance 0.500, McNemar p = 0.00011)", true},
		"the candidate is the champion": {func(_ *evaluator, f *fakeRegistry) { f.aliases["staging"] = 2 }, "passed: accuracy 0.800 >= 0.750, macro-F1 0.800 (no minimum set); the champion is this same version 2, so only the absolute thresholds count", true},
		"a champion with other outputs": {func(_ *evaluator, f *fakeRegistry) { f.add(1, narrow, toyDigest) },
			"passed: accuracy 0.800 >= 0.750, macro-F1 0.800 (no minimum set); champion version 1 cannot be compared (score version 1 on the test rows of dataset feedfacefeedface: pack 1: predictions have 1 values a row, expected 2), so only the absolute thresholds count", true},
		"a champion that fails in the database": {func(_ *evaluator, f *fakeRegistry) { f.add(1, broken, toyDigest) },
			"passed: accuracy 0.800 >= 0.750, macro-F1 0.800 (no minimum set); champion version 1 cannot be compared (score version 1 on the test rows of dataset feedfacefeedface: 160 bytes are not 20 examples of uint8 [9] (SQLSTATE 38000)), so only the absolute thresholds count", true},
		"a champion with other classes": {func(e *evaluator, f *fakeRegistry) {
			f.add(1, identity, "0ther")
		}, "passed: accuracy 0.800 >= 0.750, macro-F1 0.800 (no minimum set); champion version 1 cannot be compared (its classes are maybe, perhaps, the dataset's are no, yes), so only the absolute thresholds count", true},
		"a champion whose dataset is not here is scored by what the registry knows": {func(_ *evaluator, f *fakeRegistry) { f.add(1, constant, "elsewhere") },
			"passed: accuracy 0.800 >= 0.750, macro-F1 0.800 (no minimum set); champion version 1 has 0.500 on the same 80 rows (difference +0.300, McNemar p = 0.00011); it learned from data that was split in another way and may know some of these rows", true},
		"a champion of an earlier state of the data, split in the same way": {func(_ *evaluator, f *fakeRegistry) { f.add(1, constant, "earlier") },
			"passed: accuracy 0.800 >= 0.750, macro-F1 0.800 (no minimum set); champion version 1 has 0.500 on the same 80 rows (difference +0.300, McNemar p = 0.00011)", true},
		"a champion of an earlier state of the data, split by another seed": {func(_ *evaluator, f *fakeRegistry) { f.add(1, constant, "reseeded") },
			"passed: accuracy 0.800 >= 0.750, macro-F1 0.800 (no minimum set); champion version 1 has 0.500 on the same 80 rows (difference +0.300, McNemar p = 0.00011); it learned from data that was split in another way and may know some of these rows", true},
		"a champion whose artifact was changed": {func(_ *evaluator, f *fakeRegistry) {
			f.add(1, identity, toyDigest)
			f.artifacts["run1/model/model.onnx"] = []byte("tampered")
		}, "", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, done := load(t)
			defer done()
			insertDataset(t, db.Conn, "0ther", "packs_other", []string{"maybe", "perhaps"}, []int{2}, 0)
			insertDataset(t, db.Conn, "earlier", "packs_earlier", []string{"no", "yes"}, []int{2}, 0)
			insertDataset(t, db.Conn, "reseeded", "packs_reseeded", []string{"no", "yes"}, []int{2}, 1)
			models := newRegistry()
			models.add(2, identity, toyDigest)
			models.aliases["staging"] = 1
			e := newEvaluator(db, models)
			test.prepare(e, models)
			r, err := e.evaluate(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if test.reason != "" && r.Decision.Reason != test.reason || r.Decision.Passed != test.passed {
				t.Errorf("got  %t %q\nwant %t %q", r.Decision.Passed, r.Decision.Reason, test.passed, test.reason)
			}
			for note, want := range map[string]bool{
				"none of these test rows was among those it learned from":           r.Champion.OtherData && !r.Champion.MayKnow,
				"so it may have learned some of these test rows, which flatters it": r.Champion.MayKnow,
			} {
				if got := strings.Contains(string(r.page), note); got != want {
					t.Errorf("the report says that %s: %t, want %t", note, got, want)
				}
			}
			if test.reason == "" && !strings.Contains(r.Decision.Reason, "cannot be compared (model \"toy\" version 1: model.onnx has SHA-256") {
				t.Errorf("reason %q", r.Decision.Reason)
			}
		})
	}
}

func TestWhatStopsAnEvaluation(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare func(*testing.T, *evaluator, *fakeRegistry)
		class   fault.Class
		want    string
	}{
		"the registry is down": {func(_ *testing.T, _ *evaluator, f *fakeRegistry) {
			f.failAlias = fault.AsTemporary(errors.New("MLflow answered 503"))
		}, fault.Temporary, "503"},
		"the version was trained elsewhere": {func(_ *testing.T, _ *evaluator, f *fakeRegistry) { f.add(2, identity, "elsewhere") }, fault.Configuration, "has no dataset elsewhere"},
		"the version does not exist":        {func(_ *testing.T, e *evaluator, _ *fakeRegistry) { e.Version = 9 }, fault.Permanent, "version 9"},
		"the training diverged":             {func(_ *testing.T, _ *evaluator, f *fakeRegistry) { f.add(2, diverged, toyDigest) }, fault.Permanent, "the training diverged: try a lower learning rate"},
		"the schema is another one":         {func(_ *testing.T, e *evaluator, _ *fakeRegistry) { e.db.schema = "nobody's" }, fault.Configuration, "after deploy-training-code"},
		"no code was deployed": {func(t *testing.T, e *evaluator, _ *fakeRegistry) {
			if _, err := e.db.Exec(context.Background(), "drop function predict_onnx(bytea, text, bytea, int)"); err != nil {
				t.Fatal(err)
			}
		}, fault.Configuration, "after deploy-training-code"},
		"test rows were deleted": {func(t *testing.T, e *evaluator, _ *fakeRegistry) {
			if _, err := e.db.Exec(context.Background(), "delete from packs_toy where id = 1"); err != nil {
				t.Fatal(err)
			}
		}, fault.Permanent, "has 60 test rows"},
		"there are no test rows": {func(t *testing.T, e *evaluator, _ *fakeRegistry) {
			if _, err := e.db.Exec(context.Background(), "delete from packs_toy where split = 'test'; update datasets set manifest = replace(manifest::text, '\"test\":{\"rows\":80', '\"test\":{\"rows\":0')::json"); err != nil {
				t.Fatal(err)
			}
		}, fault.Permanent, "has no test rows"},
		"somebody cancels the champion's statement": {func(t *testing.T, e *evaluator, f *fakeRegistry) {
			f.add(1, "cancelled", toyDigest)
			f.aliases["staging"] = 1
		}, fault.Permanent, "57014"},
		"the session is ended while the champion is scored": {func(t *testing.T, e *evaluator, f *fakeRegistry) {
			f.add(1, "suicide", toyDigest)
			f.aliases["staging"] = 1
		}, fault.Temporary, "champion version 1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, done := load(t)
			defer done()
			models := newRegistry()
			models.add(2, identity, toyDigest)
			e := newEvaluator(db, models)
			test.prepare(t, e, models)
			_, err := e.evaluate(context.Background())
			if err == nil || fault.Of(err) != test.class || !strings.Contains(err.Error(), test.want) {
				t.Errorf("class %v, error %v; want class %v and %q", fault.Of(err), err, test.class, test.want)
			}
			if tag, ok := models.versions[2].Tags["insitu.passed"]; ok {
				t.Errorf("a failed evaluation left the tag passed = %q", tag)
			}
		})
	}
}

func TestALostSessionIsATemporaryFault(t *testing.T) {
	t.Parallel()
	db, done := load(t)
	done()
	if err := db.wrap(io.ErrUnexpectedEOF, "score version 1"); fault.Of(err) != fault.Temporary {
		t.Errorf("class %v of %v, want temporary", fault.Of(err), err)
	}
	if _, err := db.dataset(context.Background(), toyDigest); fault.Of(err) != fault.Temporary {
		t.Errorf("class %v of %v, want temporary", fault.Of(err), err)
	}
}

func TestASecondEvaluationChangesNothing(t *testing.T) {
	t.Parallel()
	db, done := load(t)
	defer done()
	models := newRegistry()
	models.add(1, constant, toyDigest)
	models.add(2, identity, toyDigest)
	models.aliases["staging"] = 1
	first, err := newEvaluator(db, models).evaluate(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	tags, points, artifacts := maps.Clone(models.versions[2].Tags), maps.Clone(models.points), maps.Clone(models.artifacts)
	second, err := newEvaluator(db, models).evaluate(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(first, second, cmp.AllowUnexported(result{})); d != "" {
		t.Errorf("results differ (-first +second):\n%s", d)
	}
	if d := cmp.Diff(tags, models.versions[2].Tags); d != "" {
		t.Errorf("tags differ:\n%s", d)
	}
	if len(points) != len(models.points) || !maps.EqualFunc(artifacts, models.artifacts, slices.Equal) {
		t.Error("metrics or artifacts were added or changed")
	}
}

//go:embed testdata/model.onnx
var modelONNX string

// The functions and the Python are those that deploy-training-code deploys.
func TestTheDeployedFunctionsScoreAnONNXModel(t *testing.T) {
	t.Parallel()
	db, done := load(t, func(d postgres.Dialect) []string {
		sets, err := changelog.Load(deployed.Training, d)
		if err != nil {
			t.Fatal(err)
		}
		setup := []string{`create table datasets (digest text primary key, pack_table text not null, manifest json not null);
create table packs_toy (split text, shard int, id bigint, n int, labels bytea, data bytea, primary key (shard, id))`}
		for _, c := range sets {
			setup = append(setup, c.SQL)
		}
		return setup
	})
	defer done()
	sources := deployed.Runtime()
	sources["learner.py"] = "class Learner:\n    pass\n"
	bundle, err := mlapp.Bundle(sources)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(context.Background(), "insert into releases (ordinal, app, digest, manifest, bundle) values (1, 'toy', 'code', $1::text::json, $2)",
		`{"gate": {"accuracy": 0.9}}`, bundle); err != nil {
		t.Fatal(err)
	}
	models := newRegistry()
	models.add(2, modelONNX, toyDigest)
	models.add(1, "not an ONNX file", toyDigest)
	models.aliases["staging"] = 1
	r, err := newEvaluator(db, models).evaluate(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if r.Candidate.Accuracy != 0.8 || r.Decision.Passed || !strings.HasPrefix(r.Decision.Reason, "not passed: accuracy 0.800 < 0.900, macro-F1 0.800 (no minimum set); champion version 1 cannot be compared (score version 1") ||
		!strings.Contains(r.Decision.Reason, "ONNX Runtime cannot load the model") {
		t.Errorf("accuracy %g, reason %q", r.Candidate.Accuracy, r.Decision.Reason)
	}
}

func TestThresholdsComeFromFlagsThenTheAppThenDefaults(t *testing.T) {
	t.Parallel()
	flag, app := 0.9, 0.8
	tests := []struct {
		name string
		o    options
		g    mlapp.Gate
		want evaluation.Thresholds
	}{
		{"nothing set", options{}, mlapp.Gate{}, evaluation.Thresholds{Tolerance: 0.01}},
		{"the app's gate", options{}, mlapp.Gate{Accuracy: &app, F1: &app, Tolerance: &app}, evaluation.Thresholds{MinAccuracy: 0.8, MinF1: 0.8, Tolerance: 0.8}},
		{"flags win", options{MinAccuracy: &flag, MinF1: &flag, Tolerance: &flag}, mlapp.Gate{Accuracy: &app, F1: &app, Tolerance: &app}, evaluation.Thresholds{MinAccuracy: 0.9, MinF1: 0.9, Tolerance: 0.9}},
	}
	for _, test := range tests {
		e := evaluator{options: test.o}
		if d := cmp.Diff(test.want, e.thresholds(test.g)); d != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, d)
		}
	}
}

// The plan must predict while rows stream, not before a sort that would hold every prediction.
func TestTheScoringStatementPredictsAfterTheSort(t *testing.T) {
	t.Parallel()
	db, done := load(t)
	defer done()
	rows, err := db.Query(context.Background(), "explain (verbose, costs off) "+db.scoring(db.name("packs_toy")), []byte(identity), strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(plan, "\n")
	if db.Dialect.Distributed { // on the segments, before the rows are gathered: what is above has the calls in parentheses
		if top, below, _ := strings.Cut(text, "->"); !strings.HasPrefix(top, "Gather Motion") || strings.Contains(top, ", predict_onnx(") || !strings.Contains(below, ", predict_onnx(") {
			t.Errorf("plan:\n%s", text)
		}
		return
	}
	if sort := strings.Index(text, "Sort"); sort < 0 || !strings.Contains(text[:sort], "predict_onnx") || strings.Contains(text[sort:], "predict_onnx") {
		t.Errorf("plan:\n%s", text)
	}
}

func TestSixSignificantDigits(t *testing.T) {
	t.Parallel()
	for x, want := range map[float64]string{0: "0", 1: "1", 0.98148148148: "0.981481", 1e-9 / 3: "3.33333e-10", 0.5: "0.5"} {
		if got := significant(x); got != want {
			t.Errorf("significant(%s) = %q, want %q", strconv.FormatFloat(x, 'g', -1, 64), got, want)
		}
	}
}

func TestLiveCallsCountWhenTheyAreAskedFor(t *testing.T) {
	t.Parallel()
	agreement := 0.9
	for name, tt := range map[string]struct {
		rows   int64
		holder int // of the alias; 0: nobody
		passed bool
		tag    string
	}{
		"enough":                          {20, 1, true, "passed: 20 live calls were sent to both champion version 1 and version 2, expected at least 20, 0 of them failed; the two agree on 0.900 of them; the truth of none of them is known"},
		"too few":                         {19, 1, false, "not passed: 19 live calls were sent to both champion version 1 and version 2, expected at least 20: give it a larger share with set_route, or more time"},
		"no champion":                     {20, 0, false, "not passed: no version holds the alias, so no live calls compare this one with it"},
		"the candidate holds the alias":   {0, 2, true, "not looked at: the version holds the alias itself"},
		"a champion that is out of scale": {20, 3, true, "passed: 20 live calls were sent to both champion version 3 and version 2, expected at least 20, 0 of them failed; the two agree on 0.900 of them; the truth of none of them is known"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, done := load(t)
			defer done()
			models := newRegistry()
			models.add(1, constant, toyDigest)
			models.add(2, identity, toyDigest)
			models.add(3, narrow, toyDigest)
			if tt.holder != 0 {
				models.aliases["staging"] = tt.holder
			}
			e := newEvaluator(db, models)
			e.LeastLive = 20
			e.live = func(_ context.Context, candidate, champion int) (evaluation.Live, error) {
				return evaluation.Live{Candidate: candidate, Champion: champion, Rows: tt.rows, Agreement: &agreement}, nil
			}
			r, err := e.evaluate(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if tag := models.versions[2].Tags["insitu.live-evidence"]; r.Decision.Passed != tt.passed || tag != tt.tag {
				t.Errorf("passed %t, tag %q; want %t, %q", r.Decision.Passed, tag, tt.passed, tt.tag)
			}
			if got := strings.Contains(string(r.page), "ive evidence:"); got != (tt.holder != 2) {
				t.Errorf("the report tells of live evidence: %t", got)
			}
			if got := strings.Contains(string(models.artifacts["run2/evaluation/metrics.json"]), `"live"`); got != (tt.holder != 2) {
				t.Errorf("metrics.json tells of live calls: %t", got)
			}
		})
	}
}
