package registry_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/registry/registrytest"
)

// mlflow is a client of the real server.
func mlflow(t *testing.T) *registry.Client {
	t.Helper()
	client, err := registry.New(registrytest.Real(t))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// unique keeps tests that share a server apart.
func unique(t *testing.T) string {
	return fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), time.Now().UnixNano())
}

func TestRunsOnARealServer(t *testing.T) {
	t.Parallel()
	ctx, c, name := t.Context(), mlflow(t), unique(t)
	experiment, err := c.EnsureExperiment(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.EnsureExperiment(ctx, name); err != nil || again != experiment {
		t.Fatalf("second call gave %q, error %v", again, err)
	}
	tags := map[string]string{"insitu.job": "j1", "git_sha": "abc"}
	run, err := c.EnsureRun(ctx, experiment, "first", tags, "insitu.job")
	if err != nil || run.Status != registry.Running || run.Tags["git_sha"] != "abc" {
		t.Fatalf("run %+v, error %v", run, err)
	}
	if again, err := c.EnsureRun(ctx, experiment, "second", tags, "insitu.job"); err != nil || again.ID != run.ID {
		t.Fatalf("second call gave %+v, error %v", again, err)
	}
	for range 2 { // a second time changes nothing
		if err := errors.Join(
			c.LogParams(ctx, run.ID, map[string]string{"seed": "7", "long": strings.Repeat("x", 7000)}),
			c.LogMetrics(ctx, run.ID, []registry.Metric{{Key: "loss", Value: 0.5, Step: 1, Time: time.UnixMilli(1)}, {Key: "loss", Value: 0.25, Step: 2, Time: time.UnixMilli(2)}}),
			c.SetRunTag(ctx, run.ID, "mlflow.note.content", "a note"),
			c.UpdateRun(ctx, run.ID, registry.Finished),
		); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.GetRun(ctx, run.ID)
	if err != nil || got.Status != registry.Finished || got.Metrics["loss"] != 0.25 || got.Params["seed"] != "7" || len(got.Params["long"]) != 6000 {
		t.Errorf("run %+v, error %v", got, err)
	}
	if _, err := c.GetRun(ctx, strings.Repeat("0", 32)); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("missing run: error %v", err)
	}
	if err := c.UploadArtifact(ctx, run, "a/b c.txt", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if text, err := c.DownloadArtifact(ctx, run, "a/b c.txt", 10); err != nil || string(text) != "hello" {
		t.Errorf("artifact %q, error %v", text, err)
	}
	if _, err := c.DownloadArtifact(ctx, run, "a/none", 10); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("missing artifact: error %v", err)
	}
}

func TestOneOfManyClaimsAModel(t *testing.T) {
	t.Parallel()
	ctx, c, name := t.Context(), mlflow(t), unique(t)
	owners := make([]string, 4)
	var wait sync.WaitGroup
	for i := range owners {
		wait.Go(func() {
			var err error
			if owners[i], err = c.ClaimModel(ctx, name, "insitu.tenant", fmt.Sprintf("db/tenant-%d@7", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for _, owner := range owners {
		if owner == "" || owner != owners[0] {
			t.Errorf("owners %q", owners)
		}
	}
	// A model that was registered without an owner gets one.
	if err := c.EnsureModel(ctx, "plain-"+name); err != nil {
		t.Fatal(err)
	}
	for _, claim := range []string{"a", "b"} {
		if owner, err := c.ClaimModel(ctx, "plain-"+name, "insitu.tenant", claim); err != nil || owner != "a" {
			t.Errorf("%s claims it: %q, %v", claim, owner, err)
		}
	}
}

func TestPythonLoadsAndPredictsWithARegisteredModel(t *testing.T) {
	t.Parallel()
	python := registrytest.Python(t)
	ctx, c, name := t.Context(), mlflow(t), unique(t)
	onnx := makeONNX(t, python)
	experiment, err := c.EnsureExperiment(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{"insitu.job": "j1", "git_sha": "abc"}
	run, err := c.EnsureRun(ctx, experiment, "job", tags, "insitu.job")
	if err != nil {
		t.Fatal(err)
	}
	files, err := registry.ONNXModel{
		ONNX:  onnx,
		Input: registry.Tensor{DType: "uint8", Shape: []int{-1, 8, 8}}, Output: registry.Tensor{DType: "float32", Shape: []int{-1, 10}},
		RunID: run.ID, Packages: map[string]string{"numpy": "1.24.2"}, Python: "3.11.2", Created: time.Now(), Details: map[string]any{"job": "j1"},
	}.Files()
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range files {
		if err := c.UploadArtifact(ctx, run, "model/"+file, content); err != nil {
			t.Fatal(err)
		}
	}
	v, created, err := c.EnsureModelVersion(ctx, name, run, "model", "insitu.job", tags)
	if err != nil || !created || v.Version != 1 || v.Tags["git_sha"] != "abc" || v.RunID != run.ID {
		t.Fatalf("version %+v, created %t, error %v", v, created, err)
	}
	if again, created, err := c.EnsureModelVersion(ctx, name, run, "model", "insitu.job", tags); err != nil || created || again.Version != 1 {
		t.Fatalf("second call: version %+v, created %t, error %v", again, created, err)
	}
	if _, err := c.Alias(ctx, name, "staging"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("alias before it is set: error %v", err)
	}
	for range 2 {
		if err := errors.Join(c.SetAlias(ctx, name, "staging", 1), c.SetVersionTag(ctx, name, 1, "k", "v")); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := c.Alias(ctx, name, "staging"); err != nil || v.Version != 1 || v.Tags["k"] != "v" {
		t.Errorf("alias holder %+v, error %v", v, err)
	}
	if supported, err := c.TransitionStage(ctx, name, 1, "Staging"); err != nil || !supported {
		t.Errorf("stage: supported %t, error %v", supported, err)
	}
	if v, err := c.ModelVersion(ctx, name, 1); err != nil || v.Stage != "Staging" {
		t.Errorf("version %+v, error %v", v, err)
	}
	if _, err := c.ModelVersion(ctx, name, 2); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("missing version: error %v", err)
	}
	if list, err := c.ModelVersions(ctx, "none-"+name, nil); err != nil || len(list) != 0 {
		t.Errorf("versions of a missing model %+v, error %v", list, err)
	}

	got := runPython(t, python, `
import mlflow, numpy, sys
mlflow.set_tracking_uri(sys.argv[1])
uri = "models:/" + sys.argv[2] + "@staging"
model = mlflow.pyfunc.load_model(uri)
out = model.predict(numpy.ones((2, 8, 8), numpy.uint8))
out = next(iter(out.values())) if isinstance(out, dict) else out
print(out.shape, out.dtype, float(out.sum()), model.metadata.get_input_schema(), mlflow.onnx.load_model(uri).graph.name)
`, c.Address(), name)
	want := `(2, 10) float32 1280.0 [Tensor('uint8', (-1, 8, 8))] ones`
	if got != want {
		t.Errorf("Python printed %q, want %q", got, want)
	}
}

// makeONNX returns a model that sums 64 uint8 inputs into each of 10 outputs.
func makeONNX(t *testing.T, python string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.onnx")
	runPython(t, python, `
import numpy, onnx, sys
from onnx import TensorProto as T, helper as h, numpy_helper as n
graph = h.make_graph(
    [h.make_node("Cast", ["input"], ["f"], to=T.FLOAT), h.make_node("Reshape", ["f", "s"], ["r"]), h.make_node("MatMul", ["r", "w"], ["output"])],
    "ones", [h.make_tensor_value_info("input", T.UINT8, ["n", 8, 8])], [h.make_tensor_value_info("output", T.FLOAT, ["n", 10])],
    [n.from_array(numpy.array([-1, 64]), "s"), n.from_array(numpy.ones((64, 10), numpy.float32), "w")])
onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), sys.argv[1])
`, path)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func runPython(t *testing.T, python, script string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python, append([]string{"-c", script}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}
