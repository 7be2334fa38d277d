package registrytest

import (
	"os"
	"testing"

	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// Real is the MLflow server of INSITU_TEST_BINDINGS; the test is skipped when there are no bindings.
func Real(t testing.TB) registry.Config {
	t.Helper()
	value := testenv.Binding(t, "mlflow")
	return registry.Config{URI: value("uri"), Username: value("username"), Password: value("password"), Token: value("token")}
}

// Python is an interpreter that has mlflow, onnx and onnxruntime; the test is skipped without one.
func Python(t testing.TB) string {
	t.Helper()
	if python := os.Getenv("INSITU_TEST_MLFLOW_PYTHON"); python != "" {
		return python
	}
	t.Skip("needs a Python with mlflow, onnx and onnxruntime: INSITU_TEST_MLFLOW_PYTHON is not set")
	return ""
}
