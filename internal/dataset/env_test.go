package dataset

import (
	"context"
	"crypto/rand"
	"testing"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// database is the training database of the tests and a schema of the test's own, which does not exist yet.
func database(t *testing.T) (postgres.Config, string) {
	t.Helper()
	c := testenv.Training(t)
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
