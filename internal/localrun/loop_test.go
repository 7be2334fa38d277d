package localrun_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/localrun"
)

// loop is a workflow with a task that runs for each item of the list in the parameter text, and one that collects.
func loop(argument, more string) string {
	return head + `
    - name: main
` + more + `
      dag:
        tasks:
          - {name: a, template: work, withParam: "{{workflow.parameters.text}}", arguments: {parameters: [{name: in, value: "` + argument + `"}]}}
          - name: b
            depends: a
            template: collect
            arguments: {parameters: [{name: in, value: "{{tasks.a.outputs.parameters.value}} {{tasks.a.status}} {{tasks.a.outputs.parameters}}"}]}
      outputs: {parameters: [{name: end, valueFrom: {parameter: "{{tasks.a.outputs.parameters.value}}"}}]}
` + step("work", "") + step("collect", "")
}

func TestATaskRunsForEachItemOfAList(t *testing.T) {
	t.Parallel()
	const echo = `printf '%s\n' "$IN" > $OUT/value`
	tests := map[string]struct {
		list, argument string
		work           string // command of the task
		want           []string
		code           int
		end            string
	}{
		"objects, as texts and by member": {
			list: `[{"rate": 0.10, "kind": "re\"lu <b>", "epochs": 5}, {"rate": 1e-7}]`, argument: "{{item}} and {{item.rate}}",
			want: []string{
				`a Succeeded 0 value=["{\"epochs\":5,\"kind\":\"re\\\"lu \\u003cb\\u003e\",\"rate\":0.10} and 0.10","{\"rate\":1e-7} and 1e-7"]`,
				`a(0:epochs:5,kind:re\"lu <b>,rate:0.10) Succeeded 0 value={"epochs":5,"kind":"re\"lu \u003cb\u003e","rate":0.10} and 0.10`,
				`a(1:rate:1e-7) Succeeded 0 value={"rate":1e-7} and 1e-7`,
				`b Succeeded 0 value=["{\"epochs\":5,\"kind\":\"re\\\"lu \\u003cb\\u003e\",\"rate\":0.10} and 0.10","{\"rate\":1e-7} and 1e-7"] Succeeded [{"value":"{\"epochs\":5,\"kind\":\"re\\\"lu \\u003cb\\u003e\",\"rate\":0.10} and 0.10"},{"value":"{\"rate\":1e-7} and 1e-7"}]`,
			},
		},
		"texts, numbers and truth values": {
			list: `["a \"b\" (c) \\ é", 3, true]`, argument: "{{item}}",
			want: []string{
				`a Succeeded 0 value=["a \"b\" (c) \\ é","3","true"]`,
				`a(0:a \"b\" c \\ é) Succeeded 0 value=a "b" (c) \ é`, `a(1:3) Succeeded 0 value=3`, `a(2:true) Succeeded 0 value=true`,
				`b Succeeded 0 value=["a \"b\" (c) \\ é","3","true"] Succeeded [{"value":"a \"b\" (c) \\ é"},{"value":"3"},{"value":"true"}]`,
			},
			end: `["a \"b\" (c) \\ é","3","true"]`,
		},
		"outputs that are all objects or lists are no texts in the list": {
			list: `[{"a": 1}, {"a": [2]}]`, argument: "{{item}}",
			want: []string{
				`a Succeeded 0 value=[{"a":1},{"a":[2]}]`, `a(0:a:1) Succeeded 0 value={"a":1}`, `a(1:a:[2]) Succeeded 0 value={"a":[2]}`,
				`b Succeeded 0 value=[{"a":1},{"a":[2]}] Succeeded [{"value":"{\"a\":1}"},{"value":"{\"a\":[2]}"}]`,
			},
		},
		"one item is a list of one": {
			list: `[{}]`, argument: "{{item}}",
			want: []string{`a Succeeded 0 value=[{}]`, `a(0:) Succeeded 0 value={}`, `b Succeeded 0 value=[{}] Succeeded [{"value":"{}"}]`},
		},
		"an item that fails fails the task when the others have ended": {
			list: `[1, 2, 3]`, argument: "{{item}}", work: `test "$IN" != 1 || exit 2; ` + echo,
			want: []string{`a Failed 0 value=["2","3"]`, `a(0:1) Failed 2`, `a(1:2) Succeeded 0 value=2`, `a(2:3) Succeeded 0 value=3`, `b Omitted 0 value=none`},
			code: 2,
		},
		"an empty list skips the task": {
			list: `[]`, argument: "{{item}}", want: []string{"a Skipped 0 value=none"}, end: "none",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			work := tt.work
			if work == "" {
				work = echo
			}
			workflow := loop(tt.argument, "")
			if tt.list == "[]" { // without a list of objects
				workflow = strings.Replace(workflow, ` {{tasks.a.status}} {{tasks.a.outputs.parameters}}`, "", 1)
				tt.want = append(tt.want, "b Succeeded 0 value=none")
			}
			b := newBench(t, workflow, map[string]string{"work": work, "collect": echo})
			res := b.run(t, t.Context(), map[string]string{"text": tt.list})
			if diff := cmp.Diff(tt.want, summary(res)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			if res.ExitCode != tt.code {
				t.Errorf("exit code %d, want %d", res.ExitCode, tt.code)
			}
			if tt.end != "" && res.Outputs["end"] != tt.end {
				t.Errorf("output %q, want %q", res.Outputs["end"], tt.end)
			}
		})
	}
}

