package trainingtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Server is the training database of INSITU_TEST_BINDINGS and an empty schema of the test's own;
// the test is skipped when there are no bindings.
func Server(t testing.TB) (config postgres.Config, schema string) {
	t.Helper()
	root := os.Getenv("INSITU_TEST_BINDINGS")
	if root == "" {
		t.Skip("needs a real training database: INSITU_TEST_BINDINGS is not set")
	}
	b, err := binding.Find(root, "postgresql/insitu-training")
	must(t, err)
	value := func(name string) string {
		v, _, err := b.Value(name)
		must(t, err)
		return v
	}
	port, err := strconv.Atoi(value("port"))
	must(t, err)
	config = postgres.Config{Host: value("host"), Port: port, Database: value("database"), Username: value("username"), Password: value("password"), SSLMode: value("sslmode")}
	schema = fmt.Sprintf("train-test-%d", time.Now().UnixNano())
	run := func(sql string) {
		c, err := postgres.Connect(context.Background(), config, postgres.Options{})
		must(t, err)
		defer c.Close()
		_, err = c.Exec(context.Background(), sql)
		must(t, postgres.Wrap(err, sql))
	}
	run("create schema " + postgres.Ident(schema))
	t.Cleanup(func() { run("drop schema " + postgres.Ident(schema) + " cascade") })
	return config, schema
}
