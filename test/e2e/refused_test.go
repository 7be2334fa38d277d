package e2e

import (
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

// Argo 3.7 does not hold what is submitted against the enum of a WorkflowTemplate's parameter: the steps do.
func TestABadParameterIsRefusedBeforeAnyDatabaseChanges(t *testing.T) {
	t.Parallel()
	cluster(t)
	for _, c := range []struct{ name, template, parameter, message string }{
		{"a number that is none", dag, "epochs=abc", "--epochs"},
		{"a hyper-parameter the ML app has not", express, `parameters={"learning_rat": 0.1}`, `"learning_rat" is not declared`},
		{"a sweep of what the ML app has not", dag, `sweep={"learning_rat": [0.1, 0.2]}`, `"learning_rat" is not declared`},
		{"a choice that is none", dag, "log-level=loud", "--log-level"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newTenant(t, "bad")
			wf := p.submit(t, c.template, c.parameter).end(t, wfv1.WorkflowFailed)
			if said := failures(wf); !strings.Contains(said, "exit code 2") || !strings.Contains(said, c.message) {
				t.Errorf("expected exit code 2 and a message with %s: %s", c.message, said)
			}
			p.untouched(t)
		})
	}
}

func TestAFormatThatIsNoneUploadsNothing(t *testing.T) {
	t.Parallel()
	p := newTenant(t, "format")
	wf := p.submit(t, dag, "format=xml").end(t, wfv1.WorkflowFailed)
	if said := failures(wf); !strings.Contains(said, "exit code 2") || !strings.Contains(said, "--format") {
		t.Errorf("expected exit code 2 and a message with --format: %s", said)
	}
	// deploy-training-code, which runs beside it, knows nothing of formats.
	if n := count(t, p.training, p.name, "datasets") + count(t, p.training, p.name, "jobs") + count(t, p.inference, p.name, "databasechangelog"); n != 0 {
		t.Errorf("%d rows of datasets, jobs and the inference database's changelog, expected none", n)
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
