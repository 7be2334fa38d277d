// Package testenv gives tests the real services that `make test` starts.
//
// INSITU_TEST_BINDINGS names a directory of service bindings; without it a test that asks is skipped.
// It is imported by tests only.
package testenv

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

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

// createLanguage keeps tests of several packages, which start at once, from creating it together.
func createLanguage(t testing.TB, c postgres.Config) {
	t.Helper()
	conn, err := postgres.Connect(context.Background(), c, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := postgres.TryLock(context.Background(), conn, "extension:plpython3u", time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(context.Background(), "create extension if not exists plpython3u"); err != nil {
		t.Fatal(err)
	}
}

func database(t testing.TB, selector string) postgres.Config {
	t.Helper()
	value := Binding(t, selector)
	port, err := strconv.Atoi(value("port"))
	if err != nil {
		t.Fatal(err)
	}
	c := postgres.Config{Host: value("host"), Port: port, Database: value("database"),
		Username: value("username"), Password: value("password"), SSLMode: value("sslmode")}
	createLanguage(t, c)
	return c
}
