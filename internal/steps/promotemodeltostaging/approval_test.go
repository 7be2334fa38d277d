package promotemodeltostaging_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/registry/registrytest"
)

// labels are those of a workflow that Jane let go on in Argo's user interface.
const labels = `{"workflows.argoproj.io/phase": "Running", "workflows.argoproj.io/action": "Resume", "workflows.argoproj.io/actor": "subject-1",
	"workflows.argoproj.io/actor-email": "jane.at.example.org", "workflows.argoproj.io/actor-preferred-username": "jane", "insitu/git-sha": "abc"}`

// decided takes the tags of the decision about version 2, without the time, which must be one.
func decided(t *testing.T, s *registrytest.Server) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, value := range s.Versions()[1].Tags {
		if name == "insitu.approved-at.staging" {
			if _, err := time.Parse(time.RFC3339, value); err != nil {
				t.Error(err)
			}
		} else if strings.HasPrefix(name, "insitu.appro") {
			out[strings.TrimPrefix(name, "insitu.")] = value
		}
	}
	return out
}

func TestAnApprovedVersionIsPromotedAndTellsWhoApprovedIt(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	r := promote(t, s, map[string]string{"approval": "approve", "approver": "Jane Doe", "approval-labels": labels})
	if r.Code != 0 || r.Outputs["promoted"] != "true" || s.Alias("m", "staging") != 2 {
		t.Fatalf("exit %d, outputs %v\n%s", r.Code, r.Outputs, r.Stderr)
	}
	want := map[string]string{"approval.staging": "approve", "approved-by.staging": "jane (Jane Doe)"}
	if diff := cmp.Diff(want, decided(t, s)); diff != "" {
		t.Error(diff)
	}
}

func TestARejectedVersionIsAResultAndMovesNothing(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	promote(t, s, map[string]string{"model-version": "1"})
	flags := map[string]string{"approval": "reject", "approver": "Jane Doe"}
	r := promote(t, s, flags)
	want := map[string]string{"accepted": "false", "promoted": "false", "model-version": "1", "previous-version": ""}
	if diff := cmp.Diff(want, r.Outputs); r.Code != 0 || diff != "" || s.Alias("m", "staging") != 1 || s.Versions()[1].Stage != "None" {
		t.Errorf("exit %d, alias %d, %s\n%s", r.Code, s.Alias("m", "staging"), diff, r.Stderr)
	}
	tags := map[string]string{"approval.staging": "reject", "approved-by.staging": "Jane Doe"}
	if diff := cmp.Diff(tags, decided(t, s)); diff != "" {
		t.Error(diff)
	}
	if _, there := s.Versions()[1].Tags["insitu.promoted-at.staging"]; there {
		t.Error("a rejected version says when it was promoted")
	}

	// Running the step again changes nothing.
	s.Before = func(_ int, method, path string) int {
		if method != http.MethodGet {
			t.Errorf("the second run wrote: %s %s", method, path)
		}
		return 0
	}
	if again := promote(t, s, flags); again.Code != 0 || !cmp.Equal(r.Outputs, again.Outputs) {
		t.Errorf("exit %d, outputs %v", again.Code, again.Outputs)
	}
	s.Before = nil

	// Another run, another decision, by somebody else.
	if r := promote(t, s, map[string]string{"approval": "approve", "approver": "Joe"}); r.Outputs["promoted"] != "true" || s.Alias("m", "staging") != 2 {
		t.Errorf("exit %d, outputs %v", r.Code, r.Outputs)
	}
	tags = map[string]string{"approval.staging": "approve", "approved-by.staging": "Joe"}
	if diff := cmp.Diff(tags, decided(t, s)); diff != "" {
		t.Error(diff)
	}
}

func TestARejectionDoesNotTakeTheAliasAway(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	promote(t, s, nil)
	r := promote(t, s, map[string]string{"approval": "reject"})
	want := map[string]string{"accepted": "false", "promoted": "false", "model-version": "2", "previous-version": ""}
	if diff := cmp.Diff(want, r.Outputs); r.Code != 0 || diff != "" || s.Alias("m", "staging") != 2 || !strings.Contains(r.Stderr, "keeps it") {
		t.Errorf("exit %d, %s\n%s", r.Code, diff, r.Stderr)
	}
}

func TestNobodyCanApproveAVersionThatDidNotPass(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	before := s.Versions()
	r := promote(t, s, map[string]string{"passed": "false", "approval": "approve", "approver": "Jane"})
	if diff := cmp.Diff(before, s.Versions()); r.Code != 0 || r.Outputs["promoted"] != "false" || diff != "" || s.Alias("m", "staging") != 0 {
		t.Errorf("exit %d, outputs %v, %s", r.Code, r.Outputs, diff)
	}
}