func TestItemsHaveFoldersAndEventsOfTheirOwn(t *testing.T) {
	t.Parallel()
	b := newBench(t, loop("{{item}}", ""), map[string]string{"work": `echo "line of $IN"`, "collect": "true"})
	res := b.run(t, t.Context(), map[string]string{"text": `["x/../../y", "z"]`})
	var got []string
	for _, s := range res.Steps {
		got = append(got, strings.Join([]string{s.Name, s.Of, s.Dir}, " "))
	}
	if diff := cmp.Diff([]string{"a  a", "a(0:x/../../y) a a.0", "a(1:z) a a.1", "b  b"}, got); diff != "" {
		t.Error(diff)
	}
	if res.Steps[0].Items != 2 || res.Steps[1].Items != 0 {
		t.Errorf("items %d, %d", res.Steps[0].Items, res.Steps[1].Items)
	}
	if text, err := os.ReadFile(filepath.Join(b.options.Dir, "a.0", "log.jsonl")); err != nil || string(text) != "line of x/../../y\n" {
		t.Errorf("log %q, %v", text, err)
	}
	for _, e := range b.events {
		if e.Line == "line of z" && (e.Task != "a(1:z)" || e.Of != "a") {
			t.Errorf("event %+v", e)
		}
	}
	if first := b.events[0]; first.Task != "a" || first.Status != localrun.Running || first.Step.Items != 2 {
		t.Errorf("first event %+v, want that of the task itself", first)
	}
}

// Each command notes that it started, waits, and notes its end: the notes tell how many ran at once.
func TestParallelismBoundsWhatRunsAtOnce(t *testing.T) {
	t.Parallel()
	notes := filepath.Join(t.TempDir(), "notes")
	b := newBench(t, loop("{{item}}", "      parallelism: 2"), map[string]string{"work": `echo + >> "$IN"; sleep 0.2; echo - >> "$IN"`, "collect": "true"})
	list := `["` + strings.Join(slices.Repeat([]string{notes}, 5), `", "`) + `"]`
	if res := b.run(t, t.Context(), map[string]string{"text": list}); res.ExitCode != 0 {
		t.Fatalf("%+v", res.Steps)
	}
	text, err := os.ReadFile(notes)
	if err != nil {
		t.Fatal(err)
	}
	running, most := 0, 0
	for _, note := range strings.Fields(string(text)) {
		if note == "+" {
			running++
		} else {
			running--
		}
		most = max(most, running)
	}
	if most != 2 || strings.Count(string(text), "+") != 5 {
		t.Errorf("%d at once, want 2:\n%s", most, text)
	}
}

func TestAStopLeavesTheOtherItemsOut(t *testing.T) {
	t.Parallel()
	b := newBench(t, loop("{{item}}", "      parallelism: 1"), map[string]string{"work": `echo ready; exec sleep 45`, "collect": "true"})
	ctx, cancel := context.WithCancel(t.Context())
	b.options.Observe = func(e localrun.Event) {
		if e.Line == "ready" {
			cancel()
		}
	}
	res := b.run(t, ctx, map[string]string{"text": "[1, 2, 3]"})
	if diff := cmp.Diff([]string{"a Failed 0", "a(0:1) Failed 143", "a(1:2) Omitted 0 value=none", "a(2:3) Omitted 0 value=none", "b Omitted 0 value=none"}, summary(res)); diff != "" {
		t.Error(diff)
	}
}

func TestAListThatIsNoneStopsTheRun(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{"x": "withParam is no JSON list", `{"a": 1}`: "withParam is no JSON list", `[[1]]`: "item 0: [1]: expected a text"} {
		b := newBench(t, loop("{{item}}", ""), map[string]string{"work": "true", "collect": "true"})
		w, err := localrun.Load(b.file)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Set("text", list); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Run(t.Context(), b.options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", list, err, want)
		}
	}
}

func TestAnItemsFailureReachesTheExitHandlerAndTheTasksDoesNotRepeatIt(t *testing.T) {
	t.Parallel()
	workflow := strings.Replace(withExit(loop("{{item}}", "")[len(head):]), `withParam: "{{workflow.parameters.text}}"`, `withParam: '["x"]'`, 1)
	b := newBench(t, workflow, map[string]string{"work": "exit 2", "collect": "true", "bye": bye})
	file := filepath.Join(t.TempDir(), "bye")
	b.run(t, t.Context(), map[string]string{"text": file})
	_, _, failures := farewell(t, file)
	var got []string
	for _, f := range failures {
		got = append(got, f["displayName"]+": "+f["message"])
	}
	if len(got) != 2 || got[0] != "a: " || !strings.HasPrefix(got[1], "a(0:x): main: Error (exit code 2)") {
		t.Errorf("failures %q", got)
	}
}
