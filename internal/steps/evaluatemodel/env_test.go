package evaluatemodel

import (
	"testing"

	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// server is the training database, with an empty schema of the test's own.
func server(t *testing.T) (postgres.Config, string) {
	t.Helper()
	cfg := testenv.Training(t)
	schema := changelogtest.Schema(t, cfg, "Test-evaluate")
	conn, err := postgres.Connect(t.Context(), cfg, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := postgres.EnsureSchema(t.Context(), conn, schema); err != nil {
		t.Fatal(err)
	}
	return cfg, schema
}

// mlflow is the URI of a real MLflow server.
func mlflow(t *testing.T) string {
	t.Helper()
	return testenv.Binding(t, "mlflow")("uri")
}
