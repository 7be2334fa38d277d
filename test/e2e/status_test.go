package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"

	"github.com/insitu-ml/insitu/internal/status"
)

// status runs the tool of this machine; exit code 1 says that something is not ready, or the newest run failed.
func (in *installation) status(t *testing.T) status.Report {
	t.Helper()
	r := in.command(time.Minute, root+"/bin/insitu", "status", "-n", in.namespace, "-o", "json")
	if r.code != 0 && r.code != 1 {
		t.Fatal(r.err)
	}
	var report status.Report
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("%v\n%s", err, r.stdout)
	}
	return report
}

func TestInsituStatusShowsTheRunWithItsCommitAndWhatTheChartRuns(t *testing.T) {
	t.Parallel()
	p := newTenant(t, "status")
	sha := strings.Repeat("0123456789", 4)
	r := p.submit(t, dag, "epochs=abc", "git-sha="+sha) // refused by the first step
	report := p.status(t)
	var seen bool
	for _, part := range report.Parts {
		switch part.Part {
		case status.Run:
			if part.Name == r.name {
				seen = true
				if part.SHA != sha {
					t.Errorf("%+v, expected commit %s", part, sha)
				}
			}
		case status.MLflow, status.Training, status.Inference:
			if part.State != status.Ready || part.Version == "" || !strings.Contains(part.URL, in(p)) {
				t.Errorf("%+v", part)
			}
		}
	}
	if !seen {
		t.Errorf("%s is not among the newest runs: %+v", r.name, report)
	}
	r.end(t, wfv1.WorkflowFailed)
	for _, part := range p.status(t).Parts {
		if part.Part == status.Run && part.Name == r.name && part.State != string(wfv1.WorkflowFailed) {
			t.Errorf("after its end: %+v", part)
		}
	}
}

// in is the end of the hosts of the installation's Services.
func in(p *tenant) string { return "." + p.namespace + ".svc:" }
