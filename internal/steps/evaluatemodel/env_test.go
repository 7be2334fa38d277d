package evaluatemodel

import (
	"context"
	"fmt"
	"hash/fnv"
	"testing"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// server is the training database, with an empty schema of the test's own.
func server(t *testing.T) (postgres.Config, string) {
	t.Helper()
	cfg := testenv.Training(t)
	name := fnv.New64()
	_, _ = name.Write([]byte(t.Name()))
	schema := fmt.Sprintf("Test-evaluate-%x", name.Sum64())
	run := func(sql string) {
		c, err := postgres.Connect(context.Background(), cfg, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	drop := "drop schema if exists " + postgres.Ident(schema) + " cascade"
	run(drop)
	run("create schema " + postgres.Ident(schema))
	t.Cleanup(func() { run(drop) })
	return cfg, schema
}

// mlflow is the URI of a real MLflow server.
func mlflow(t *testing.T) string {
	t.Helper()
	return testenv.Binding(t, "mlflow")("uri")
}
