package mlapp

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/fault"
)

const (
	manifest = "name: digits\ninput: {shape: [8, 8], dtype: uint8}\ndataset: {source: data/digits.csv}\n"
	learner  = "class Learner:\n    pass\n"
)

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func app(more map[string]string) map[string]string {
	files := map[string]string{"insitu.yaml": manifest, "learner.py": learner}
	maps.Copy(files, more)
	return files
}

func archived(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for _, name := range sortedKeys(files) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(files[name])), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestOnlyTheManifestAndImportablePythonDecideTheDigest(t *testing.T) {
	t.Parallel()
	base, err := Load(folder(t, app(nil)))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files map[string]string
		same  bool
	}{
		"the same files":       {nil, true},
		"a README":             {map[string]string{"README.md": "words"}, true},
		"a test":               {map[string]string{"test_learner.py": "assert 0", "conftest.py": ""}, true},
		"data":                 {map[string]string{"data/digits.csv": "1,2"}, true},
		"hidden files, caches": {map[string]string{".git/hook.py": "x", "__pycache__/learner.py": "x"}, true},
		"another module":       {map[string]string{"layers/conv.py": "x = 1"}, false},
		"an edited learner":    {map[string]string{"learner.py": learner + "#"}, false},
		"an edited manifest":   {map[string]string{"insitu.yaml": manifest + "# more\n"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Load(folder(t, app(c.files)))
			if err != nil {
				t.Fatal(err)
			}
			if (got.Digest == base.Digest) != c.same {
				t.Errorf("digest equal: %v, want %v", got.Digest == base.Digest, c.same)
			}
		})
	}
}

func TestAFolderItsPackAndAnyArchiveOfItAreTheSameApp(t *testing.T) {
	t.Parallel()
	files := app(map[string]string{"layers/conv.py": "x = 1", "README.md": "words", "data/digits.csv": "a,b\n", "notes.txt": "private"})
	dir := folder(t, files)
	want, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := Pack(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Pack(dir)
	if err != nil || !bytes.Equal(packed, again) {
		t.Errorf("packed twice, the bytes differ (%v)", err)
	}
	if bytes.Contains(packed, []byte("private")) || len(packed) == 0 {
		t.Error("the pack holds files that do not belong to the app")
	}
	below := map[string]string{}
	for name, text := range files {
		below["repo-main/"+name] = text
	}
	for name, archive := range map[string][]byte{"its pack": packed, "an archive": archived(t, files), "an archive with a folder": archived(t, below)} {
		got, err := Read(bytes.NewReader(archive))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want.Files, got.Files); diff != "" || got.Digest != want.Digest {
			t.Errorf("%s: digest %s, want %s %s", name, got.Digest, want.Digest, diff)
		}
		r, err := got.OpenDataset()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if text, err := io.ReadAll(r); err != nil || string(text) != "a,b\n" {
			t.Errorf("%s: dataset %q, %v", name, text, err)
		}
	}
}

func TestOpenReadsFoldersFilesAndURLs(t *testing.T) {
	t.Parallel()
	dir := folder(t, app(nil))
	packed, err := Pack(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "app.tar.gz")
	if err := os.WriteFile(file, packed, 0o600); err != nil {
		t.Fatal(err)
	}
	fetch := func(_ context.Context, location string) (io.ReadCloser, error) {
		if location != "s3://bucket/app.tar.gz" {
			return nil, errors.New("unexpected " + location)
		}
		return io.NopCloser(bytes.NewReader(packed)), nil
	}
	for _, location := range []string{dir, "file://" + dir, "file:" + dir, file, "file://" + file, "s3://bucket/app.tar.gz"} {
		if got, err := Open(t.Context(), location, fetch); err != nil || got.Manifest.Name != "digits" {
			t.Errorf("%s: %v", location, err)
		}
	}
	if _, err := Open(t.Context(), filepath.Join(dir, "missing"), fetch); fault.Of(err) != fault.Configuration {
		t.Errorf("a missing folder: %v", err)
	}
}

func TestAppsThatCannotWorkAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no manifest":         {map[string]string{"learner.py": learner}, "there is no insitu.yaml"},
		"no learner":          {map[string]string{"insitu.yaml": manifest}, "there is no learner.py"},
		"no class":            {app(map[string]string{"learner.py": "def fit(): pass\n"}), "learner.py defines no class Learner"},
		"only in a comment":   {app(map[string]string{"learner.py": "# class Learner\n"}), "defines no class Learner"},
		"our names":           {app(map[string]string{"insitu_runtime/boot.py": "x"}), "belong to Insitu"},
		"not UTF-8":           {app(map[string]string{"more.py": "\xff"}), "more.py is not UTF-8"},
		"too large":           {app(map[string]string{"more.py": strings.Repeat("#", maxSource+1)}), "has more than"},
		"a manifest of lists": {app(map[string]string{"insitu.yaml": "[1]"}), "read insitu.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(folder(t, c.files))
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.Of(err) != fault.Configuration {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestLearnersMayBeImported(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"from network import Learner\n", "import network\nLearner = network.Small\n", "\"\"\"Doc.\"\"\"\n\n\nclass Learner(Base):\n    pass\n"} {
		if _, err := Load(folder(t, app(map[string]string{"learner.py": text}))); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestEveryProblemOfAManifestIsToldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := ParseManifest([]byte(`
name: "no spaces please"
model: ok
task: ranking
input: {shape: [8, 0], dtype: int8, range: [1, 1], labels: [a, a]}
dataset: {source: ../secret.csv}
parameters:
  Rate: {type: float, default: 1}
  width: {type: int, default: 1.5}
  kind: {type: string, default: sine, enum: [relu]}
  depth: {type: number, default: 1}
  bare: {type: int}
  late: {type: float, default: 3, max: 2}
  word: {type: string, default: a, min: 1}
  epochs: {type: float, default: 1}
gate: {accuracy: 1.5}
max_shards: 0
`))
	if err == nil || fault.Of(err) != fault.Configuration {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		`name "no spaces please"`, `task "ranking"`, "input.shape [8 0]", `input.dtype "int8"`, "input.range [1, 1]", `class "a"`, `dataset.source "../secret.csv"`,
		`parameter "Rate"`, `parameter "width": default: "1.5" is no int`, `parameter "kind": default: sine is none of`, `parameter "depth": type "number"`,
		`parameter "bare": expected a default`, `parameter "late": default: 3 is more than 2`, `parameter "word": min and max are for`, `parameter "epochs": it counts epochs`, "gate.accuracy is 1.5",
		"max_shards is 0",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

func TestUnknownAndRepeatedKeysAreRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{manifest + "epochs: 3\n", manifest + "name: again\n", strings.Replace(manifest, "dtype", "type", 1)} {
		if _, err := ParseManifest([]byte(text)); fault.Of(err) != fault.Configuration || err == nil {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestModelAndTaskHaveDefaults(t *testing.T) {
	t.Parallel()
	m, err := ParseManifest([]byte(manifest))
	if err != nil || m.Model != "digits" || m.Task != Classification {
		t.Errorf("got %+v, %v", m, err)
	}
}

func parameters(t *testing.T) *Manifest {
	t.Helper()
	m, err := ParseManifest([]byte(manifest + `
parameters:
  rate: {type: float, default: 0.1, min: 0, max: 1}
  width: {type: int, default: 8, min: 1}
  kind: {type: string, default: relu, enum: [relu, tanh]}
  fast: {type: bool, default: false}
`))
	if err != nil {
		t.Fatal(err)
	}
	return &m
}

func TestResolveAddsDefaultsAndKeepsTypes(t *testing.T) {
	t.Parallel()
	got, err := parameters(t).Resolve(map[string]any{"rate": 1, "width": json.Number("4"), "epochs": 3.0})
	want := map[string]any{"rate": 1.0, "width": int64(4), "kind": "relu", "fast": false, "epochs": int64(3), "patience": int64(0)}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

func TestResolveTellsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	_, err := parameters(t).Resolve(map[string]any{"rate": 2, "width": "abc", "kind": "sine", "fast": 1, "depth": 3, "epochs": json.Number("1e400")})
	if fault.Of(err) != fault.Configuration {
		t.Fatalf("got %v", err)
	}
	want := `parameter "depth" is not declared in insitu.yaml; expected one of ["epochs" "fast" "kind" "patience" "rate" "width"]
parameter "epochs": "1e400" is no int
parameter "fast": 1 is no bool
parameter "kind": sine is none of [relu tanh]
parameter "rate": 2 is more than 1
parameter "width": "abc" is no int`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

// The same example stands in database/README.md and in database/tests/test_parameters.py.
func TestTheJobIDOfTheREADMEsExample(t *testing.T) {
	t.Parallel()
	got, err := Job{Code: "aaaa", Dataset: "bbbb", Rows: "cccc", Parameters: map[string]any{"activation": "relu <&>", "epochs": int64(10), "learning_rate": 0.00001, "momentum": 1.0,
		"nesterov": true, "patience": int64(0), "weight_decay": 1e-7}, Seed: 7, Start: "dddd"}.ID()
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../database/README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "\n"+got+"\n") {
		t.Errorf("%s is not the README's", got)
	}
}

func TestTheExamplesAreApps(t *testing.T) {
	t.Parallel()
	for name, model := range map[string]string{
		"digits": "digits", "cifar10": "cifar_cnn", "logistic": "logistic", "linear": "linear", "sklearn": "sklearn", "boosting": "boosting",
	} {
		a, err := Load(filepath.Join("../../examples", name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if a.Manifest.Model != model || a.Manifest.Name != name {
			t.Errorf("%s: got name %q, model %q", name, a.Manifest.Name, a.Manifest.Model)
		}
		text, err := a.Bundle()
		var files map[string]string
		if err := errors.Join(err, json.Unmarshal([]byte(text), &files)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if files["learner.py"] == "" || files["insitu_runtime/__init__.py"] == "" || files["test_learner.py"] != "" {
			t.Errorf("%s: the bundle holds %q", name, sortedKeys(files))
		}
	}
}

func TestTheManifestAsJSONDeclaresEveryParameter(t *testing.T) {
	t.Parallel()
	a, err := Load("../../examples/digits")
	if err != nil {
		t.Fatal(err)
	}
	text, err := a.ManifestJSON()
	var back Manifest
	if err := errors.Join(err, json.Unmarshal([]byte(text), &back)); err != nil {
		t.Fatal(err)
	}
	given, want := map[string]any{"epochs": 3}, map[string]any(nil)
	if want, err = a.Manifest.Resolve(given); err != nil {
		t.Fatal(err)
	}
	if got, err := back.Resolve(given); err != nil || !cmp.Equal(want, got) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}
