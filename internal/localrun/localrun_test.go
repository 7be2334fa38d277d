package localrun_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/localrun"
)

// store is a Store in a directory.
type store string

func (s store) Put(_ context.Context, key, file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	to := filepath.Join(string(s), key)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

func (s store) Get(_ context.Context, key, file string) error {
	content, err := os.ReadFile(filepath.Join(string(s), key))
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o644)
}

// bench is a workflow with its commands, ready to run.
type bench struct {
	file    string
	options localrun.Options
	mu      sync.Mutex
	events  []localrun.Event
}

// newBench writes a workflow and shell scripts that stand for its commands.
func newBench(t *testing.T, workflow string, commands map[string]string) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{file: filepath.Join(dir, "workflow.yaml")}
	write(t, b.file, workflow, 0o644)
	for name, script := range commands {
		write(t, filepath.Join(dir, "bin", name), "#!/bin/sh\nset -eu\n"+script, 0o755)
	}
	b.options = localrun.Options{
		Name: "test-1", Bin: filepath.Join(dir, "bin"), Dir: filepath.Join(dir, "run"),
		Env: []string{"PATH=" + os.Getenv("PATH")}, Artifacts: store(filepath.Join(dir, "store")),
		Observe: func(e localrun.Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		},
	}
	return b
}

