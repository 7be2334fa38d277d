package pipeline

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

const root = "../.."

// project is an ML app of the test's own, with its own schema, model and experiment.
type project struct {
	app, output, name   string
	bin, bindings       string
	env                 []string // of insitu run, over this process's
	training, inference *postgres.Conn
	mlflow              string
}

// summary is run.json.
type summary struct {
	ExitCode int `json:"exit_code"`
	Steps    []struct {
		Name, Status string
		Outputs      map[string]string
	}
	Metrics map[string]float64
	Model   struct {
		Name, Version, Alias string
		RunID                string `json:"run_id"`
	}
	Report string
}

func (s summary) outputs(step string) map[string]string {
	for _, x := range s.Steps {
		if x.Name == step {
			return x.Outputs
		}
	}
	return nil
}

func newProject(t *testing.T, example string) *project {
	t.Helper()
	bin := os.Getenv("INSITU_TEST_BIN")
	if bin == "" {
		t.Skip("needs the programs: INSITU_TEST_BIN is not set (make test sets it)")
	}
	p := &project{
		app: t.TempDir(), output: t.TempDir(), name: example + "_" + strconv.FormatUint(rand.Uint64(), 36), bin: bin,
		training: connect(t, testenv.Training(t)), inference: connect(t, testenv.Inference(t)), mlflow: testenv.Binding(t, "mlflow")("uri"),
	}
	p.bindings = os.Getenv("INSITU_TEST_BINDINGS")
	if err := os.CopyFS(p.app, os.DirFS(filepath.Join(root, "examples", example))); err != nil {
		t.Fatal(err)
	}
	manifest := p.read(t, "insitu.yaml")
	at := strings.Index(manifest, "\nmodel: ") + 1
	end := at + strings.Index(manifest[at:], "\n")
	p.write(t, "insitu.yaml", manifest[:at]+"model: "+p.name+manifest[end:])
	t.Cleanup(func() {
		for _, c := range []*postgres.Conn{p.training, p.inference} {
			_, _ = c.Exec(context.Background(), "drop schema if exists "+postgres.Ident(p.name)+" cascade")
			c.Close()
		}
	})
	return p
}

func connect(t *testing.T, config postgres.Config) *postgres.Conn {
	t.Helper()
	c, err := postgres.Connect(t.Context(), config, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *project) read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.app, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (p *project) write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.app, file), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run starts insitu run and returns its exit code and all that it printed.
func (p *project) run(t *testing.T, args ...string) (code int, printed string) {
	t.Helper()
	all := []string{"run", filepath.Join(root, "workflows", "in-database-pipeline.yaml"), "--app", p.app, "--bindings", p.bindings, "--bin", p.bin, "--output", p.output, "--plain"}
	for _, parameter := range []string{
		"schema=" + p.name, "inference-schema=" + p.name, "experiment=" + p.name, "min-accuracy=0", "min-f1=0", "tolerance=1",
		"training-binding=postgresql/insitu-training", "inference-binding=postgresql/insitu-inference",
	} {
		all = append(all, "-p", parameter)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(p.bin, "insitu"), append(all, args...)...)
	cmd.Env = append(os.Environ(), p.env...)
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return exit.ExitCode(), string(out)
	} else if err != nil {
		t.Fatal(err)
	}
	return 0, string(out)
}

func (p *project) succeed(t *testing.T, args ...string) summary {
	t.Helper()
	if code, printed := p.run(t, args...); code != 0 {
		t.Fatalf("insitu run %q: exit code %d\n%s", args, code, printed)
	}
	text, err := os.ReadFile(filepath.Join(p.output, "run.json"))
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]json.RawMessage
	var s summary
	if err := errors.Join(json.Unmarshal(text, &keys), json.Unmarshal(text, &s)); err != nil {
		t.Fatal(err)
	}
	want := []string{"exit_code", "git_sha", "inference", "metrics", "mlflow_url", "model", "report", "s3_endpoint", "seconds", "steps", "training", "workflow"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(keys))); diff != "" {
		t.Errorf("keys of run.json: %s", diff)
	}
	if _, err := os.Stat(s.Report); err != nil {
		t.Errorf("report: %v", err)
	}
	return s
}

