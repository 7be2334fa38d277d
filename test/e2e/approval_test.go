package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

// asked waits until the run waits for somebody's approval, and checks that what that person needs is there.
func (r *run) asked(t *testing.T) *wfv1.Workflow {
	t.Helper()
	var wf *wfv1.Workflow
	within(t, limit, "the run waits for an approval", func() bool {
		wf = r.workflow(t)
		n := node(wf, "approve")
		if wf.Status.Fulfilled() {
			t.Fatalf("the run ended without asking: %s %s", wf.Status.Phase, wf.Status.Message)
		}
		return n != nil && n.Phase == wfv1.NodeRunning
	})
	if r.alias(t).Version != 0 || r.active(t) != "" {
		t.Errorf("before the approval: version %d is staging, %q is active", r.alias(t).Version, r.active(t))
	}
	n := mustNode(t, wf, "approve")
	said := ""
	if n.Inputs != nil {
		for _, p := range n.Inputs.Parameters {
			said += p.GetValue() + "\n"
		}
	}
	if !strings.Contains(said, r.tenant.name) || !strings.Contains(said, "accuracy 0.") || !strings.Contains(said, "report") {
		t.Errorf("the person who approves is told: %s", said)
	}
	return wf
}

// decide answers as a user of the command line does.
func (r *run) decide(t *testing.T, decision, approver string) {
	t.Helper()
	for _, args := range [][]string{
		{"node", "set", r.name, "--node-field-selector", "displayName=approve", "--output-parameter", "decision=" + decision, "--output-parameter", "approver=" + approver},
		{"resume", r.name, "--node-field-selector", "displayName=approve"},
	} {
		if got := r.argo(args...); got.err != nil {
			t.Fatal(got.err)
		}
	}
}

// rejects runs the pipeline until it asks, says no, and checks that the alias and the databases stay as they were.
func (p *tenant) rejects(t *testing.T, pipeline, approval string) {
	t.Helper()
	r := p.submit(t, pipeline, "epochs=2", approval)
	r.asked(t)
	began := time.Now()
	r.decide(t, "reject", "Jane Doe")
	wf := r.end(t, wfv1.WorkflowSucceeded)
	out := outputs(t, wf, wf.Name)
	if out["promoted"] != "false" || out["active-version"] != "" {
		t.Errorf("outputs after the rejection: %v", out)
	}
	if p.alias(t).Version != 0 || p.active(t) != "" {
		t.Errorf("after the rejection: version %d is staging, %q is active", p.alias(t).Version, p.active(t))
	}
	p.decided(t, 1, "reject", "Jane Doe", began)
}

func TestAnApprovedModelIsPromotedAndARejectedOneIsNot(t *testing.T) {
	t.Parallel()
	p := newTenant(t, "approval")
	p.rejects(t, dag, "approval=Required") // misspelt: whatever is not none asks

	r := p.submit(t, dag, "epochs=2", "approval=required")
	r.asked(t)
	began := time.Now()
	r.decide(t, "approve", "Joe Bloggs")
	wf := r.end(t, wfv1.WorkflowSucceeded)
	r.serves(t, wf)
	p.decided(t, 1, "approve", "Joe Bloggs", began)
}

func TestAnApprovalInTheUserInterfaceTellsWhoGaveIt(t *testing.T) {
	t.Parallel()
	p := newTenant(t, "approval-ui")
	p.needServer(t)
	p.rejects(t, express, "approval=required")

	r := p.submit(t, express, "epochs=2", "approval=required")
	wf := r.asked(t)
	began := time.Now()
	// What the two buttons of the node's panel send.
	id, path := "id="+mustNode(t, wf, "approve").ID, "/api/v1/workflows/"+p.namespace+"/"+r.name
	values, err := json.Marshal(map[string]string{"decision": "approve", "approver": "Jane Doe"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.request(http.MethodPut, path+"/set", map[string]string{"nodeFieldSelector": id, "outputParameters": string(values)}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.request(http.MethodPut, path+"/resume", map[string]string{"nodeFieldSelector": id}); err != nil {
		t.Fatal(err)
	}
	wf = r.end(t, wfv1.WorkflowSucceeded)
	r.serves(t, wf)
	p.decided(t, 1, "approve", "Jane Doe", began)
	by := p.alias(t).Tags["insitu.approved-by.staging"]
	if actor := wf.Labels["workflows.argoproj.io/actor"]; actor != "" && !strings.Contains(by, actor) {
		t.Errorf("the server says that %q resumed the run, the version's tag %q", actor, by)
	} else if actor == "" {
		t.Log("argo-server does not know who its users are (server mode): the tag holds the name that was typed")
	}
}

// decided checks that the version's tags say who decided what, and when.
func (p *tenant) decided(t *testing.T, version int, decision, approver string, began time.Time) {
	t.Helper()
	v, err := p.models.ModelVersion(p.ctx, p.name, version)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, v.Tags["insitu.approved-at.staging"])
	if err != nil || at.Before(began.Add(-time.Minute)) || at.After(time.Now().Add(time.Minute)) {
		t.Errorf("decided at %q (%v), expected after %s", v.Tags["insitu.approved-at.staging"], err, began)
	}
	if v.Tags["insitu.approval.staging"] != decision || !strings.Contains(v.Tags["insitu.approved-by.staging"], approver) {
		t.Errorf("tags of version %d: %v, expected %s by %s", version, v.Tags, decision, approver)
	}
}
