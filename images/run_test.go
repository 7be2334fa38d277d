package images_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// built skips a test unless the images are there: INSITU_TEST_IMAGES=1, after `make images`.
func built(t *testing.T) {
	t.Helper()
	if os.Getenv("INSITU_TEST_IMAGES") == "" {
		t.Skip("INSITU_TEST_IMAGES is not set: it says that `make images` built the images and Docker runs")
	}
}

func docker(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// restricted is what a pod may do under Pod Security "restricted", with a read-only root file system.
func restricted(args ...string) []string {
	return append([]string{"run", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none", "--tmpfs", "/tmp:mode=1777"}, args...)
}

func TestEveryImageExplainsItself(t *testing.T) {
	t.Parallel()
	built(t)
	version := strings.TrimSpace(read(t, "VERSION"))
	for _, name := range append(stepNames(), "insitu", "postgres-training", "postgres-inference", "pgadmin", "dev-s3", "dev-mlflow") {
		out, err := docker(t.Context(), restricted("--rm", "insitu/"+name+":"+version, "--help")...)
		if err != nil || !strings.Contains(strings.ToLower(out), "usage") {
			t.Errorf("%s --help: %v\n%s", name, err, out)
		}
	}
}

func TestADatabaseKilledAtAnyMomentStartsAgain(t *testing.T) {
	t.Parallel()
	built(t)
	name := "insitu-images-test-" + time.Now().Format("150405.000000")
	must := func(args ...string) string {
		t.Helper()
		out, err := docker(t.Context(), args...)
		if err != nil {
			t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	t.Cleanup(func() {
		_, _ = docker(context.Background(), "rm", "-f", name)
		_, _ = docker(context.Background(), "volume", "rm", "-f", name)
	})
	must(restricted("-d", "--name", name, "--tmpfs", "/var/run/postgresql:uid=65532,gid=65532", "-v", name+":/var/lib/postgresql",
		"-e", "POSTGRES_USER=insitu", "-e", "POSTGRES_DB=Test", "-e", "POSTGRES_PASSWORD=it's secret", "insitu/postgres-inference:"+strings.TrimSpace(read(t, "VERSION")))...)
	// The first start takes a second or two: these kills hit it at different moments.
	for _, after := range []time.Duration{100, 400, 700, 1000, 1400, 1800, 2300} {
		time.Sleep(after * time.Millisecond)
		must("kill", "--signal", "KILL", name)
		must("start", name)
	}
	query := func(sql string) (string, error) {
		return docker(t.Context(), "exec", "-e", "PGPASSWORD=it's secret", name, "psql", "-AtX", "-h", "127.0.0.1", "-U", "insitu", "-d", "Test", "-c", sql)
	}
	ready := func() {
		t.Helper()
		for start := time.Now(); ; time.Sleep(200 * time.Millisecond) {
			out, err := query("select 1")
			if err == nil {
				return
			}
			if time.Since(start) > 2*time.Minute {
				t.Fatalf("the database does not answer: %s\n%s", out, must("logs", "--tail", "20", name))
			}
		}
	}
	ready()
	if out, err := query("select lanname from pg_language where lanname = 'plpython3u'"); err != nil || out != "plpython3u" {
		t.Errorf("languages: %s (%v)", out, err)
	}
	if out, err := query("create table kept as select 42 as x"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	must("stop", "--time", "60", name)
	if code := must("inspect", "--format", "{{.State.ExitCode}}", name); code != "0" {
		t.Errorf("exit code after SIGTERM: %s\n%s", code, must("logs", "--tail", "20", name))
	}
	if log := must("logs", "--tail", "20", name); !strings.Contains(log, "received fast shutdown request") {
		t.Errorf("SIGTERM is no fast shutdown:\n%s", log)
	}
	must("start", name)
	ready()
	if out, err := query("table kept"); err != nil || out != "42" {
		t.Errorf("after a restart: %s (%v)", out, err)
	}
}
