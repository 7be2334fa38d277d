package objectstore

import (
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/insitu-ml/insitu/internal/testenv"
)

// server is the real S3 service of the tests.
func server(t *testing.T) Config {
	t.Helper()
	value := testenv.Binding(t, "s3")
	return Config{Endpoint: value("endpoint"), AccessKeyID: value("access-key-id"), SecretAccessKey: value("secret-access-key"), Bucket: value("bucket"), Region: value("region")}
}

func listAll() minio.ListObjectsOptions { return minio.ListObjectsOptions{Recursive: true} }
