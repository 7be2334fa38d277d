package uploaddataset

import (
	"context"
	"crypto/rand"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/objectstore"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// world is a schema and a bucket of the test's own on the real servers; neither exists yet.
type world struct {
	flags map[string]string
	db    *postgres.Conn
	store *objectstore.Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root := os.Getenv("INSITU_TEST_BINDINGS")
	if root == "" {
		t.Skip("INSITU_TEST_BINDINGS is not set: no servers to test with")
	}
	flags := map[string]string{"schema": "test-" + rand.Text(), "s3-bucket": "test-" + strings.ToLower(rand.Text())}
	for prefix, selector := range map[string]string{"training": "postgresql/insitu-training", "s3": "s3"} {
		b, err := binding.Find(root, selector)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"host", "port", "database", "username", "password", "endpoint", "access-key-id", "secret-access-key", "region"} {
			v, ok, err := b.Value(name)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				flags[prefix+"-"+name] = v
			}
		}
	}
	w := &world{flags: flags}
	port, err := strconv.Atoi(flags["training-port"])
	if err != nil {
		t.Fatal(err)
	}
	w.db, err = postgres.Connect(context.Background(), postgres.Config{Host: flags["training-host"], Port: port, Database: flags["training-database"],
		Username: flags["training-username"], Password: flags["training-password"]}, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.store, err = objectstore.New(objectstore.Config{Endpoint: flags["s3-endpoint"], AccessKeyID: flags["s3-access-key-id"],
		SecretAccessKey: flags["s3-secret-access-key"], Region: flags["s3-region"], Bucket: flags["s3-bucket"]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := w.db.Exec(context.Background(), "drop schema if exists "+postgres.Ident(flags["schema"])+" cascade"); err != nil {
			t.Error(err)
		}
		w.db.Close()
	})
	return w
}
