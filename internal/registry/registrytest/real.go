package registrytest

import (
	"os"
	"os/exec"
	"testing"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/registry"
)

// Real is the MLflow server of INSITU_TEST_BINDINGS; the test is skipped when there are no bindings.
func Real(t testing.TB) registry.Config {
	t.Helper()
	root := os.Getenv("INSITU_TEST_BINDINGS")
	if root == "" {
		t.Skip("needs a real MLflow server: INSITU_TEST_BINDINGS is not set")
	}
	b, err := binding.Find(root, "mlflow")
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string) string {
		v, _, err := b.Value(name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return registry.Config{URI: value("uri"), Username: value("username"), Password: value("password"), Token: value("token")}
}

// Python is an interpreter that has mlflow, onnx and onnxruntime; the test is skipped without one.
func Python(t testing.TB) string {
	t.Helper()
	for _, python := range []string{os.Getenv("INSITU_TEST_MLFLOW_PYTHON"), "/var/cache/insitu/mlflow-venv/bin/python"} {
		if python != "" && exec.Command(python, "-c", "import mlflow.onnx, onnxruntime").Run() == nil {
			return python
		}
	}
	t.Skip("needs a Python with mlflow, onnx and onnxruntime: INSITU_TEST_MLFLOW_PYTHON names none")
	return ""
}
