package uploaddataset

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/insitu-ml/insitu/internal/objectstore"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// world is a schema and a bucket of the test's own on the real servers; neither exists yet.
type world struct {
	flags map[string]string
	db    *postgres.Conn
	store *objectstore.Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	flags := map[string]string{"schema": "test-" + rand.Text(), "s3-bucket": "test-" + strings.ToLower(rand.Text())}
	for prefix, selector := range map[string]string{"training": "postgresql/insitu-training", "s3": "s3"} {
		value := testenv.Binding(t, selector)
		for _, name := range []string{"host", "port", "database", "username", "password", "endpoint", "access-key-id", "secret-access-key", "region"} {
			if v := value(name); v != "" {
				flags[prefix+"-"+name] = v
			}
		}
	}
	w := &world{flags: flags}
	var err error
	w.db, err = postgres.Connect(context.Background(), testenv.Training(t), postgres.Options{})
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
