package localrun_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/localrun"
)

// withExit is a workflow whose exit handler writes what it learns to the file that the parameter text names.
func withExit(tasks string) string {
	return strings.Replace(head, "entrypoint: main", "entrypoint: main\n  onExit: bye", 1) + tasks + `
    - name: bye
      container:
        command: [bye]
        env:
          - {name: FILE, value: "{{workflow.parameters.text}}"}
          - {name: STATUS, value: "{{workflow.status}}"}
          - {name: DURATION, value: "{{workflow.duration}}"}
          - {name: FAILURES, value: "{{workflow.failures}}"}
`
}

// bye is its command.
const bye = `printf '%s\n' "$STATUS" "$DURATION" "$FAILURES" > "$FILE"`

// farewell is what the exit handler wrote.
func farewell(t *testing.T, file string) (status string, seconds float64, failures []map[string]string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitN(string(content), "\n", 3)
	if seconds, err = strconv.ParseFloat(lines[1], 64); err != nil {
		t.Error(err)
	}
	text, err := strconv.Unquote(strings.TrimSpace(lines[2])) // Argo gives it within quotes
	if err != nil {
		t.Fatalf("%s: %v", lines[2], err)
	}
	if err := json.Unmarshal([]byte(text), &failures); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	for _, f := range failures {
		if _, err := time.Parse(time.RFC3339, f["finishedAt"]); err != nil {
			t.Error(err)
		}
		delete(f, "finishedAt")
	}
	return lines[0], seconds, failures
}

func TestTheExitHandlerLearnsHowTheRunEnded(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		command  string
		status   string
		failures []map[string]string
		steps    []string
		code     int
	}{
		"well": {command: "sleep 0.3", status: "Succeeded", steps: []string{"a Succeeded 0 value=none", "onExit Succeeded 0"}},
		"in a failure": {
			command: `echo '{"level":"error","msg":"step failed","error":"no \"x\" in s3://b/k"}' >&2; sleep 0.3; exit 2`,
			status:  "Failed", code: 2, steps: []string{"a Failed 2 ", "onExit Succeeded 0"},
			failures: []map[string]string{{"displayName": "a", "templateName": "work", "phase": "Failed", "podName": "", "message": `main: Error (exit code 2): no "x" in s3://b/k`}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, withExit("    - name: main\n      dag: {tasks: [{name: a, template: work}]}\n"+step("work", "")), map[string]string{"work": tt.command, "bye": bye})
			file := filepath.Join(t.TempDir(), "bye")
			res := b.run(t, t.Context(), map[string]string{"text": file})
			status, seconds, failures := farewell(t, file)
			if status != tt.status || seconds < 0.3 || seconds > 60 {
				t.Errorf("status %q after %v s", status, seconds)
			}
			if diff := cmp.Diff(tt.failures, failures); diff != "" {
				t.Error(diff)
			}
			got := summary(res)
			for i := range tt.steps {
				if !strings.HasPrefix(got[i], strings.TrimSpace(tt.steps[i])) {
					t.Errorf("steps %q, want %q", got, tt.steps)
				}
			}
			if res.ExitCode != tt.code {
				t.Errorf("exit code %d, want %d", res.ExitCode, tt.code)
			}
		})
	}
}

func TestAnExitHandlerThatFailsDoesNotHideTheRunsResult(t *testing.T) {
	t.Parallel()
	for command, code := range map[string]int{"true": 0, "exit 75": 75} {
		b := newBench(t, withExit("    - name: main\n      dag: {tasks: [{name: a, template: work}]}\n"+step("work", "")), map[string]string{"work": command, "bye": "exit 3"})
		res := b.run(t, t.Context(), nil)
		if got := summary(res); res.ExitCode != code || got[1] != "onExit Failed 3" {
			t.Errorf("%s: exit code %d, steps %q", command, res.ExitCode, got)
		}
	}
}

func TestTheExitHandlerRunsAfterAStop(t *testing.T) {
	t.Parallel()
	b := newBench(t, withExit("    - name: main\n      dag: {tasks: [{name: a, template: wait}]}\n"+step("wait", "")), map[string]string{"wait": "echo ready; exec sleep 45", "bye": bye})
	ctx, cancel := context.WithCancel(t.Context())
	b.options.Observe = func(e localrun.Event) {
		if e.Line == "ready" {
			cancel()
		}
	}
	file := filepath.Join(t.TempDir(), "bye")
	res := b.run(t, ctx, map[string]string{"text": file})
	status, _, failures := farewell(t, file)
	if status != "Failed" || len(failures) != 1 || failures[0]["message"] != "main: Error (exit code 143): stopped" || res.ExitCode != 143 {
		t.Errorf("status %s, failures %v, exit code %d", status, failures, res.ExitCode)
	}
}