func write(t *testing.T, file, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) run(t *testing.T, ctx context.Context, params map[string]string) *localrun.Result {
	t.Helper()
	w, err := localrun.Load(b.file)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range params {
		if err := w.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	res, err := w.Run(ctx, b.options)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// summary is what matters of a result: "name status code" and the outputs.
func summary(res *localrun.Result) []string {
	var out []string
	for _, s := range res.Steps {
		line := fmt.Sprintf("%s %s %d", s.Name, s.Status, s.ExitCode)
		for _, name := range []string{"value", "passed"} {
			if v, ok := s.Outputs[name]; ok {
				line += " " + name + "=" + v
			}
		}
		out = append(out, line)
	}
	return out
}

// head starts a WorkflowTemplate; the test adds tasks and templates.
const head = `
apiVersion: argoproj.io/v1alpha1
kind: WorkflowTemplate
metadata: {name: tiny}
spec:
  entrypoint: main
  arguments:
    parameters:
      - {name: text, value: hello, description: What is passed on.}
      - {name: mode, value: fast, enum: [fast, slow]}
  templates:
`

// step is a container template that passes input and output by environment.
func step(name, more string) string {
	return fmt.Sprintf(`
    - name: %[1]s
      inputs: {parameters: [{name: in, default: ""}]}
      outputs: {parameters: [{name: value, valueFrom: {path: /tmp/outputs/value, default: none}}]}
%[2]s
      container:
        image: any
        command: [%[1]s]
        env:
          - {name: OUT, value: /tmp/outputs}
          - {name: IN, value: "{{inputs.parameters.in}}"}
`, name, more)
}

func TestRun(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		workflow string
		commands map[string]string
		params   map[string]string
		want     []string
		code     int
		outputs  map[string]string
	}{
		"values travel from the workflow's parameters through outputs to later tasks": {
			workflow: head + `
    - name: main
      dag:
        tasks:
          - {name: a, template: produce, arguments: {parameters: [{name: in, value: "{{workflow.parameters.text}}"}]}}
          - {name: b, depends: a, template: double, arguments: {parameters: [{name: in, value: "{{tasks.a.outputs.parameters.value}}"}]}}
      outputs: {parameters: [{name: end, valueFrom: {parameter: "{{tasks.b.outputs.parameters.value}}"}}]}
` + step("produce", "") + step("double", ""),
			commands: map[string]string{"produce": `echo "$IN!" > $OUT/value`, "double": `echo "$IN$IN" > $OUT/value`},
			params:   map[string]string{"text": `quote " backslash \ {{x}} $(date)`},
			want:     []string{`a Succeeded 0 value=quote " backslash \ {{x}} $(date)!`, `b Succeeded 0 value=quote " backslash \ {{x}} $(date)!quote " backslash \ {{x}} $(date)!`},
			outputs:  map[string]string{"end": `quote " backslash \ {{x}} $(date)!quote " backslash \ {{x}} $(date)!`},
		},
		"a false condition skips a task, its outputs are their defaults, and the workflow succeeds": {
			workflow: head + `
    - name: main
      dag:
        tasks:
          - {name: a, template: produce}
          - {name: b, depends: a, template: double, when: "{{tasks.a.outputs.parameters.value}} == true"}
          - {name: c, depends: b, template: double, arguments: {parameters: [{name: in, value: "{{tasks.b.outputs.parameters.value}}"}]}}
` + step("produce", "") + step("double", ""),
			commands: map[string]string{"produce": `echo false > $OUT/value`, "double": `echo "$IN$IN" > $OUT/value`},
			want:     []string{"a Succeeded 0 value=false", "b Skipped 0 value=none", "c Succeeded 0 value=nonenone"},
		},
		"a failed task stops what depends on it and gives the run its exit code": {
			workflow: head + `
    - name: main
      dag:
        tasks:
          - {name: a, template: fail}
          - {name: b, depends: a, template: produce}
` + step("fail", "") + step("produce", ""),
			commands: map[string]string{"fail": `exit 2`, "produce": `true`},
			want:     []string{"a Failed 2", "b Omitted 0 value=none"},
			code:     2,
		},
		"a failure that a later task takes up is no failure of the workflow": {
			workflow: head + `
    - name: main
      dag:
        tasks:
          - {name: a, template: fail}
          - {name: b, depends: a.Failed, template: produce}
` + step("fail", "") + step("produce", ""),
			commands: map[string]string{"fail": `exit 2`, "produce": `echo ok > $OUT/value`},
			want:     []string{"a Failed 2", "b Succeeded 0 value=ok"},
		},
		"exit code 75 is tried again": {
			workflow: head + `
    - name: main
      dag: {tasks: [{name: a, template: flaky, arguments: {parameters: [{name: in, value: "{{workflow.parameters.text}}"}]}}]}
` + step("flaky", `
      retryStrategy: {limit: "3", expression: "asInt(lastRetry.exitCode) == 75", backoff: {duration: 1ms, factor: 2, maxDuration: 1m}}`),
			commands: map[string]string{"flaky": `echo x >> "$IN"; test $(wc -l < "$IN") -ge 3 || exit 75; wc -l < "$IN" > $OUT/value`},
			params:   map[string]string{"text": filepath.Join(t.TempDir(), "count")},
			want:     []string{"a Succeeded 0 value=3"},
		},
		"a message in Argo's words is tried again": {
			workflow: head + `
    - name: main
      dag: {tasks: [{name: a, template: flaky, arguments: {parameters: [{name: in, value: "{{workflow.parameters.text}}"}]}}]}
` + step("flaky", `
      retryStrategy: {limit: "3", expression: "lastRetry.message matches '^main: Error [(]exit code (75|143)[)]'"}`),
			commands: map[string]string{"flaky": `echo x >> "$IN"; test $(wc -l < "$IN") -ge 3 || exit 143; wc -l < "$IN" > $OUT/value`},
			params:   map[string]string{"text": filepath.Join(t.TempDir(), "count")},
			want:     []string{"a Succeeded 0 value=3"},
		},
		"a deadline is not tried again as a stop from outside": {
			workflow: head + `
    - name: main
      dag: {tasks: [{name: a, template: slow, arguments: {parameters: [{name: in, value: "{{workflow.parameters.text}}"}]}}]}
` + step("slow", `
      activeDeadlineSeconds: 1
      retryStrategy: {limit: "3", expression: "lastRetry.message matches '^main: Error [(]exit code (75|143)[)]'"}`),
			commands: map[string]string{"slow": `echo x >> "$IN"; test $(wc -l < "$IN") -le 1; exec sleep 60`},
			params:   map[string]string{"text": filepath.Join(t.TempDir(), "count")},
			want:     []string{"a Failed 143"},
			code:     143,
		},
		"other exit codes are not tried again": {
			workflow: head + `
    - name: main
      dag: {tasks: [{name: a, template: flaky, arguments: {parameters: [{name: in, value: "{{workflow.parameters.text}}"}]}}]}
` + step("flaky", `
      retryStrategy: {limit: "3", expression: "asInt(lastRetry.exitCode) == 75"}`),
			commands: map[string]string{"flaky": `echo x >> "$IN"; test $(wc -l < "$IN") -ge 3 || exit 1`},
			params:   map[string]string{"text": filepath.Join(t.TempDir(), "count")},
			want:     []string{"a Failed 1"},
			code:     1,
		},
		"tries end at the limit": {
			workflow: head + `
    - name: main
      dag: {tasks: [{name: a, template: flaky}]}
` + step("flaky", `
      retryStrategy: {limit: 2, expression: "asInt(lastRetry.exitCode) == 75"}`),
			commands: map[string]string{"flaky": `exit 75`},
			want:     []string{"a Failed 75"},
			code:     75,
		},
		"a template's deadline ends its command": {
			workflow: head + `
    - name: main
      dag: {tasks: [{name: a, template: slow}]}
` + step("slow", `
      activeDeadlineSeconds: 1`),
			commands: map[string]string{"slow": `exec sleep 60`},
			want:     []string{"a Failed 143"},
			code:     143,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, tt.workflow, tt.commands)
			res := b.run(t, t.Context(), tt.params)
			if diff := cmp.Diff(tt.want, summary(res)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			if res.ExitCode != tt.code && tt.code != 0 {
				t.Errorf("exit code %d, want %d", res.ExitCode, tt.code)
			}
			if tt.outputs != nil {
				if diff := cmp.Diff(tt.outputs, res.Outputs); diff != "" {
					t.Errorf("outputs (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestTasksThatNeedNothingOfEachOtherRunSideBySide(t *testing.T) {
	t.Parallel()
	meeting := t.TempDir()
	b := newBench(t, head+`
    - name: main
      dag:
        tasks:
          - {name: a, template: left, arguments: {parameters: [{name: in, value: "{{workflow.parameters.text}}"}]}}
          - {name: b, template: right, arguments: {parameters: [{name: in, value: "{{workflow.parameters.text}}"}]}}
`+step("left", "")+step("right", ""), map[string]string{
		"left":  `touch "$IN/left"; for i in $(seq 100); do test -e "$IN/right" && exit 0; sleep 0.1; done; exit 1`,
		"right": `touch "$IN/right"; for i in $(seq 100); do test -e "$IN/left" && exit 0; sleep 0.1; done; exit 1`,
	})
	res := b.run(t, t.Context(), map[string]string{"text": meeting})
	if diff := cmp.Diff([]string{"a Succeeded 0 value=none", "b Succeeded 0 value=none"}, summary(res)); diff != "" {
		t.Error(diff)
	}
}

func TestCommandsSeeTheTemplatesPathsInTheirSandboxAndACleanEnvironment(t *testing.T) {
	t.Parallel()
	b := newBench(t, head+`
    - name: main
      dag: {tasks: [{name: a, template: look, arguments: {parameters: [{name: in, value: "{{workflow.parameters.text}}"}]}}]}
    - name: look
      inputs: {parameters: [{name: in}]}
      outputs: {parameters: [{name: value, valueFrom: {path: /tmp/outputs/value}}]}
      volumes:
        - {name: tmp, emptyDir: {}}
        - {name: secret, secret: {secretName: training}}
      container:
        command: [/usr/local/bin/look, --output-dir, /tmp/outputs, "{{inputs.parameters.in}}"]
        env:
          - {name: SERVICE_BINDING_ROOT, value: /bindings}
          - {name: USER_PATH, value: "{{inputs.parameters.in}}"}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
          - {name: secret, mountPath: /bindings/training, readOnly: true}
`, map[string]string{"look": `
test "$(cat $SERVICE_BINDING_ROOT/training/password)" = geheim
test "$USER_PATH" = /tmp/user && test "$3" = /tmp/user
test -z "${LOCALRUN_LEAK:-}"
test -d "$HOME" && test -d "$TMPDIR"
echo "$(pwd)" > $2/value`})
	bindings := t.TempDir()
	write(t, filepath.Join(bindings, "training", "password"), "geheim", 0o600)
	b.options.Mounts = map[string]string{"/bindings": bindings}
	res := b.run(t, t.Context(), map[string]string{"text": "/tmp/user"})
	if res.ExitCode != 0 {
		t.Fatalf("%+v", res.Steps)
	}
	if cwd := res.Steps[0].Outputs["value"]; !strings.HasPrefix(cwd, b.options.Dir) {
		t.Errorf("worked in %s, want a directory below %s", cwd, b.options.Dir)
	}
}

func TestArtifactsAreStoredPassedOnAndKept(t *testing.T) {
	t.Parallel()
	b := newBench(t, head+`
    - name: main
      dag:
        tasks:
          - {name: a, template: write}
          - {name: b, depends: a, template: read, arguments: {artifacts: [{name: report, from: "{{tasks.a.outputs.artifacts.report}}"}]}}
      outputs: {artifacts: [{name: report, from: "{{tasks.a.outputs.artifacts.report}}"}]}
    - name: write
      outputs: {artifacts: [{name: report, path: /tmp/outputs/report.html, archive: {none: {}}}]}
      container: {command: [write], args: [/tmp/outputs]}
    - name: read
      inputs: {artifacts: [{name: report, path: /tmp/in/report.html}]}
      container: {command: [read], args: [/tmp/in/report.html]}
`, map[string]string{"write": `echo hello > $1/report.html`, "read": `test "$(cat $1)" = hello`})
	res := b.run(t, t.Context(), nil)
	if res.ExitCode != 0 {
		t.Fatalf("%+v", res.Steps)
	}
	want := filepath.Join(b.options.Dir, "a", "report.html")
	if res.Artifacts["report"] != want {
		t.Errorf("report is %q, want %q", res.Artifacts["report"], want)
	}
	stored := filepath.Join(string(b.options.Artifacts.(store)), "artifacts", "test-1", "a", "report.html")
	if content, err := os.ReadFile(stored); err != nil || string(content) != "hello\n" {
		t.Errorf("stored %q, %v", content, err)
	}
}

func TestLogLinesProgressAndFailuresAreReported(t *testing.T) {
	t.Parallel()
	b := newBench(t, head+`
    - name: main
      dag: {tasks: [{name: a, template: talk}]}
    - name: talk
      container: {command: [talk]}
`, map[string]string{"talk": `
echo '{"level":"info","msg":"epoch","loss":0.5}' >&2
echo plain
printf 3/7 > $ARGO_PROGRESS_FILE
echo '{"level":"error","msg":"step failed","error":"put object s3://b/k: no"}' >&2
exit 1`})
	res := b.run(t, t.Context(), nil)
	if got := res.Steps[0].Message; got != "put object s3://b/k: no" {
		t.Errorf("message %q", got)
	}
	var got []string
	for _, e := range b.events {
		switch {
		case e.Changed:
			got = append(got, string(e.Status))
		case e.Log != nil:
			got = append(got, fmt.Sprint(e.Log["msg"]))
		case e.Total > 0:
			got = append(got, fmt.Sprintf("%d/%d", e.Done, e.Total))
		default:
			got = append(got, e.Line)
		}
	}
	if diff := cmp.Diff([]string{"Running", "epoch", "plain", "step failed", "3/7", "Failed"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestStoppingARunEndsItsCommandsGracefully(t *testing.T) {
	t.Parallel()
	mark := filepath.Join(t.TempDir(), "mark")
	b := newBench(t, head+`
    - name: main
      dag:
        tasks:
          - {name: a, template: wait, arguments: {parameters: [{name: in, value: "{{workflow.parameters.text}}"}]}}
          - {name: b, depends: a, template: wait}
`+step("wait", ""), map[string]string{"wait": `trap 'echo clean > "$IN"; exit 143' TERM; echo ready; sleep 45 & wait`})
	ctx, cancel := context.WithCancel(t.Context())
	observe := b.options.Observe
	b.options.Observe = func(e localrun.Event) {
		observe(e)
		if e.Line == "ready" {
			cancel()
		}
	}
	w, err := localrun.Load(b.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Set("text", mark); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	res, err := w.Run(ctx, b.options)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a Failed 143", "b Omitted 0 value=none"}, summary(res)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Error("the command had no time to clean up")
	}
	if time.Since(began) > 20*time.Second {
		t.Error("what the command left behind kept the run waiting")
	}
}

func TestASecondStopKillsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t, head+`
    - name: main
      dag: {tasks: [{name: a, template: stubborn}]}
`+step("stubborn", ""), map[string]string{"stubborn": `trap '' TERM; echo ready; while true; do sleep 1; done`})
	ctx, cancel := context.WithCancel(t.Context())
	kill := make(chan struct{})
	b.options.Kill = kill
	b.options.Observe = func(e localrun.Event) {
		if e.Line == "ready" {
			cancel()
			close(kill)
		}
	}
	if diff := cmp.Diff([]string{"a Failed 137"}, summary(b.run(t, ctx, nil))); diff != "" {
		t.Error(diff)
	}
}

func TestLoadRefusesByNameWhatItCannotRun(t *testing.T) {
	t.Parallel()
	container := "\n    - name: c\n      container: {command: [c]}\n"
	tests := map[string]struct{ yaml, want string }{
		"an unknown field":        {head + "    - {name: main, bogus: 1}\n", `unknown field "bogus"`},
		"steps":                   {head + "    - name: main\n      steps: [[{name: a, template: c}]]\n" + container, `template "main" of WorkflowTemplate "tiny": insitu run does not support "steps"`},
		"fixed loops":             {head + "    - name: main\n      dag: {tasks: [{name: a, template: c, withItems: [1, 2]}]}\n" + container, `"dag.tasks[a].withItems"`},
		"counted loops":           {head + "    - name: main\n      dag: {tasks: [{name: a, template: c, withSequence: {count: 3}}]}\n" + container, `"dag.tasks[a].withSequence"`},
		"loops of DAGs":           {head + "    - name: main\n      dag: {tasks: [{name: a, template: d, withParam: '[1]'}]}\n    - name: d\n      dag: {tasks: [{name: b, template: c}]}\n" + container, `"dag.tasks[a].withParam of a template that is no container"`},
		"conditions of an item":   {head + "    - name: main\n      dag: {tasks: [{name: a, template: c, withParam: '[1]', when: \"{{ item }} == 1\"}]}\n" + container, `"dag.tasks[a].when with {{item}}"`},
		"an item without a loop":  {head + "    - name: main\n      dag: {tasks: [{name: a, template: s, arguments: {parameters: [{name: in, value: \"{{item}}\"}]}}]}\n" + step("s", ""), `{{item}} has no value there`},
		"an item in its own list": {head + "    - name: main\n      dag: {tasks: [{name: a, template: c, withParam: \"{{item}}\"}]}\n" + container, `withParam: {{item}} has no value there`},
		"results of any item":     {head + "    - name: main\n      dag: {tasks: [{name: a, template: c, withParam: '[1]'}, {name: b, template: c, depends: a.AnySucceeded}]}\n" + container, `a.AnySucceeded`},
		"artifacts of items":      {head + "    - name: main\n      dag:\n        tasks:\n          - {name: a, template: w, withParam: '[1]'}\n      outputs: {artifacts: [{name: r, from: \"{{tasks.a.outputs.artifacts.r}}\"}]}\n    - name: w\n      outputs: {artifacts: [{name: r, path: /o/r, archive: {none: {}}}]}\n      container: {command: [w, /o]}\n", `{{tasks.a.outputs.artifacts.r}} has no value there`},
		"hooks":                   {strings.Replace(head, "entrypoint: main", "entrypoint: main\n  hooks: {exit: {template: c}}", 1) + "    - name: main\n      dag: {tasks: [{name: a, template: c}]}\n" + container, `"spec.hooks"`},
		"an exit handler nowhere": {strings.Replace(head, "entrypoint: main", "entrypoint: main\n  onExit: z", 1) + "    - name: main\n      dag: {tasks: [{name: a, template: c}]}\n" + container, `no template "z"`},
		"the end before it":       {head + "    - name: main\n      container: {command: [c], args: [\"{{workflow.status}}\"]}\n", `{{workflow.status}} has no value there`},
		"sets of containers":      {head + "    - name: main\n      containerSet: {containers: [{name: main, image: x, command: [c]}]}\n", `"containerSet"`},
		"an artifact not taken":   {head + "    - name: main\n      inputs: {artifacts: [{name: x, optional: true}]}\n      dag: {tasks: [{name: a, template: c, arguments: {artifacts: [{name: x, from: \"{{inputs.artifacts.x}}\"}]}}]}\n" + container, `passes artifact "x"`},
		"a needed artifact":       {head + "    - name: main\n      inputs: {artifacts: [{name: x}]}\n      dag: {tasks: [{name: a, template: c}]}\n" + container, `"inputs.artifacts[x] without optional: true"`},
		"located artifacts":       {strings.Replace(head, "arguments:", "arguments:\n    artifacts: [{name: x, git: {repo: r}}]", 1) + "    - name: main\n      container: {command: [c]}\n", `arguments.artifacts[x].git`},
		"secrets as environment":  {head + "    - name: main\n      container:\n        command: [c]\n        env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n", `"container.env[A].valueFrom"`},
		"other volumes":           {head + "    - name: main\n      volumes: [{name: v, hostPath: {path: /}}]\n      container: {command: [c]}\n", `"volumes[v].hostPath"`},
		"artifact locations":      {head + "    - name: main\n      outputs: {artifacts: [{name: a, path: /o/a, archive: {none: {}}, s3: {key: k}}]}\n      container: {command: [c, /o]}\n", `"outputs.artifacts[a].s3"`},
		"packed artifacts":        {head + "    - name: main\n      outputs: {artifacts: [{name: a, path: /o/a}]}\n      container: {command: [c, /o]}\n", `without archive: {none: {}}`},
		"no command":              {head + "    - name: main\n      container: {image: x}\n", `container.command is not set`},
		"variable expansion":      {head + "    - name: main\n      container: {command: [c], args: [\"$(HOME)\"]}\n", `$(HOME)`},
		"an unknown task":         {head + "    - name: main\n      dag: {tasks: [{name: a, template: c, depends: z}]}\n" + container, `task "a" depends on task "z", which does not exist`},
		"a circle":                {head + "    - name: main\n      dag: {tasks: [{name: a, template: c, depends: b}, {name: b, template: c, depends: a}]}\n" + container, `depends on itself`},
		"a bad result":            {head + "    - name: main\n      dag: {tasks: [{name: a, template: c}, {name: b, template: c, depends: a.Suceeded}]}\n" + container, `a.Suceeded`},
		"a template nowhere":      {head + "    - name: main\n      dag: {tasks: [{name: a, template: z}]}\n", `no template "z"`},
		"a templateRef nowhere":   {head + "    - name: main\n      dag: {tasks: [{name: a, templateRef: {name: far, template: z}}]}\n", `no WorkflowTemplate named "far"`},
		"an unknown reference":    {head + "    - name: main\n      container: {command: [c], args: [\"{{workflow.parameters.tetx}}\"]}\n", `{{workflow.parameters.tetx}} has no value there`},
		"a later task's output":   {head + "    - name: main\n      dag: {tasks: [{name: a, template: s, arguments: {parameters: [{name: in, value: \"{{tasks.b.outputs.parameters.value}}\"}]}}, {name: b, template: s}]}\n" + step("s", ""), `{{tasks.b.outputs.parameters.value}} has no value there`},
		"an argument not taken":   {head + "    - name: main\n      dag: {tasks: [{name: a, template: c, arguments: {parameters: [{name: in, value: x}]}}]}\n" + container, `passes "in"`},
		"an output out of reach":  {head + "    - name: main\n      outputs: {parameters: [{name: v, valueFrom: {path: /tmp/outputs/v}}]}\n      container: {command: [c]}\n", `cannot tell the command where to put it`},
		"a bad retry expression":  {head + "    - name: main\n      retryStrategy: {expression: \"lastRetry.exitCod ==\"}\n      container: {command: [c]}\n", `retryStrategy`},
		"a missing volume":        {head + "    - name: main\n      container: {command: [c], volumeMounts: [{name: v, mountPath: /v}]}\n", `no volume of that name`},
		"another kind":            {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", `expected a document of kind WorkflowTemplate`},
		"a workflow of Argo 0.x":  {strings.Replace(head, "v1alpha1", "v1", 1) + "    - {name: main, container: {command: [c]}}\n", `apiVersion is "argoproj.io/v1"`},
		"no entrypoint":           {strings.Replace(head, "entrypoint: main", "", 1) + "    - {name: main, container: {command: [c]}}\n", `no entrypoint`},
		"a parameter from a map":  {strings.Replace(head, "value: hello,", "valueFrom: {configMapKeyRef: {name: a, key: b}},", 1) + "    - {name: main, container: {command: [c]}}\n", `valueFrom`},
		"an image without a name": {head + "    - name: main\n      script: {image: x, command: [sh], source: echo}\n", `"script"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, tt.yaml, nil)
			_, err := localrun.Load(b.file)
			if err == nil {
				t.Fatal("loaded")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want it to say %q", err, tt.want)
			}
		})
	}
}

func TestRunChecksThisMachineBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	b := newBench(t, head+`
    - name: main
      dag: {tasks: [{name: a, template: there}, {name: b, template: missing}]}
    - name: there
      container: {command: [there]}
    - name: missing
      volumes: [{name: s, secret: {secretName: training}}]
      container: {command: [missing], volumeMounts: [{name: s, mountPath: /bindings/s}]}
`, map[string]string{"there": "true"})
	w, err := localrun.Load(b.file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Run(t.Context(), b.options)
	for _, want := range []string{`command "missing" is not in`, `mounts secret "training" at /bindings/s`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want it to say %q", err, want)
		}
	}
	if len(b.events) > 0 {
		t.Errorf("something started: %v", b.events)
	}
}

func TestParametersAndTheirUses(t *testing.T) {
	t.Parallel()
	b := newBench(t, head+`
    - name: main
      dag: {tasks: [{name: a, template: s, arguments: {parameters: [{name: in, value: "{{workflow.parameters.text}}"}]}}]}
`+step("s", ""), nil)
	w, err := localrun.Load(b.file)
	if err != nil {
		t.Fatal(err)
	}
	want := []localrun.Parameter{
		{Name: "text", Default: "hello", Description: "What is passed on."},
		{Name: "mode", Default: "fast", Enum: []string{"fast", "slow"}},
	}
	if diff := cmp.Diff(want, w.Parameters()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]localrun.Use{{Parameter: "text", Task: "a", Command: "s", Env: "IN"}}, w.Uses()); diff != "" {
		t.Error(diff)
	}
	if err := w.Set("mode", "medium"); err == nil || !strings.Contains(err.Error(), `expected one of ["fast" "slow"]`) {
		t.Errorf("set an unknown mode: %v", err)
	}
	if err := w.Set("txet", "x"); err == nil {
		t.Error("set an unknown parameter")
	}
}

func TestTemplatesAreFoundBesideTheFileAndInSteps(t *testing.T) {
	t.Parallel()
	b := newBench(t, head+`
    - name: main
      dag: {tasks: [{name: a, templateRef: {name: far, template: s}}]}
`, map[string]string{"s": "true"})
	write(t, filepath.Join(filepath.Dir(b.file), "steps", "far.yaml"), `
apiVersion: argoproj.io/v1alpha1
kind: WorkflowTemplate
metadata: {name: far}
spec:
  templates:
    - name: s
      container: {command: [s]}
`, 0o644)
	write(t, filepath.Join(filepath.Dir(b.file), "other.yaml"), "not: [yaml", 0o644)
	if res := b.run(t, t.Context(), nil); res.Steps[0].Status != localrun.Succeeded {
		t.Errorf("%+v", res.Steps)
	}
}
