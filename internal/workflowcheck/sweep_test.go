package workflowcheck_test

import (
	"encoding/json"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/util/template"
)

// TestTheFirstTwoStepsRunSideBySideAndAsManyCandidates: a sweep of 64 does not start 64 trainings at once.
func TestTheFirstTwoStepsRunSideBySideAndAsManyCandidates(t *testing.T) {
	t.Parallel()
	dag, _ := both(t)
	if got := dag.GetTemplateByName("pipeline").Parallelism; got == nil || *got != 2 {
		t.Errorf("parallelism %v", got)
	}
	if train := task(t, dag, "train-model"); train.WithParam != "{{tasks.deploy-training-code.outputs.parameters.candidates}}" {
		t.Errorf("train-model runs for each of %q", train.WithParam)
	}
}

// replaced does what Argo's controller does with a task: the workflow's parameters first, when the DAG's template is
// read, then what the tasks before it left.
func replaced(t *testing.T, in *wfv1.DAGTask, scope map[string]any) *wfv1.DAGTask {
	t.Helper()
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	globals := map[string]any{"workflow.name": "w"}
	for _, p := range []string{"schema", "model-name", "model-stage", "epochs", "seed", "experiment", "git-sha", "min-accuracy", "min-f1", "tolerance", "training-binding", "log-level"} {
		globals["workflow.parameters."+p] = p
	}
	first, err := template.Replace(string(text), globals, true)
	if err != nil {
		t.Fatal(err)
	}
	second, err := template.ReplaceStrictAny(first, scope, []string{"tasks", "steps"})
	if err != nil {
		t.Fatalf("%v, in %s", err, first)
	}
	out := new(wfv1.DAGTask)
	if err := json.Unmarshal([]byte(second), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCandidatesKeepTheirTextOnTheWayThroughArgo follows a value with quotes from the list to the parameter of the step,
// and the outputs of the steps, which Argo makes lists of, to evaluate-model.
func TestCandidatesKeepTheirTextOnTheWayThroughArgo(t *testing.T) {
	t.Parallel()
	dag, _ := both(t)
	const candidates = `[{"epochs":5,"kind":"a \"b\" \\ <c> é {d}"},{"epochs":10}]`
	train := replaced(t, task(t, dag, "train-model"), map[string]any{
		"tasks.deploy-training-code.outputs.parameters.candidates": candidates, "tasks.deploy-training-code.outputs.parameters.code-digest": "c",
		"tasks.upload-dataset.outputs.parameters.dataset-digest": "d",
	})
	var items []wfv1.Item
	if err := json.Unmarshal([]byte(train.WithParam), &items); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{{"epochs": 5.0, "kind": `a "b" \ <c> é {d}`}, {"epochs": 10.0}}
	for i, item := range items {
		if item.GetType() != wfv1.Map {
			t.Fatalf("item %s is no object", item.String())
		}
		text, err := json.Marshal(item.GetMapVal())
		if err != nil {
			t.Fatal(err)
		}
		one := replaced(t, train, map[string]any{"item": string(text)})
		var got map[string]any
		if err := json.Unmarshal([]byte(argument(one, "parameters")), &got); err != nil {
			t.Fatalf("%q: %v", argument(one, "parameters"), err)
		}
		if got["epochs"] != want[i]["epochs"] || got["kind"] != want[i]["kind"] {
			t.Errorf("candidate %d gets %v, want %v", i, got, want[i])
		}
	}
	evaluate := replaced(t, task(t, dag, "evaluate-model"), map[string]any{
		"tasks.train-model.status": "Succeeded", "tasks.train-model.outputs.result": "[]",
		"tasks.train-model.outputs.parameters":            `[{"model-name":"digits","model-version":"3"},{"model-name":"digits","model-version":"4"}]`,
		"tasks.train-model.outputs.parameters.model-name": `["digits","digits"]`, "tasks.train-model.outputs.parameters.model-version": `["3","4"]`,
	})
	if name, versions := argument(evaluate, "model-name"), argument(evaluate, "model-version"); name != "digits" || versions != `["3","4"]` {
		t.Errorf("evaluate-model gets the name %q and the versions %q", name, versions)
	}
}