// counts are rows of the schema's tables: 0 for a table that is not there.
func (p *project) counts(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for prefix, tables := range map[string][]string{
		"training":  {"databasechangelog", "datasets", "releases", "jobs", "models"},
		"inference": {"databasechangelog", "models", "activations"},
	} {
		c := p.training
		if prefix == "inference" {
			c = p.inference
		}
		for _, table := range tables {
			n := 0
			err := c.QueryRow(t.Context(), "select count(*) from "+postgres.Ident(p.name, table)).Scan(&n)
			if state := postgres.State(err); err != nil && state != "42P01" && state != "3F000" {
				t.Fatal(err)
			}
			counts[prefix+"."+table] = n
		}
	}
	return counts
}

// registered asks MLflow for a version of the model: its run's tags.
func (p *project) registered(t *testing.T, version string) map[string]string {
	t.Helper()
	get := func(path string, query url.Values, into any) {
		t.Helper()
		r, err := http.Get(p.mlflow + "/api/2.0/mlflow/" + path + "?" + query.Encode())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if err := json.NewDecoder(r.Body).Decode(into); err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, r.Status, err)
		}
	}
	var v struct {
		Version struct {
			RunID string `json:"run_id"`
		} `json:"model_version"`
	}
	get("model-versions/get", url.Values{"name": {p.name}, "version": {version}}, &v)
	var run struct {
		Run struct {
			Data struct{ Tags []struct{ Key, Value string } }
		}
	}
	get("runs/get", url.Values{"run_id": {v.Version.RunID}}, &run)
	tags := map[string]string{}
	for _, tag := range run.Run.Data.Tags {
		tags[tag.Key] = tag.Value
	}
	return tags
}

func TestARunAddsWhatIsNewAndNothingElse(t *testing.T) {
	t.Parallel()
	p := newProject(t, "digits")

	if code, printed := p.run(t, "-p", "epochs=abc"); code != 2 || !strings.Contains(printed, "epochs") {
		t.Fatalf("epochs=abc: exit code %d, expected 2 and a word about epochs\n%s", code, printed)
	}
	for place, n := range p.counts(t) {
		if n != 0 {
			t.Errorf("epochs=abc left %d rows in %s", n, place)
		}
	}

	s := p.succeed(t, "-p", "epochs=2")
	first := p.counts(t)
	want := map[string]int{
		"training.databasechangelog": 8, "training.datasets": 1, "training.releases": 1, "training.jobs": 1, "training.models": 1,
		"inference.databasechangelog": 11, "inference.models": 1, "inference.activations": 1,
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("after the first run: %s", diff)
	}
	if s.Model.Name != p.name || s.Model.Version != "1" || s.Model.Alias != "staging" || s.Metrics["accuracy"] < 0.5 {
		t.Errorf("after the first run: %+v, %v", s.Model, s.Metrics)
	}
	tags := p.registered(t, "1")
	for _, name := range []string{"insitu.database", "insitu.library.python", "insitu.library.numpy", "insitu.library.onnx"} {
		if tags[name] == "" {
			t.Errorf("the MLflow run has no tag %q: %v", name, tags)
		}
	}

	s = p.succeed(t, "-p", "epochs=2")
	if diff := cmp.Diff(first, p.counts(t)); diff != "" {
		t.Errorf("the same once more: %s", diff)
	}
	if u := s.outputs("upload-dataset"); u["bytes-uploaded"] != "0" || u["rows-loaded"] != "0" {
		t.Errorf("the same once more uploads: %v", u)
	}
	if m := s.outputs("train-model"); m["trained"] != `["false"]` || m["model-version"] != `["1"]` {
		t.Errorf("the same once more trains: %v", m)
	}

	s = p.succeed(t, "-p", "epochs=3")
	want = maps.Clone(first)
	want["training.jobs"], want["training.models"] = 2, 2
	want["inference.databasechangelog"], want["inference.models"], want["inference.activations"] = first["inference.databasechangelog"]+1, 2, 2
	if diff := cmp.Diff(want, p.counts(t)); diff != "" || s.Model.Version != "2" {
		t.Errorf("another number of epochs, version %q: %s", s.Model.Version, diff)
	}

	p.write(t, "learner.py", p.read(t, "learner.py")+"\n# edited\n")
	s = p.succeed(t, "-p", "epochs=3")
	want["training.databasechangelog"], want["training.releases"], want["training.jobs"], want["training.models"] = 9, 2, 3, 3
	want["inference.databasechangelog"], want["inference.models"], want["inference.activations"] = first["inference.databasechangelog"]+2, 3, 3
	if diff := cmp.Diff(want, p.counts(t)); diff != "" || s.Model.Version != "3" {
		t.Errorf("an edited learner, version %q: %s", s.Model.Version, diff)
	}
}

