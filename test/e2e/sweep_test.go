package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/google/go-cmp/cmp"
)

// A rate that learns next to nothing stands between two that learn.
func TestOfASweepTheLowestValidationLossIsServed(t *testing.T) {
	t.Parallel()
	p := newTenant(t, "sweep")
	r := p.submit(t, dag, "epochs=2", `sweep={"learning_rate": [0.02, 0.000001, 0.05]}`)
	wf := r.end(t, wfv1.WorkflowSucceeded)

	if group := mustNode(t, wf, "train-model"); group.Type != wfv1.NodeTypeTaskGroup {
		t.Errorf("train-model is a %s", group.Type)
	}
	var jobs, versions []string
	for i, rate := range []string{"0.02", "0.000001", "0.05"} {
		candidate := outputs(t, wf, fmt.Sprintf("train-model(%d:epochs:2,learning_rate:%s)", i, rate))
		jobs, versions = append(jobs, candidate["job"]), append(versions, candidate["model-version"])
	}
	registered, err := p.models.ModelVersions(p.ctx, p.name, nil)
	if err != nil || len(registered) != 3 || count(t, p.training, p.name, "jobs") != 3 {
		t.Errorf("%d versions are registered, %d jobs: expected one for each of %q (%v)", len(registered), count(t, p.training, p.name, "jobs"), versions, err)
	}
	best := one[string](t, p.training, "select job from "+p.table("models")+" order by (metrics #>> '{validation,loss}')::float8 limit 1")
	lowest := ""
	for i, job := range jobs {
		if job == best {
			lowest = versions[i]
		}
	}
	if out := r.serves(t, wf); out["model-version"] != lowest {
		t.Errorf("version %s goes on, version %s has the lowest validation loss", out["model-version"], lowest)
	}
	for _, v := range registered {
		tag, chosen := v.Tags["insitu.sweep"]
		if want := strconv.Itoa(v.Version) == lowest; chosen != want || want && !strings.HasPrefix(tag, "lowest validation loss of 3 candidates: versions ") {
			t.Errorf("version %d has the tag insitu.sweep=%q", v.Version, tag)
		}
	}
	if n := count(t, p.inference, p.name, "models"); n != 1 {
		t.Errorf("the inference database has %d models, expected the chosen one", n)
	}
	// No more than two candidates train at once.
	var pods []wfv1.NodeStatus
	for _, n := range wf.Status.Nodes {
		if n.Type == wfv1.NodeTypePod && strings.HasPrefix(n.DisplayName, "train-model(") {
			pods = append(pods, n)
		}
	}
	for _, n := range pods {
		beside := 0
		for _, other := range pods {
			if !other.StartedAt.After(n.StartedAt.Time) && other.FinishedAt.After(n.StartedAt.Time) {
				beside++
			}
		}
		if beside > 2 {
			t.Errorf("%d candidates trained when %s began", beside, n.DisplayName)
		}
	}
	if len(pods) < 3 {
		t.Errorf("%d pods trained", len(pods))
	}

	before := p.contents(t)
	again := p.submit(t, dag, "epochs=2", `sweep={"learning_rate": [0.02, 0.000001, 0.05]}`)
	out := outputs(t, again.end(t, wfv1.WorkflowSucceeded), again.name)
	if diff := cmp.Diff(before, p.contents(t)); diff != "" || out["model-version"] != lowest {
		t.Errorf("the same sweep once more: version %s, %s", out["model-version"], diff)
	}
}