func TestWhoDecided(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, labels, approver, want string }{
		{"the preferred user name comes first", labels, "", "jane"},
		{"then the address", `{"workflows.argoproj.io/actor": "subject-1", "workflows.argoproj.io/actor-email": "jane.at.example.org"}`, "", "jane.at.example.org"},
		{"then the subject", `{"workflows.argoproj.io/actor": "system-serviceaccount-team-a-jane"}`, "", "system-serviceaccount-team-a-jane"},
		{"a name that says the same is not repeated", labels, "jane", "jane"},
		{"without labels it is the name that was typed", "", "Jane Doe", "Jane Doe"},
		{"labels that say nothing are no error", `{"other": "x", "workflows.argoproj.io/actor": 7}`, "Jane Doe", "Jane Doe"},
		{"whoever tried the workflow again did not decide", `{"workflows.argoproj.io/action": "Retry", "workflows.argoproj.io/actor": "joe"}`, "Jane Doe", "Jane Doe"},
		{"nobody can tell", "", "", ""},
		{"a name without end is cut, between letters", "", strings.Repeat("é", 3000), strings.Repeat("é", 500)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := shelf(t)
			r := promote(t, s, map[string]string{"approval": "approve", "approver": test.approver, "approval-labels": test.labels})
			want := map[string]string{"approval.staging": "approve", "approved-by.staging": test.want}
			if diff := cmp.Diff(want, decided(t, s)); r.Code != 0 || diff != "" {
				t.Errorf("exit %d, %s\n%s", r.Code, diff, r.Message)
			}
		})
	}
}

func TestALaterAttemptThatKnowsLessKeepsTheName(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	promote(t, s, map[string]string{"approval": "approve", "approval-labels": labels})
	promote(t, s, map[string]string{"approval": "approve", "approval-labels": strings.Replace(labels, "Resume", "Retry", 1)})
	want := map[string]string{"approval.staging": "approve", "approved-by.staging": "jane"}
	if diff := cmp.Diff(want, decided(t, s)); diff != "" {
		t.Error(diff)
	}
}

func TestWrongApprovalSettingsAreSaidBeforeAnythingIsTouched(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		flags map[string]string
		text  string
	}{
		{"another decision", map[string]string{"approval": "maybe"}, "one of approve, reject"},
		{"labels that are no JSON", map[string]string{"approval": "approve", "approval-labels": "{"}, "--approval-labels"},
		{"labels that are no object", map[string]string{"approval": "approve", "approval-labels": `["x"]`}, "--approval-labels"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := shelf(t)
			r := promote(t, s, test.flags)
			if r.Code != 2 || !strings.Contains(r.Message, test.text) || s.Requests() != 0 {
				t.Errorf("exit %d, %d requests, message %s", r.Code, s.Requests(), r.Message)
			}
		})
	}
}

func TestADecisionThatDiedAnywhereIsCompletedByTheNext(t *testing.T) {
	t.Parallel()
	for _, decision := range []string{"approve", "reject"} {
		for n := 1; ; n++ {
			s := shelf(t)
			flags := map[string]string{"approval": decision, "approver": "Jane"}
			s.Before = func(i int, _, _ string) int {
				if i >= n {
					return http.StatusForbidden // not retried
				}
				return 0
			}
			died := promote(t, s, flags)
			s.Before = nil
			r := promote(t, s, flags)
			want := map[string]string{"approval.staging": decision, "approved-by.staging": "Jane"}
			if diff := cmp.Diff(want, decided(t, s)); r.Code != 0 || diff != "" || (s.Alias("m", "staging") == 2) != (decision == "approve") {
				t.Errorf("%s, died at call %d: exit %d, alias %d, %s", decision, n, r.Code, s.Alias("m", "staging"), diff)
			}
			if died.Code == 0 {
				break
			}
		}
	}
}

func TestMLflowKeepsADecision(t *testing.T) {
	t.Parallel()
	server := registrytest.Real(t)
	client, err := registry.New(server)
	if err != nil {
		t.Fatal(err)
	}
	name := "approval-" + strings.ReplaceAll(time.Now().Format("150405.000000000"), ".", "-")
	experiment, err := client.EnsureExperiment(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	run, err := client.EnsureRun(t.Context(), experiment, "run", map[string]string{"insitu.job": name}, "insitu.job")
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := client.EnsureModelVersion(t.Context(), name, run, "model", "insitu.job", map[string]string{"insitu.job": name})
	if err != nil {
		t.Fatal(err)
	}
	fake := &registrytest.Server{URL: server.URI}
	for _, decision := range []string{"reject", "approve"} {
		r := promote(t, fake, map[string]string{"model-name": name, "model-version": "1", "approval": decision, "approver": "Jane Döe, \"JD\"", "approval-labels": labels})
		if r.Code != 0 {
			t.Fatalf("%s: exit %d\n%s", decision, r.Code, r.Stderr)
		}
		holder, err := client.Alias(t.Context(), name, "staging")
		if decision == "reject" && err == nil || decision == "approve" && holder.Version != v.Version {
			t.Errorf("%s: version %d holds the alias, %v", decision, holder.Version, err)
		}
		kept, err := client.ModelVersion(t.Context(), name, v.Version)
		if err != nil || kept.Tags["insitu.approval.staging"] != decision || kept.Tags["insitu.approved-by.staging"] != `jane (Jane Döe, "JD")` || kept.Tags["insitu.approved-at.staging"] == "" {
			t.Errorf("%s: tags %v, %v", decision, kept.Tags, err)
		}
	}
}