func TestOfASweepTheLowestValidationLossIsServed(t *testing.T) {
	t.Parallel()
	p := newProject(t, "digits")
	for sweep, want := range map[string]string{
		`{"epochs": [1, 2], "depth": [3]}`: `"depth" is not declared`, `{"epochs": [0]}`: "0 is less than 1", `{"learning_rate": 0.1}`: "expected a list of values",
	} {
		if code, printed := p.run(t, "-p", "sweep="+sweep); code != 2 || !strings.Contains(printed, want) {
			t.Errorf("sweep=%s: exit code %d, expected 2 and %q\n%s", sweep, code, want, printed)
		}
	}

	// A rate that learns next to nothing, between two that learn.
	const sweep = `sweep={"learning_rate": [0.02, 0.000001, 0.05]}`
	s := p.succeed(t, "-p", "epochs=2", "-p", sweep)
	counts := p.counts(t)
	if counts["training.jobs"] != 3 || counts["training.models"] != 3 || counts["inference.models"] != 1 || counts["inference.activations"] != 1 {
		t.Errorf("three candidates left %v", counts)
	}
	var names []string
	for _, step := range s.Steps {
		if strings.HasPrefix(step.Name, "train-model") {
			names = append(names, step.Name+" "+step.Status)
		}
	}
	want := []string{"train-model Succeeded", "train-model(0:epochs:2,learning_rate:0.02) Succeeded", "train-model(1:epochs:2,learning_rate:0.000001) Succeeded", "train-model(2:epochs:2,learning_rate:0.05) Succeeded"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	lowest := p.lowestLoss(t, s)
	var active string
	if err := p.inference.QueryRow(t.Context(), "select version::text from "+postgres.Ident(p.name, "model_versions")+" where active").Scan(&active); err != nil {
		t.Fatal(err)
	}
	if s.Model.Version != lowest || s.Model.Alias != "staging" || active != lowest {
		t.Errorf("version %q is promoted, %q is active; version %s has the lowest validation loss", s.Model.Version, active, lowest)
	}
	page, err := os.ReadFile(s.Report)
	if err != nil || strings.Count(string(page), "✓ chosen") != 1 || !strings.Contains(string(page), "learning_rate") {
		t.Errorf("the report shows no choice: %v", err)
	}

	again := p.succeed(t, "-p", "epochs=2", "-p", sweep)
	if diff := cmp.Diff(counts, p.counts(t)); diff != "" || again.Model.Version != lowest || again.outputs("train-model")["trained"] != `["false","false","false"]` {
		t.Errorf("the same sweep once more: version %q, %v, %s", again.Model.Version, again.outputs("train-model"), diff)
	}
}

// lowestLoss is the version of the candidate whose model has the lowest validation loss, by the training database.
func (p *project) lowestLoss(t *testing.T, s summary) string {
	t.Helper()
	best, lowest := "", 0.0
	for _, step := range s.Steps {
		if !strings.HasPrefix(step.Name, "train-model(") {
			continue
		}
		var loss float64
		err := p.training.QueryRow(t.Context(), "select (metrics #>> '{validation,loss}')::float8 from "+postgres.Ident(p.name, "models")+" where job = $1", step.Outputs["job"]).Scan(&loss)
		if err != nil {
			t.Fatal(err)
		}
		if best == "" || loss < lowest {
			best, lowest = step.Outputs["model-version"], loss
		}
	}
	return best
}

func TestPicturesAreLearnedByTorchAndPredictedFromPNG(t *testing.T) {
	t.Parallel()
	p := newProject(t, "cifar10")

	// A port that nobody listens on: temporary, and no dataset is left half-written.
	code, printed := p.run(t, "--dataset", "http://127.0.0.1:1/cifar-10-binary.tar.gz")
	if code != 75 || !strings.Contains(printed, "127.0.0.1:1") {
		t.Fatalf("an unreachable dataset: exit code %d, expected 75 and the address\n%s", code, printed)
	}
	if c := p.counts(t); c["training.datasets"]+c["training.jobs"]+c["inference.databasechangelog"] != 0 {
		t.Errorf("an unreachable dataset left %v", c)
	}

	s := p.succeed(t, "--dataset", pictures(t), "-p", "epochs=1")
	var torch string
	if err := p.training.QueryRow(t.Context(), "select "+postgres.Ident(p.name, "library_versions")+"() ->> 'torch'").Scan(&torch); err != nil {
		t.Fatal(err)
	}
	if tags := p.registered(t, s.Model.Version); torch == "" || tags["insitu.library.torch"] != torch {
		t.Errorf("torch %q in the database, %q in MLflow", torch, tags["insitu.library.torch"])
	}
	picture := image.NewRGBA(image.Rect(0, 0, 32, 32))
	for i := range 32 * 32 {
		picture.Set(i%32, i/32, color.RGBA{200, 200, 200, 255})
	}
	var raw bytes.Buffer
	if err := png.Encode(&raw, picture); err != nil {
		t.Fatal(err)
	}
	var label string
	if err := p.inference.QueryRow(t.Context(), "select "+postgres.Ident(p.name, "run_inference_task")+"($1)", raw.Bytes()).Scan(&label); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(classes(), label) {
		t.Errorf("a PNG is predicted as %q, expected one of %q", label, classes())
	}
}

func TestTheExamplesForTablesAreTrainedAndServed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		example, epochs string
		columns, shards int
		metric          string
		labels          []string // none: a number
	}{
		{"logistic", "3", 30, 2, "Accuracy on held-out data", []string{"malignant", "benign"}},
		{"linear", "20", 5, 2, "R2 on held-out data", nil},
		{"sklearn", "2", 6, 2, "Accuracy on held-out data", []string{"ok", "failed"}},
		{"boosting", "2", 6, 1, "Accuracy on held-out data", []string{"poor", "fair", "good"}},
	} {
		t.Run(test.example, func(t *testing.T) {
			t.Parallel()
			p := newProject(t, test.example)
			code, printed := p.run(t, "-p", "epochs="+test.epochs)
			if code != 0 || !strings.Contains(printed, test.metric) {
				t.Fatalf("exit code %d, expected 0 and the %s\n%s", code, test.metric, printed)
			}
			var shards int
			if err := p.training.QueryRow(t.Context(), "select (manifest ->> 'shards')::int from "+postgres.Ident(p.name, "datasets")).Scan(&shards); err != nil || shards != test.shards {
				t.Errorf("%d shards, expected %d (%v)", shards, test.shards, err)
			}
			var label string
			zeros := make([]byte, 4*test.columns)
			if err := p.inference.QueryRow(t.Context(), "select "+postgres.Ident(p.name, "run_inference_task")+"($1)", zeros).Scan(&label); err != nil {
				t.Fatal(err)
			}
			if _, err := strconv.ParseFloat(label, 64); test.labels == nil && err != nil || test.labels != nil && !slices.Contains(test.labels, label) {
				t.Errorf("a row of zeros is predicted as %q, expected one of %q, or a number", label, test.labels)
			}
			var named string // the same row, by the names that the training wrote into the model
			if err := p.inference.QueryRow(t.Context(), "select label from "+postgres.Ident(p.name, "predict_row")+"((select json_object_agg(feature, 0) from "+
				postgres.Ident(p.name, "models")+", json_array_elements_text(manifest -> 'columns') c (feature)))").Scan(&named); err != nil || named != label {
				t.Errorf("by the names of its columns it is predicted as %q, else as %q (%v)", named, label, err)
			}
		})
	}
}

func classes() []string {
	return []string{"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}
}

// pictures writes a file of CIFAR-10's format: 600 pictures whose brightness tells their class.
func pictures(t *testing.T) string {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	add := func(name string, content []byte) {
		t.Helper()
		err := archive.WriteHeader(&tar.Header{Name: "cifar-10-batches-bin/" + name, Mode: 0o644, Size: int64(len(content))})
		if _, err2 := archive.Write(content); err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
	}
	add("batches.meta.txt", []byte(strings.Join(classes(), "\n")+"\n"))
	for _, name := range []string{"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"} {
		var content []byte
		for i := range 100 {
			content = append(content, byte(i%10))
			for range 3 * 32 * 32 {
				content = append(content, byte(i%10*25+random.IntN(25)))
			}
		}
		add(name, content)
	}
	file := filepath.Join(t.TempDir(), "cifar-10-binary.tar.gz")
	if err := errors.Join(archive.Close(), zipped.Close(), os.WriteFile(file, packed.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	return file
}
