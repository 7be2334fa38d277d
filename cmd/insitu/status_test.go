package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/status"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// statusOf runs insitu status -o json.
func statusOf(t *testing.T, wantCode int, args ...string) map[string]status.Part {
	t.Helper()
	code, stdout, stderr := insitu(t, append([]string{"status", "-o", "json"}, args...)...)
	if code != wantCode {
		t.Fatalf("exit code %d, expected %d\n%s%s", code, wantCode, stdout, stderr)
	}
	var report status.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatalf("%v\n%s", err, stdout)
	}
	parts := map[string]status.Part{}
	for _, p := range report.Parts {
		if old, twice := parts[p.Part]; twice {
			t.Errorf("two rows of %s: %+v, %+v", p.Part, old, p)
		}
		parts[p.Part] = p
	}
	return parts
}

func TestStatusOfThisMachineAsksTheRealServices(t *testing.T) {
	t.Parallel()
	training := testenv.Training(t)
	mlflow := testenv.Binding(t, "mlflow")("uri")
	runs := t.TempDir()
	if err := (&runJSON{Workflow: "in-database-pipeline-1", GitSHA: strings.Repeat("a", 40), Report: "report.html", Model: modelSummary{Name: "digits", Version: "3", Alias: "staging"}}).write(filepath.Join(runs, "run.json")); err != nil {
		t.Fatal(err)
	}
	args := []string{"--local", "--bindings", os.Getenv("INSITU_TEST_BINDINGS"), "--training-binding", "postgresql/insitu-training", "--inference-binding", "postgresql/insitu-inference",
		"--runs", runs, "--api-url", "http://127.0.0.1:1", "--pgadmin-url", "http://127.0.0.1:1"}
	first := statusOf(t, 0, args...)
	if diff := cmp.Diff(first, statusOf(t, 0, args...)); diff != "" {
		t.Errorf("the second time (-first +second):\n%s", diff)
	}
	if got := first[status.Training]; got.State != status.Ready || got.URL != training.URL() || !strings.HasPrefix(got.Version, "PostgreSQL 1") {
		t.Errorf("%+v", got)
	}
	if got := first[status.MLflow]; got.State != status.Ready || got.URL != mlflow || strings.Count(got.Version, ".") < 2 {
		t.Errorf("%+v", got)
	}
	if got := first[status.API]; got.State != status.Absent {
		t.Errorf("%+v", got)
	}
	want := status.Part{Part: status.Run, Name: "in-database-pipeline-1", State: "Succeeded", SHA: strings.Repeat("a", 40), URL: "report.html", Detail: "digits version 3, alias staging"}
	if diff := cmp.Diff(want, first[status.Run]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTheLastRunMayHaveFailedOrGoOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "run.json")
	if got := lastRun(dir); got.State != status.Absent {
		t.Errorf("before the first run: %+v", got)
	}
	if err := (&runJSON{Workflow: "one", ExitCode: 75}).write(file); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "runs", "one"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := lastRun(dir); got.State != "Failed" || got.Detail != "exit code 75" || got.Name != "one" {
		t.Errorf("after it failed: %+v", got)
	}
	two := filepath.Join(dir, "runs", "two")
	if err := os.Mkdir(two, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(two, time.Now(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got := lastRun(dir); got.State != "Running" || got.Name != "two" {
		t.Errorf("while the next one goes on: %+v", got)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lastRun(dir); got.State != status.Unknown {
		t.Errorf("a broken file: %+v", got)
	}
}

func TestADatabaseThatIsAwayIsARowAndAnExitCode(t *testing.T) {
	t.Parallel()
	root := bindings(t, map[string]string{"type": "postgres", "provider": "vmware", "host": "127.0.0.1", "port": "1", "database": "d", "username": "u", "password": "secret"})
	parts := statusOf(t, exitFailed, "--local", "--bindings", root, "--runs", t.TempDir(), "--api-url", "http://127.0.0.1:1", "--pgadmin-url", "http://127.0.0.1:1")
	if got := parts[status.Inference]; got.State != status.NotReady || !strings.Contains(got.Detail, "refused") || strings.Contains(fmt.Sprint(got), "secret") {
		t.Errorf("%+v", got)
	}
	for _, part := range []string{status.Training, status.MLflow} {
		if got := parts[part]; got.State != status.Unknown || !strings.Contains(got.Detail, "no service binding matches") {
			t.Errorf("a binding that is missing: %+v", got)
		}
	}
}

func TestStatusOfAClusterAsksTheDatabasesThatItsSecretsName(t *testing.T) {
	t.Parallel()
	c := testenv.Inference(t)
	secret := map[string][]byte{}
	for file, text := range map[string]string{"type": "postgres", "provider": "vmware", "host": c.Host, "port": strconv.Itoa(c.Port), "database": c.Database, "username": c.Username, "password": c.Password, "sslmode": c.SSLMode} {
		secret[file] = []byte(text)
	}
	text, err := json.Marshal(map[string]any{"data": secret})
	if err != nil {
		t.Fatal(err)
	}
	gone := base64.StdEncoding.EncodeToString([]byte("gp.nonexistent.invalid"))
	answers := map[string]string{
		"/apis/apps/v1/namespaces/ml/deployments":            `{"items": []}`,
		"/api/v1/namespaces/ml/secrets/insitu-inference":     string(text),
		"/api/v1/namespaces/ml/secrets/insitu-training":      fmt.Sprintf(`{"data": {"type": "Z3JlZW5wbHVt", "host": %q, "database": "ZA==", "username": "dQ=="}}`, gone),
		"/apis/argoproj.io/v1alpha1/namespaces/ml/workflows": `{"items": []}`,
		"/apis/kappctrl.k14s.io/v1alpha1/namespaces/ml/apps": `{"items": []}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text, ok := answers[r.URL.Path]; ok {
			_, _ = w.Write([]byte(text))
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(server.Close)
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, fmt.Appendf(nil, "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: k, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: k}}]\n", server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	parts := statusOf(t, 0, "--kubeconfig", config, "-n", "ml")
	if got := parts[status.Inference]; got.State != status.Ready || got.URL != c.URL() || got.Name != c.Database {
		t.Errorf("%+v", got)
	}
	if got := parts[status.Training]; got.State != status.Unknown || !strings.HasPrefix(got.Detail, "not reachable from here") {
		t.Errorf("a host that only the cluster knows: %+v", got)
	}
	if got := parts[status.MLflow]; got.State != status.Unknown || got.Detail != "there is no Secret insitu-mlflow" {
		t.Errorf("%+v", got)
	}
}

func TestStatusSaysWhatIsWrongWithItsFlags(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"a format that is none":       {[]string{"-o", "yaml"}, exitConfiguration, `-o "yaml": expected table or json`},
		"two places at once":          {[]string{"--local", "-n", "ml"}, exitConfiguration, "--local is about this machine"},
		"an argument":                 {[]string{"ml"}, exitConfiguration, "expected flags only"},
		"a kubeconfig that is absent": {[]string{"--kubeconfig", "/nonexistent"}, exitConfiguration, "/nonexistent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := insitu(t, append([]string{"status"}, test.args...)...)
			if code != test.code || stdout != "" || !strings.Contains(stderr, test.want) {
				t.Errorf("exit code %d, expected %d and %q\n%s%s", code, test.code, test.want, stdout, stderr)
			}
		})
	}
}
