package trainingtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// Server is the training database of INSITU_TEST_BINDINGS and an empty schema of the test's own;
// the test is skipped when there are no bindings.
func Server(t testing.TB) (config postgres.Config, schema string) {
	t.Helper()
	config = testenv.Training(t)
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
