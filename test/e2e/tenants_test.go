package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

func TestTwoTenantsRunSideBySideAndTwoRunsOfOneTenantWait(t *testing.T) {
	t.Parallel()
	a, b := newTenant(t, "tenant-a"), newTenant(t, "tenant-b")
	// Enough for the app's own gate.
	trained := []string{"epochs=20", "min-accuracy=0.9", "min-f1=0.9"}
	first := a.submit(t, dag, trained...)
	within(t, time.Minute, "the first run runs", func() bool { return first.workflow(t).Status.Phase == wfv1.WorkflowRunning })
	second := a.submit(t, dag, append(trained, "seed=1")...)
	other := b.submit(t, dag, append(trained, "seed=2")...)

	var waiting *wfv1.Workflow
	within(t, time.Minute, "the tenant's second run waits for the first one's lock", func() bool {
		waiting = second.workflow(t)
		return waiting.Status.Phase == wfv1.WorkflowPending && strings.Contains(waiting.Status.Message, "lock")
	})
	if !strings.Contains(waiting.Status.Message, a.name) {
		t.Errorf("the second run's message does not name the tenant: %q", waiting.Status.Message)
	}
	within(t, time.Minute, "the other tenant's run runs", func() bool { return other.workflow(t).Status.Phase == wfv1.WorkflowRunning })
	if phase := first.workflow(t).Status.Phase; phase != wfv1.WorkflowRunning {
		t.Errorf("the first run is %s before the other tenant's was seen to run", phase)
	}

	done := map[*run]*wfv1.Workflow{}
	for _, r := range []*run{first, other, second} {
		done[r] = r.end(t, wfv1.WorkflowSucceeded)
	}
	// Overlap is what side by side means; waiting is that nothing of the second run began before the first had ended.
	if x, y := done[first].Status, done[other].Status; !x.StartedAt.Before(&y.FinishedAt) || !y.StartedAt.Before(&x.FinishedAt) {
		t.Errorf("the two tenants' runs did not overlap: %s to %s, %s to %s", x.StartedAt, x.FinishedAt, y.StartedAt, y.FinishedAt)
	}
	for _, n := range done[second].Status.Nodes {
		if n.StartedAt.Before(&done[first].Status.FinishedAt) {
			t.Errorf("%s of the second run began at %s, the first run ended at %s", n.DisplayName, n.StartedAt, done[first].Status.FinishedAt)
		}
	}

	for r, versions := range map[*run]int{second: 2, other: 1} {
		out := outputs(t, done[r], done[r].Name)
		if number(t, out, "accuracy") <= 0.9 {
			t.Errorf("%s: accuracy %s", r.tenant.name, out["accuracy"])
		}
		if n := count(t, r.training, r.tenant.name, "models"); n != versions {
			t.Errorf("%s: %d models in the training database, expected %d", r.tenant.name, n, versions)
		}
		owner := one[int](t, r.training, "select count(*) from "+r.table("releases"))
		registered, err := r.models.ModelVersions(r.ctx, r.tenant.name, nil)
		if err != nil || len(registered) != versions || owner != 1 {
			t.Errorf("%s: %d releases, versions %v in MLflow, expected %d; %v", r.tenant.name, owner, registered, versions, err)
		}
		r.tellsDigitsApart(t)
	}
	// The other tenant's only run passed its gate without a champion; the second run had one to beat, and the better one serves.
	other.serves(t, done[other])
	if holder, version := a.alias(t).Version, a.active(t); version != strconv.Itoa(holder) {
		t.Errorf("staging is version %d, the inference database predicts with %q", holder, version)
	}
}
