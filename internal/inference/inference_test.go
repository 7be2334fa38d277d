package inference

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

// shelf is a registry with one model version.
type shelf struct {
	version registry.ModelVersion
	files   map[string]string
}

func (s shelf) ModelVersion(context.Context, string, int) (registry.ModelVersion, error) {
	return s.version, nil
}

func (s shelf) GetRun(_ context.Context, id string) (registry.Run, error) {
	return registry.Run{ID: id, Metrics: map[string]float64{"b": 2, "a": 0.5}}, nil
}

func (s shelf) DownloadArtifact(_ context.Context, run registry.Run, path string, _ int64) ([]byte, error) {
	return []byte(s.files[run.ID+"/"+path]), nil
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func TestFetchTakesOnlyBytesThatTheRegistryVouchesFor(t *testing.T) {
	t.Parallel()
	good := func() shelf {
		return shelf{
			version: registry.ModelVersion{RunID: "run-1", Tags: map[string]string{registry.TagJob: "job-1", registry.TagCode: "code-1", registry.TagDataset: "dataset-1", registry.TagONNX: digest("onnx"), registry.TagGit: "abc"}},
			files:   map[string]string{"run-1/model/model.onnx": "onnx", "run-1/model/insitu.json": "{\n  \"classes\": [\"cat\"]\n}\n"},
		}
	}
	got, err := Fetch(t.Context(), good(), "cifar_cnn", 3)
	if err != nil {
		t.Fatal(err)
	}
	want := Model{Name: "cifar_cnn", Version: 3, Digest: digest("onnx"), Manifest: `{"classes":["cat"]}`, Metrics: `{"a":0.5,"b":2}`, GitSHA: "abc",
		ONNX: []byte("onnx"), Job: "job-1", CodeDigest: "code-1", DatasetDigest: "dataset-1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, c := range map[string]struct {
		spoil func(shelf)
		want  string
	}{
		"changed bytes":     {func(s shelf) { s.files["run-1/model/model.onnx"] = "other" }, "was changed after it was registered"},
		"a strange model":   {func(s shelf) { delete(s.version.Tags, registry.TagJob) }, `no tag "insitu.job"`},
		"a broken manifest": {func(s shelf) { s.files["run-1/model/insitu.json"] = "[1]" }, "expected a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := good()
			c.spoil(s)
			if _, err := Fetch(t.Context(), s, "cifar_cnn", 3); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestTheTrailForgetsDetours(t *testing.T) {
	t.Parallel()
	// r marks a rollback.
	for log, want := range map[string]string{"": "", "1": "1", "12": "12", "123": "123", "1232": "12", "12321": "1", "121": "1", "12324": "124", "11": "1", "12123": "123",
		"1231": "1231", "123r1": "1", "1234r2": "12", "1234r25": "125", "123r1r3": "13", "123r23": "123", "1231r3": "123", "1231r1": "1231"} {
		var versions []switching
		for i, r := range log {
			if r != 'r' {
				versions = append(versions, switching{Version: Version{"m", int(r - '0')}, rollback: i > 0 && log[i-1] == 'r'})
			}
		}
		got := ""
		for _, v := range trail(versions) {
			got += fmt.Sprint(v.Version)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", log, got, want)
		}
	}
}

func TestComparisonFindsDifferencesAndOtherLabels(t *testing.T) {
	t.Parallel()
	nan := float32(math.NaN())
	for name, c := range map[string]struct {
		a, b  []float32 // two rows
		diff  float64
		other int
	}{
		"the same":                   {[]float32{1, 0, 0, 1}, []float32{1, 0, 0, 1}, 0, 0},
		"one other label":            {[]float32{1, 0, 0, 1}, []float32{1, 0, 1, 0}, 1, 1},
		"a tie within the tolerance": {[]float32{.5, .5, 0, 1}, []float32{.5, .50005, 0, 1}, 0.00005, 0},
		"not a number":               {[]float32{1, 0, 0, 1}, []float32{1, nan, 0, 1}, math.Inf(1), 0},
		"numbers are no labels":      {[]float32{1, 2}, []float32{1, 2.5}, .5, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := comparison{tolerance: 1e-3, pairs: make([]Pair, 3)}
			if err := p.add(2, c.a, c.a, c.b); err != nil {
				t.Fatal(err)
			}
			got := Parity{Rows: 2, Pairs: p.pairs}
			if math.Abs(got.MaxAbsDiff()-c.diff) > 1e-6 || got.Disagreements() != c.other || p.pairs[0] != (Pair{}) {
				t.Errorf("got %+v", got)
			}
			if breach := got.Check(Tolerance{1e-3, 0}) != nil; breach != (c.diff > 1e-3 || c.other > 0) {
				t.Errorf("breach: %v", breach)
			}
		})
	}
	if err := (&comparison{pairs: make([]Pair, 3)}).add(2, make([]float32, 4), make([]float32, 4), make([]float32, 2)); err == nil {
		t.Error("outputs of different widths were accepted")
	}
}

func model(version int, bytes string) Model {
	return Model{Name: "it's a ${model}", Version: version, Digest: digest(bytes), Manifest: `{"classes":["cat","--rollback ${x}"]}`, Metrics: `{"accuracy":0.9}`, ONNX: []byte(bytes),
		Job: "job-1", CodeDigest: "code-1", DatasetDigest: "dataset-1"}
}

func TestDeployCompareActivateAndRollBack(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	schema := changelogtest.Schema(t, cfg, "Inference")
	s, err := changelog.Open(t.Context(), changelog.Schema{Database: cfg, Name: schema, Path: "insitu/inference", Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
		Liquibase: changelog.Liquibase{Path: changelogtest.Jars(t), Java: "java", TempDir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	base, err := changelog.Load(database.Inference, s.Conn.Dialect)
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	deploy := func(m Model, want int) {
		t.Helper()
		added, changes, err := Deploy(t.Context(), s, schema, base, m)
		if err != nil {
			t.Fatal(err)
		}
		if len(added) != want {
			t.Errorf("version %d added %v, want %d", m.Version, added, want)
		}
		text = changes
	}
	active := func(want ...int) {
		t.Helper()
		rows, err := s.Conn.Query(t.Context(), "select version from "+postgres.Ident(schema, "activations")+" order by ordinal")
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	activate := func(m Model, before int) {
		t.Helper()
		previous, err := Activate(t.Context(), s.Conn, schema, Version{m.Name, m.Version}, Evidence{})
		if err != nil {
			t.Fatal(err)
		}
		if previous.Version != before {
			t.Errorf("version %d: previous is %+v, want %d", m.Version, previous, before)
		}
	}
	// The models answer (0.5, 0.25) and (0.25, 0.5) whatever they are asked.
	var files [2]string
	for i, file := range []string{"testdata/one.onnx", "testdata/two.onnx"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = string(content)
	}
	one, two := model(1, files[0]), model(2, files[1])
	deploy(one, len(base)+1)
	deploy(one, 0)
	activate(one, 0)
	activate(one, 0)
	deploy(two, 1)
	activate(two, 1)
	activate(two, 1) // again: the same answer
	active(1, 2)
	if _, _, err := Deploy(t.Context(), s, schema, base, model(2, "other bytes")); err == nil || !strings.Contains(err.Error(), "versions never change") {
		t.Errorf("another model under a number that is taken: %v", err)
	}
	if _, err := Activate(t.Context(), s.Conn, schema, Version{one.Name, 7}, Evidence{}); err == nil {
		t.Error("a version that is not deployed was activated")
	}

	training := changelogtest.Schema(t, cfg, "Training")
	script, err := os.ReadFile("testdata/training.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Conn.Exec(t.Context(), "create schema "+postgres.Ident(training)+"; set search_path to "+postgres.Ident(training)+";"+string(script)+"; reset search_path"); err != nil {
		t.Fatal(err)
	}
	compare := func(m Model, rows int) (Parity, error) {
		return CheckParity(t.Context(), Place{s.Conn, training}, Place{s.Conn, schema}, m, rows, Tolerance{MaxAbsDiff: 1e-4})
	}
	for asked, want := range map[int]int{6: 6, 100: 12, 4: 4} {
		p, err := compare(one, asked)
		if err != nil || p.Rows != want || p.Check(Tolerance{1e-4, 0}) != nil || len(p.Pairs) != 3 {
			t.Errorf("%d rows: %+v, %v", asked, p, err)
		}
	}
	p, err := compare(two, 12)
	if err != nil || p.MaxAbsDiff() != .25 || p.Disagreements() != 12 || p.Pairs[0].MaxAbsDiff != 0 || p.Check(Tolerance{1e-4, 0}) == nil {
		t.Errorf("a model that predicts something else: %+v, %v", p, err)
	}
	stranger := one
	stranger.Job, stranger.DatasetDigest = "no-job", "no-dataset"
	if _, err := compare(stranger, 12); err == nil || !strings.Contains(err.Error(), "no-job") || !strings.Contains(err.Error(), "no-dataset") {
		t.Errorf("a model of another database: %v", err)
	}

	back := func(to Version) error {
		t.Helper()
		plan, err := PlanRollback(t.Context(), s.Conn, schema, to.Version)
		if err != nil {
			return err
		}
		_, err = SwitchBack(t.Context(), s.Conn, schema, plan.To, "")
		return err
	}
	if err := back(Version{}); err != nil {
		t.Error(err)
	}
	active(1, 2, 1)
	_, err = MoveAlias(t.Context(), s.Conn, schema, &aliases{}, "staging", Version{one.Name, 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := back(Version{}); err == nil || !strings.Contains(err.Error(), "first one") {
		t.Errorf("rolled back beyond the first model: %v", err)
	}
	if err := back(Version{Version: 7}); err == nil || !strings.Contains(err.Error(), "never active") {
		t.Errorf("rolled back to a version that was never there: %v", err)
	}
	activate(two, 1)
	changelogtest.Stock(t, cfg, schema, text, "rollback-count", "--count=1")
	active(1, 1) // version 2 is gone, and out of service
	var label string
	if err := s.Conn.QueryRow(t.Context(), "select "+postgres.Ident(schema)+".run_inference_task($1)", []byte{1, 2, 3}).Scan(&label); err != nil || label != "cat" {
		t.Errorf("label %q, %v", label, err)
	}
	deploy(one, 0)
	deploy(two, 1)
}
