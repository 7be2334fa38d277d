package e2e

import (
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/google/go-cmp/cmp"
)

func TestThePipelineRunsAndASecondRunChangesNothing(t *testing.T) {
	t.Parallel()
	runsTwice(t, "dag", dag)
}

func TestTheContainerSetRunsAndASecondRunChangesNothing(t *testing.T) {
	t.Parallel()
	runsTwice(t, "express", express)
}

// runsTwice runs a pipeline as the documentation shows it, and again with nothing changed.
func runsTwice(t *testing.T, word, template string) {
	p := newTenant(t, word)

	first, printed := p.follow(t, template, "epochs=2")
	if printed.err != nil {
		t.Fatal(printed.err)
	}
	if !strings.Contains(printed.stdout, `"step done","step":"evaluate-model"`) {
		t.Errorf("--log shows no log of evaluate-model:\n%s", printed.stdout)
	}
	wf := first.end(t, wfv1.WorkflowSucceeded)
	timed(t, template, "first run", wf, first.logged(t))
	out := first.serves(t, wf)
	if out["model-version"] != "1" {
		t.Errorf("the first run's version is %q", out["model-version"])
	}
	before := p.contents(t)
	for place, n := range before {
		if n == 0 {
			t.Errorf("the first run left nothing in %s", place)
		}
	}

	second, printed := p.follow(t, template, "epochs=2")
	if printed.err != nil {
		t.Fatal(printed.err)
	}
	wf = second.end(t, wfv1.WorkflowSucceeded)
	lines := second.logged(t)
	timed(t, template, "nothing changed", wf, lines)
	again := second.serves(t, wf)
	if again["model-version"] != "1" || again["accuracy"] != out["accuracy"] {
		t.Errorf("outputs of the second run: %v, of the first: %v", again, out)
	}
	if diff := cmp.Diff(before, p.contents(t)); diff != "" {
		t.Errorf("rows after the second run: %s", diff)
	}
	if line := lines.find("upload-dataset", "dataset is there already"); line == nil || line["bytes_uploaded"] != 0.0 {
		t.Errorf("the second run's upload-dataset logs %v", lines["upload-dataset"])
	}
	if line := lines.find("train-model", "model"); line == nil || line["trained"] != false {
		t.Errorf("the second run's train-model logs %v", lines["train-model"])
	}
	if template != dag { // a container set gives Argo the outputs of its container main alone
		return
	}
	if u := outputs(t, wf, "upload-dataset"); u["bytes-uploaded"] != "0" || u["rows-loaded"] != "0" {
		t.Errorf("the second run uploads: %v", u)
	}
	if m := outputs(t, wf, "train-model(0:epochs:2)"); m["trained"] != "false" || m["model-version"] != "1" {
		t.Errorf("the second run trains: %v", m)
	}
	for _, step := range []string{"deploy-training-code", "deploy-inference-db"} {
		if d := outputs(t, wf, step); d["changesets-added"] != "0" {
			t.Errorf("the second run's %s: %v", step, d)
		}
	}
}

// contents are the numbers of rows in the tenant's tables, of both databases.
func (p *tenant) contents(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, table := range []string{"databasechangelog", "datasets", "releases", "jobs", "checkpoints", "models"} {
		out["training "+table] = count(t, p.training, p.name, table)
	}
	for _, table := range []string{"databasechangelog", "model_blobs", "models", "activations", "deployments"} {
		out["inference "+table] = count(t, p.inference, p.name, table)
	}
	return out
}
