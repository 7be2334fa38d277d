package services_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/step/steptest"
)

type all struct {
	Training, Inference postgres.Config
	S3                  services.S3Config
	MLflow              services.MLflowConfig
}

// read runs a step that uses all four services.
func read(t *testing.T, env map[string]string) (all, steptest.Result) {
	t.Helper()
	var got all
	r := steptest.Run(t, step.Spec{
		Name:  "trial",
		Flags: slices.Concat(services.TrainingFlags(), services.InferenceFlags(), services.S3Flags(), services.MLflowFlags()),
		Run: func(_ context.Context, in *step.Input) error {
			got = all{services.Training(in), services.Inference(in), services.S3(in), services.MLflow(in)}
			return in.Validate(got.S3.Check(), got.MLflow.Check())
		},
	}, nil, steptest.Env(env))
	return got, r
}

func bindings(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, files := range map[string]map[string]string{
		"a": {"type": "greenplum", "provider": "vmware", "host": "gp", "port": "6000", "database": "dev", "username": "gpadmin", "password": "gp-secret", "sslmode": "verify-full", "sslrootcert": "-----BEGIN CERTIFICATE-----"},
		"b": {"type": "postgresql", "provider": "vmware", "uri": "postgres://ann:pg-secret@pg/base"},
		"c": {"type": "s3", "provider": "minio", "endpoint": "http://s3:9000", "access-key-id": "id", "secret-access-key": "s3-secret", "bucket": "data"},
		"d": {"type": "mlflow", "uri": "http://ann:ml-secret@mlflow:5000/x"},
	} {
		steptest.Binding(t, root, name, files)
	}
	return root
}

func TestBindingsFillEverySetting(t *testing.T) {
	t.Parallel()
	root := bindings(t)
	got, r := read(t, map[string]string{"SERVICE_BINDING_ROOT": root})
	if r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	want := all{
		Training:  postgres.Config{Host: "gp", Port: 6000, Database: "dev", Username: "gpadmin", Password: "gp-secret", SSLMode: "verify-full", SSLRootCert: root + "/a/sslrootcert"},
		Inference: postgres.Config{Host: "pg", Port: 5432, Database: "base", Username: "ann", Password: "pg-secret"},
		S3:        services.S3Config{Endpoint: "http://s3:9000", AccessKeyID: "id", SecretAccessKey: "s3-secret", Bucket: "data", Region: "us-east-1"},
		MLflow:    services.MLflowConfig{URI: "http://mlflow:5000/x", Username: "ann", Password: "ml-secret"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestVariablesBeatBindings(t *testing.T) {
	t.Parallel()
	got, r := read(t, map[string]string{
		"SERVICE_BINDING_ROOT": bindings(t), "INSITU_TRAINING_HOST": "other", "INSITU_INFERENCE_PASSWORD": "new-secret",
		"INSITU_S3_REGION": "eu", "INSITU_MLFLOW_URI": "https://elsewhere",
	})
	if r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	if diff := cmp.Diff([]string{"other", "new-secret", "eu", "https://elsewhere"},
		[]string{got.Training.Host, got.Inference.Password, got.S3.Region, got.MLflow.URI}); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsMissingOrWrongIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	_, r := read(t, map[string]string{
		"INSITU_TRAINING_HOST": "h", "INSITU_TRAINING_PORT": "70000", "INSITU_TRAINING_SSLMODE": "on",
		"INSITU_S3_ENDPOINT": "s3:9000", "INSITU_MLFLOW_URI": "http://h", "INSITU_MLFLOW_USERNAME": "ann", "INSITU_MLFLOW_TOKEN": "bearer-secret",
	})
	for _, want := range []string{
		`- --training-port: from INSITU_TRAINING_PORT: "70000" is not valid, expected an integer, 1 to 65535`,
		`- --training-database is required: set --training-database, INSITU_TRAINING_DATABASE, INSITU_TRAINING_DATABASE_FILE or the file "database" of the service binding --training-binding selects`,
		`- --training-sslmode: from INSITU_TRAINING_SSLMODE: "on" is not valid`,
		`- --inference-host is required`,
		`- --s3-secret-access-key is required: set INSITU_S3_SECRET_ACCESS_KEY, `,
		`- --s3-endpoint: expected a URL that starts with http:// or https://`,
		`- --mlflow-token and --mlflow-username are both set, expected one of them`,
	} {
		if r.Code != 2 || !strings.Contains(r.Message, want) {
			t.Errorf("exit code %d, and the message lacks %q:\n%s", r.Code, want, r.Message)
		}
	}
}

func TestAMissingBindingAndWhatItWouldHaveSetAreBothNamed(t *testing.T) {
	t.Parallel()
	root := bindings(t)
	_, r := read(t, map[string]string{
		"SERVICE_BINDING_ROOT": root, "INSITU_TRAINING_BINDING": "mysql",
		"INSITU_TRAINING_HOST": "h", "INSITU_TRAINING_USERNAME": "u",
	})
	want := `2 settings are not valid:
- --training-binding: no service binding matches "mysql" under ` + root + `: found greenplum/vmware in "a", postgresql/vmware in "b", s3/minio in "c", mlflow in "d"
- --training-database is required: set --training-database, INSITU_TRAINING_DATABASE, INSITU_TRAINING_DATABASE_FILE or the file "database" of the service binding --training-binding selects`
	if diff := cmp.Diff(want, r.Message); diff != "" {
		t.Error(diff)
	}
}
