package deploytrainingcode

import (
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/step/steptest"
)

// app writes a small ML app.
func app(t *testing.T, learner string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"insitu.yaml": "name: little\ninput: {shape: [2], dtype: float32}\n",
		"learner.py":  learner,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDeployingAgainAddsNothingAndChangedCodeAddsARelease(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	schema := changelogtest.Schema(t, cfg, "Test")
	flags := map[string]string{
		"app": app(t, "class Learner: pass\n"), "schema": schema, "liquibase": changelogtest.Jars(t), "git-sha": "abc", "work-dir": t.TempDir(),
		"training-host": cfg.Host, "training-port": strconv.Itoa(cfg.Port), "training-database": cfg.Database,
		"training-username": cfg.Username, "training-password": cfg.Password,
	}
	run := func(change map[string]string) steptest.Result {
		t.Helper()
		all := maps.Clone(flags)
		maps.Copy(all, change)
		return steptest.Run(t, Spec(), all)
	}
	for name, value := range map[string]string{"epochs": "0", "parameters": `{"rate": 1}`, "sweep": `{"epochs": [1, 0]}`} {
		if r := run(map[string]string{name: value}); r.Code != 2 || strings.Contains(r.Stderr, "changelog applied") {
			t.Errorf("%s=%s: exit code %d, expected 2 before anything is deployed\n%s", name, value, r.Code, r.Stderr)
		}
	}
	first := run(nil)
	if first.Code != 0 || first.Stdout != "" {
		t.Fatalf("exit code %d: %s", first.Code, first.Stderr)
	}
	want := map[string]string{"code-digest": first.Outputs["code-digest"], "release": "1", "changesets-added": "8", "tag": "abc", "candidates": `[{"epochs":10}]`}
	if diff := cmp.Diff(want, first.Outputs); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(first.Files["changelog"]), "--changeset insitu:release-1-"+want["code-digest"][:12]+" ") {
		t.Error("the changelog has no changeset of the release")
	}
	again := run(map[string]string{"git-sha": "def", "parameters": `{"patience": 2}`, "sweep": `{"epochs": [5, 10]}`}) // another commit with the same code
	want["changesets-added"], want["candidates"] = "0", `[{"epochs":5,"patience":2},{"epochs":10,"patience":2}]`
	if diff := cmp.Diff(want, again.Outputs); again.Code != 0 || diff != "" {
		t.Errorf("exit code %d: %s\n%s", again.Code, diff, again.Stderr)
	}
	if diff := cmp.Diff(string(first.Files["changelog"]), string(again.Files["changelog"])); diff != "" {
		t.Error(diff)
	}
	changed := run(map[string]string{"git-sha": "", "app": app(t, "class Learner:\n    '''--rollback ${x}'''\n")})
	digest := changed.Outputs["code-digest"]
	if changed.Code != 0 || changed.Outputs["release"] != "2" || changed.Outputs["changesets-added"] != "1" || changed.Outputs["tag"] != digest[:12] {
		t.Errorf("exit code %d, %v: %s", changed.Code, changed.Outputs, changed.Stderr)
	}

	for name, c := range map[string]struct {
		change map[string]string
		code   int
		words  string
	}{
		"a wrong password":           {map[string]string{"training-password": "a-wrong-one"}, 2, "28P01"},
		"a server that is not there": {map[string]string{"training-port": "1"}, 75, "connect to"},
		"a schema name with a quote": {map[string]string{"schema": `a"b`}, 2, "schema"},
		"no such app":                {map[string]string{"app": "/nonexistent"}, 2, "read ML app"},
		"no Liquibase":               {map[string]string{"liquibase": "/nonexistent"}, 2, "find Liquibase"},
		"an app in S3 without S3":    {map[string]string{"app": "s3://bucket/app.tar.gz"}, 2, "--s3-endpoint"},
		"a role that is not there":   {map[string]string{"grant-to": "nobody-of-that-name"}, 2, "no such role"},
	} {
		r := run(c.change)
		if r.Code != c.code || !strings.Contains(r.Message, c.words) || len(r.Outputs) != 0 || strings.Contains(r.Stderr, "a-wrong-one") {
			t.Errorf("%s: exit code %d, want %d; message %q, want %q; outputs %v", name, r.Code, c.code, r.Message, c.words, r.Outputs)
		}
	}
}
