// Package testenv gives tests the real services that `make test` starts.
//
// INSITU_TEST_BINDINGS names a directory of service bindings; without it a test that asks is skipped.
// It is imported by tests only.
package testenv

import (
	"os"
	"strconv"
	"testing"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Binding returns a reader of the files of one service binding, "" for a file that is not there.
func Binding(t testing.TB, selector string) func(name string) string {
	t.Helper()
	root := os.Getenv("INSITU_TEST_BINDINGS")
	if root == "" {
		t.Skip("needs real services: INSITU_TEST_BINDINGS is not set (make test starts them)")
	}
	b, err := binding.Find(root, selector)
	if err != nil {
		t.Fatal(err)
	}
	return func(name string) string {
		t.Helper()
		value, _, err := b.Value(name)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// Training is the training database, as a superuser. Make a schema of the test's own.
func Training(t testing.TB) postgres.Config {
	t.Helper()
	return database(t, "postgresql/insitu-training")
}

// Inference is the inference database, as a superuser. Make a schema of the test's own.
func Inference(t testing.TB) postgres.Config {
	t.Helper()
	return database(t, "postgresql/insitu-inference")
}

func database(t testing.TB, selector string) postgres.Config {
	t.Helper()
	value := Binding(t, selector)
	port, err := strconv.Atoi(value("port"))
	if err != nil {
		t.Fatal(err)
	}
	return postgres.Config{Host: value("host"), Port: port, Database: value("database"),
		Username: value("username"), Password: value("password"), SSLMode: value("sslmode")}
}
