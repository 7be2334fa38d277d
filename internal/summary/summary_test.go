package summary_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/summary"
)

var update = flag.Bool("update", false, "write the golden files")

// failed is a node of Argo's {{workflow.failures}}; those of a test end in their order.
func failed(list ...[2]string) string {
	var nodes []string
	for i, n := range list {
		nodes = append(nodes, fmt.Sprintf(`{"displayName":%q,"message":%q,"templateName":"t","phase":"Failed","podName":"w-pod-%d","finishedAt":"2026-11-23T21:00:%02dZ"}`, n[0], n[1], i, i))
	}
	return strconv.Quote("[" + strings.Join(nodes, ",") + "]")
}

func TestWhatArgoTellsBecomesATextForAPerson(t *testing.T) {
	t.Parallel()
	// Of a workflow with a step that is tried again, one that is not, and a set of containers.
	captured, err := os.ReadFile("testdata/argo-3.7.17.failures")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ status, seconds, failures string }{
		"succeeded":           {"Succeeded", "42.160000", `"null"`},
		"succeeded-at-second": {"Succeeded", "192.5", failed([2]string{"train-model(0)", "main: Error (exit code 75): connect to db:5432/insitu as \"insitu\": connection refused"})},
		"every-exit-code": {"Failed", "3600", failed(
			[2]string{"upload-dataset", `main: Error (exit code 1): digits.csv.gz: line 7: 3 fields, expected 65`},
			[2]string{"deploy-training-code", "main: Error (exit code 2): 2 settings are not valid:\n- --schema is required\n- --app is required"},
			[2]string{"evaluate-model", `main: OOMKilled (exit code 137)`},
			[2]string{"promote-model-to-staging", `wait: Error (exit code 64): no such bucket`},
			[2]string{"deploy-inference-db", `main: Error (exit code 143): stopped by signal "terminated": context canceled`},
			[2]string{"other", `main: Error (exit code 9)`},
			[2]string{"w", `child 'w-1' failed`},
		)},
		"tried-until-the-end": {"Failed", "90", failed(
			[2]string{"train-model(0)", "main: Error (exit code 75): MLflow answered 503"},
			[2]string{"train-model(1)", "main: Error (exit code 75): MLflow answered 502"},
			[2]string{"train-model", "No more retries left"},
			[2]string{"w", ""},
		)},
		"a-candidate-of-a-sweep": {"Failed", "61", failed(
			[2]string{"train-model(1:epochs:5,learning_rate:0.5)(0)", "main: Error (exit code 1): learner.py, line 7, in fit: ValueError: no"},
			[2]string{"train-model(1:epochs:5,learning_rate:0.5)", "retryStrategy.expression evaluated to false"},
			[2]string{"train-model", ""},
			[2]string{"w", ""},
		)},
		"stopped":       {"Failed", "12.3", failed([2]string{"train-model(0)", "workflow shutdown with strategy:  Stop"}, [2]string{"train-model", "workflow shutdown with strategy:  Stop"}, [2]string{"w", ""})},
		"took-too-long": {"Failed", "600", failed([2]string{"promote-model-to-staging", "Pod was active on the node longer than the specified deadline"})},
		"lost":          {"Error", "61", failed([2]string{"train-model", "pod deleted"})},
		"a-set-of-containers": {"Failed", "30", failed(
			[2]string{"train-model", `train-model: Error (exit code 2): --model-name is "a/b"`},
			[2]string{"learn(0)", `train-model: Error (exit code 2): --model-name is "a/b"`},
			[2]string{"learn", `train-model: Error (exit code 2): --model-name is "a/b"`},
			[2]string{"w", ""},
		)},
		"argo-3.7.17":    {"Failed", "24.350887", string(captured)},
		"without-a-step": {"Failed", "5", "null"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run, err := summary.FromArgo("w", "team-a", tt.status, tt.seconds, tt.failures)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := run.Write(&b); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFailuresAreReadWithAndWithoutQuotes(t *testing.T) {
	t.Parallel()
	quoted := failed([2]string{"a", `main: Error (exit code 2): say "x"`})
	plain, err := strconv.Unquote(quoted)
	if err != nil {
		t.Fatal(err)
	}
	want := []summary.Failure{{Step: "a", ExitCode: 2, Message: `say "x"`, Attempts: 1, Log: "argo logs -n n w w-pod-0"}}
	for _, text := range []string{quoted, plain} {
		run, err := summary.FromArgo("w", "n", "Failed", "1", text)
		if diff := cmp.Diff(want, run.Failures); err != nil || diff != "" {
			t.Errorf("%s: %v, %s", text, err, diff)
		}
	}
}

func TestWhatCannotBeReadLeavesTheRest(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ seconds, failures string }{
		"no JSON": {"7", "{{workflow.failures}}"}, "other JSON": {"7", `{"a": 1}`}, "no number": {"{{workflow.duration}}", "null"}, "nothing": {"", ""},
	} {
		run, err := summary.FromArgo("w", "n", "Succeeded", tt.seconds, tt.failures)
		if err == nil || !strings.HasPrefix(run.Headline(), "w succeeded in ") {
			t.Errorf("%s: %v, %s", name, err, run.Headline())
		}
	}
	if run, _ := summary.FromArgo("w", "n", "Succeeded", "7", "{"); run.Took != 7*time.Second {
		t.Errorf("took %s", run.Took)
	}
}

func TestEverySectionThatIsPointedAtIsThere(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	for code := range 256 {
		for _, message := range []string{"", "workflow shutdown with strategy:  Stop", "deadline"} {
			var b strings.Builder
			run := summary.Run{Workflow: "w", Status: "Failed", Failures: []summary.Failure{{Step: "a", ExitCode: code, Message: message}}}
			if err := run.Write(&b); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(b.String(), "docs/troubleshooting.md") {
				t.Errorf("exit code %d: %s", code, b.String())
			}
			_, rest, found := strings.Cut(b.String(), `docs/troubleshooting.md, "`)
			section, _, _ := strings.Cut(rest, `"`)
			if found && !strings.Contains(string(page), "# "+section+"\n") {
				t.Errorf("exit code %d: there is no section %q", code, section)
			}
		}
	}
}
