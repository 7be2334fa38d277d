package pipeline

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/insitu-ml/insitu/internal/newapp"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// in runs a program in a folder and returns what it printed.
func in(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestANewAppOfEveryLearnerPassesItsTestsAndRunsToTheEndUnedited(t *testing.T) {
	t.Parallel()
	bin, python := os.Getenv("INSITU_TEST_BIN"), os.Getenv("INSITU_TEST_PYTHON")
	if bin == "" || python == "" {
		t.Skip("needs the programs and a Python: INSITU_TEST_BIN or INSITU_TEST_PYTHON is not set (make test sets them)")
	}
	insitu := filepath.Join(bin, "insitu")
	for _, o := range newapp.Options() {
		if o.Name != "learner" {
			continue
		}
		for _, learner := range o.Choices {
			t.Run(learner.Value, func(t *testing.T) {
				t.Parallel()
				name := learner.Value + "-" + strconv.FormatUint(rand.Uint64(), 36)
				schema := strings.ReplaceAll(name, "-", "_")
				training, inference := connect(t, testenv.Training(t)), connect(t, testenv.Inference(t))
				t.Cleanup(func() {
					for _, c := range []*postgres.Conn{training, inference} {
						_, _ = c.Exec(context.Background(), "drop schema if exists "+postgres.Ident(schema)+" cascade")
						c.Close()
					}
				})
				folder := t.TempDir()
				first := in(t, folder, insitu, "init", name, "--learner", learner.Value)
				if !strings.Contains(first, " 11 files new, 0 overwritten") {
					t.Errorf("insitu init says\n%s", first)
				}
				if again := in(t, folder, insitu, "init", name, "--learner", learner.Value); !strings.Contains(again, "nothing to do, all 11 files") {
					t.Errorf("insitu init once more says\n%s", again)
				}
				app := filepath.Join(folder, name)
				if tests := in(t, app, python, "-m", "pytest", "-q", "-p", "no:cacheprovider"); !strings.Contains(tests, " passed") || strings.Contains(tests, "skipped") {
					t.Errorf("pytest says\n%s", tests)
				}
				// Nothing but where the services are: all else is the app's own, its gate included.
				in(t, app, insitu, "run", "--plain", "--bindings", os.Getenv("INSITU_TEST_BINDINGS"),
					"-p", "training-binding=postgresql/insitu-training", "-p", "inference-binding=postgresql/insitu-inference")
				text, err := os.ReadFile(filepath.Join(app, ".insitu", "run.json"))
				if err != nil {
					t.Fatal(err)
				}
				var s summary
				if err := json.Unmarshal(text, &s); err != nil {
					t.Fatal(err)
				}
				if s.Model.Name != name || s.Model.Version != "1" || s.Model.Alias != "staging" || s.outputs("evaluate-model")["passed"] != "true" {
					t.Errorf("after the run: %+v, %v", s.Model, s.outputs("evaluate-model"))
				}
				var active string
				if err := inference.QueryRow(t.Context(), "select name || ' ' || version from "+postgres.Ident(schema, "model_versions")+" where active").Scan(&active); err != nil || active != name+" 1" {
					t.Errorf("%q is served, expected version 1 of %s (%v)", active, name, err)
				}
			})
		}
	}
}
