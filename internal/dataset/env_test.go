package dataset

import (
	"context"
	"crypto/rand"
	"os"
	"strconv"
	"testing"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// database is the training database of the tests and a schema of the test's own, which does not exist yet.
func database(t *testing.T) (postgres.Config, string) {
	t.Helper()
	root := os.Getenv("INSITU_TEST_BINDINGS")
	if root == "" {
		t.Skip("INSITU_TEST_BINDINGS is not set: no database to test with")
	}
	b, err := binding.Find(root, "postgresql/insitu-training")
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
	port, err := strconv.Atoi(value("port"))
	if err != nil {
		t.Fatal(err)
	}
	c := postgres.Config{Host: value("host"), Port: port, Database: value("database"), Username: value("username"), Password: value("password")}
	schema := "Test " + rand.Text()
	t.Cleanup(func() {
		conn := connect(t, c)
		if _, err := conn.Exec(context.Background(), "drop schema if exists "+postgres.Ident(schema)+" cascade"); err != nil {
			t.Error(err)
		}
	})
	return c, schema
}

func connect(t *testing.T, c postgres.Config) *postgres.Conn {
	t.Helper()
	conn, err := postgres.Connect(context.Background(), c, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}
