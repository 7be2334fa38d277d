package e2e

import (
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

func TestAChoiceThatIsNoneIsRefusedWhenItIsSubmitted(t *testing.T) {
	t.Parallel()
	p := newTenant(t, "choice")
	for _, parameter := range []string{"format=xml", "approval=perhaps", "log-level=loud"} {
		name, _, _ := strings.Cut(parameter, "=")
		r := p.argo(append(p.submitArguments(dag, parameter), "--name", "refused-"+random())...)
		if r.code != 1 || !strings.Contains(r.stderr, name) || !strings.Contains(r.stderr, "enum") {
			t.Errorf("%s: %v, expected to be refused with its name", parameter, r.err)
		}
	}
	p.untouched(t)
}

func TestABadParameterIsRefusedBeforeAnyDatabaseChanges(t *testing.T) {
	t.Parallel()
	cluster(t)
	for _, c := range []struct{ name, template, parameter, message string }{
		{"a number that is none", dag, "epochs=abc", "epochs"},
		{"a hyper-parameter the ML app has not", express, `parameters={"learning_rat": 0.1}`, "learning_rat"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newTenant(t, "bad")
			r := p.submit(t, c.template, c.parameter)
			wf := r.end(t, wfv1.WorkflowFailed)
			if !strings.Contains(failures(wf), c.message) {
				t.Errorf("no message names %s: %s", c.message, failures(wf))
			}
			p.untouched(t)
		})
	}
}

// failures are the messages of all nodes.
func failures(wf *wfv1.Workflow) string {
	var b strings.Builder
	for _, n := range wf.Status.Nodes {
		if n.Message != "" {
			b.WriteString(n.DisplayName + ": " + n.Message + "\n")
		}
	}
	return b.String()
}
