package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/google/go-cmp/cmp"
)

// Pictures whose colours are reversed are nothing that the model was trained on.
func TestAModelThatHasDriftedIsTrainedAgainOnce(t *testing.T) {
	t.Parallel()
	p := newTenant(t, "monitoring")
	first := p.submit(t, dag, "epochs=2")
	first.serves(t, first.end(t, wfv1.WorkflowSucceeded))

	one[bool](t, p.inference, "select true from "+p.table("set_sampling")+"(1)")
	pictures, _ := digits(t, 600)
	for _, picture := range pictures {
		for i := range picture {
			picture[i] = 16 - picture[i]
		}
	}
	rows[string](t, p.inference, "select "+p.table("run_inference_task")+"(img) from unnest($1::bytea[]) img", pictures)

	arguments := map[string]string{}
	for _, parameter := range p.parameters("epochs=20") {
		name, value, _ := strings.Cut(parameter, "=")
		if name != "inference-schema" { // the check adds it
			arguments[name] = value
		}
	}
	text, err := json.Marshal(arguments)
	if err != nil {
		t.Fatal(err)
	}
	// One that a person starts does not wait for the schedule's.
	check := func() *run {
		r := p.argo("submit", "--from", "cronworkflow/watch", "-o", "name", "-p", "inference-schema="+p.name, "-p", "arguments="+string(text))
		if r.err != nil {
			t.Fatal(r.err)
		}
		return p.started(t, strings.TrimSpace(r.stdout))
	}
	asked := map[string]int{}
	var again string
	for _, r := range []*run{check(), check()} {
		out := outputs(t, r.end(t, wfv1.WorkflowSucceeded), "check")
		asked[out["retrain"]]++
		if out["crossed"] != "true" || !strings.Contains(out["reason"], `input "mean"`) {
			t.Errorf("%s: crossed %q: %q", r.name, out["crossed"], out["reason"])
		}
		if out["retrain"] == "true" {
			again = out["run"]
		}
	}
	if diff := cmp.Diff(map[string]int{"true": 1, "false": 1}, asked); diff != "" {
		t.Fatalf("two checks at once asked for: %s", diff)
	}

	retraining := p.started(t, again)
	wf := retraining.end(t, wfv1.WorkflowSucceeded)
	if out := retraining.serves(t, wf); out["model-version"] != "2" {
		t.Errorf("after the retraining version %s is served", out["model-version"])
	}
	i := slices.IndexFunc(wf.Spec.Arguments.Parameters, func(a wfv1.Parameter) bool { return a.Name == "reason" })
	if i < 0 || !strings.Contains(wf.Spec.Arguments.Parameters[i].Value.String(), `input "mean"`) {
		t.Errorf("the run does not say why it was made: %v", wf.Spec.Arguments.Parameters)
	}
	if diff := cmp.Diff([]string{again + " Succeeded"}, rows[string](t, p.inference, "select run || ' ' || result from "+p.table("retrainings"))); diff != "" {
		t.Errorf("retrainings: %s", diff)
	}

	// The new version has had no calls yet but those of its smoke test.
	last := check()
	if out := outputs(t, last.end(t, wfv1.WorkflowSucceeded), "check"); out["crossed"] != "false" || out["retrain"] != "false" {
		t.Errorf("a check of the new version: %v", out)
	}
}
