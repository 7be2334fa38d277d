package objectstore

import (
	"os"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/insitu-ml/insitu/internal/binding"
)

// server is the real S3 service of the tests.
func server(t *testing.T) Config {
	t.Helper()
	root := os.Getenv("INSITU_TEST_BINDINGS")
	if root == "" {
		t.Skip("INSITU_TEST_BINDINGS is not set: no S3 server to test with")
	}
	b, err := binding.Find(root, "s3")
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
	return Config{Endpoint: value("endpoint"), AccessKeyID: value("access-key-id"), SecretAccessKey: value("secret-access-key"), Bucket: value("bucket"), Region: value("region")}
}

func listAll() minio.ListObjectsOptions { return minio.ListObjectsOptions{Recursive: true} }
