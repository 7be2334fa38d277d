package evaluatemodel

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"testing"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// bound is the service binding of a real server; without bindings the test is skipped.
func bound(t *testing.T, selector string) func(name string) string {
	t.Helper()
	root := os.Getenv("INSITU_TEST_BINDINGS")
	if root == "" {
		t.Skip("needs real services: INSITU_TEST_BINDINGS is not set")
	}
	b, err := binding.Find(root, selector)
	if err != nil {
		t.Fatal(err)
	}
	return func(name string) string {
		value, _, err := b.Value(name)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// server is the training database, with an empty schema of the test's own.
func server(t *testing.T) (postgres.Config, string) {
	t.Helper()
	value := bound(t, "postgresql/insitu-training")
	port, err := strconv.Atoi(value("port"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := postgres.Config{Host: value("host"), Port: port, Database: value("database"), Username: value("username"), Password: value("password"), SSLMode: value("sslmode")}
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
	return bound(t, "mlflow")("uri")
}
