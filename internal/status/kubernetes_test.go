package status

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/fault"
)

// fake is an API server that answers paths with texts; others are not found.
type fake struct {
	answers map[string]string // by path, without the query
	status  map[string]int    // instead of 200
}

func (f fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer the-token" {
		http.Error(w, `{"message": "Unauthorized"}`, http.StatusUnauthorized)
		return
	}
	if status := f.status[r.URL.Path]; status != 0 {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"kind": "Status", "message": "status %d\n of the fake"}`, status)
		return
	}
	text, ok := f.answers[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write([]byte(text))
}

// kubeconfig names the server, with a token, which is sent over TLS only, and the namespace ml.
func kubeconfig(t *testing.T, server *httptest.Server, token string) string {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	path := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
clusters: [{name: k, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: c, context: {cluster: k, user: u, namespace: ml}}]
`, server.URL, base64.StdEncoding.EncodeToString(ca), token)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func connect(t *testing.T, f fake) *Cluster {
	t.Helper()
	server := httptest.NewTLSServer(f)
	t.Cleanup(server.Close)
	c, err := NewCluster(kubeconfig(t, server, "the-token"), "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	apps      = "/apis/apps/v1/namespaces/ml/deployments"
	services  = "/api/v1/namespaces/ml/services"
	workflows = "/apis/argoproj.io/v1alpha1/namespaces/ml/workflows"
	appCRs    = "/apis/kappctrl.k14s.io/v1alpha1/namespaces/ml/apps"
	secrets   = "/api/v1/namespaces/ml/secrets/"
	proxy     = "/api/v1/namespaces/ml/services/http:"
)

func deploymentJSON(component string, ready int) string {
	return fmt.Sprintf(`{"metadata": {"name": "insitu-%s", "labels": {"app.kubernetes.io/component": %q}},
		"spec": {"replicas": 2, "template": {"spec": {"containers": [{"image": "registry.example.com:5000/insitu/%s:1.2.3"}]}}},
		"status": {"readyReplicas": %d}}`, component, component, component, ready)
}

func serviceJSON(component string, port int) string {
	return fmt.Sprintf(`{"metadata": {"name": "insitu-%s", "labels": {"app.kubernetes.io/component": %q}}, "spec": {"ports": [{"port": %d}]}}`, component, component, port)
}

func items(list ...string) string { return `{"items": [` + strings.Join(list, ",") + `]}` }

func workflowJSON(name, created, template, status string) (metadata, whole string) {
	metadata = fmt.Sprintf(`"metadata": {"name": %q, "creationTimestamp": %q, "labels": {"workflows.argoproj.io/workflow-template": %q}}`, name, created, template)
	return "{" + metadata + "}", fmt.Sprintf(`{%s, "spec": {"workflowTemplateRef": {"name": %q}, "arguments": {"parameters": [{"name": "git-sha", "value": "0123456789abcdef0123456789abcdef01234567"}]}}, "status": %s}`, metadata, template, status)
}

func TestRunsAreTheNewestPipelinesWithCommitAndResult(t *testing.T) {
	t.Parallel()
	f := fake{answers: map[string]string{}}
	var listed []string
	add := func(name, created, template, status string) {
		m, w := workflowJSON(name, created, template, status)
		listed = append(listed, m)
		f.answers[workflows+"/"+name] = w
	}
	add("old", "2026-11-01T00:00:00Z", "in-database-pipeline", `{"phase": "Succeeded"}`)
	add("failed", "2026-11-03T00:00:00Z", "in-database-pipeline-express", `{"phase": "Failed", "message": "child failed", "startedAt": "2026-11-03T00:00:00Z", "finishedAt": "2026-11-03T00:01:30Z"}`)
	add("newest", "2026-11-04T00:00:00Z", "in-database-pipeline", `{"phase": "Running", "progress": "2/7", "startedAt": "2026-11-04T00:00:01Z", "finishedAt": null}`)
	add("passed", "2026-11-02T00:00:00Z", "in-database-pipeline", `{"phase": "Succeeded", "nodes": {"passed": {"outputs": {"parameters": [{"name": "model-name", "value": "digits"}, {"name": "model-version", "value": 3}, {"name": "passed", "value": "true"}]}}}}`)
	add("other", "2026-11-05T00:00:00Z", "somebody-elses", `{"phase": "Failed"}`)
	for i := range 4 {
		add(fmt.Sprintf("older-%d", i), fmt.Sprintf("2026-10-0%dT00:00:00Z", i+1), "in-database-pipeline", `{"phase": "Error"}`)
	}
	f.answers[workflows] = items(listed...)
	sha := "0123456789abcdef0123456789abcdef01234567"
	want := []Part{
		{Part: Run, Name: "newest", State: "Running", SHA: sha, Detail: "2/7; 2026-11-04 00:00:01 UTC"},
		{Part: Run, Name: "failed", State: "Failed", SHA: sha, Detail: "child failed; 2026-11-03 00:00:00 UTC, took 1m30s"},
		{Part: Run, Name: "passed", State: "Succeeded", SHA: sha, Detail: "digits version 3; passed"},
		{Part: Run, Name: "old", State: "Succeeded", SHA: sha},
		{Part: Run, Name: "older-3", State: "Error", SHA: sha},
	}
	if diff := cmp.Diff(want, connect(t, f).Runs(t.Context())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatMayNotBeSeenOrIsNotInstalledIsARow(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		runs   Part
		apps   Part
	}{
		"not installed": {http.StatusNotFound, Part{Part: Run, State: Absent, Detail: "Argo Workflows is not installed"}, Part{Part: App, State: Absent, Detail: "kapp-controller is not installed"}},
		"forbidden":     {http.StatusForbidden, Part{Part: Run, State: Unknown, Detail: "no right to list workflows"}, Part{Part: App, State: Unknown, Detail: "no right to list apps"}},
		"broken":        {http.StatusInternalServerError, Part{Part: Run, State: Unknown, Detail: "status 500: status 500 of the fake"}, Part{Part: App, State: Unknown, Detail: "status 500: status 500 of the fake"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, fake{status: map[string]int{workflows: test.status, appCRs: test.status}})
			if diff := cmp.Diff([]Part{test.runs, test.apps}, append(c.Runs(t.Context()), c.Apps(t.Context())...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	c := connect(t, fake{answers: map[string]string{workflows: items(), appCRs: items()}})
	for _, p := range append(c.Runs(t.Context()), c.Apps(t.Context())...) {
		if p.State != Absent || p.Detail == "" {
			t.Errorf("nothing there: %+v", p)
		}
	}
}

func TestAppsSayCommitAndWhyTheyFailed(t *testing.T) {
	t.Parallel()
	app := func(name, condition, more string) string {
		return fmt.Sprintf(`{"metadata": {"name": %q}, "spec": {"fetch": [{"git": {"url": "https://user:secret@git.example.com/ml.git"}}]},
			"status": {"conditions": [{"type": %q, "status": "True"}], "fetch": {"stdout": "directories:\n- contents:\n  - git:\n      sha: 0123456789abcdef0123456789abcdef01234567\n"}%s}}`, name, condition, more)
	}
	c := connect(t, fake{answers: map[string]string{appCRs: items(
		app("good", "ReconcileSucceeded", `, "friendlyDescription": "Reconcile succeeded"`),
		app("bad", "ReconcileFailed", `, "friendlyDescription": "Reconcile failed", "usefulErrorMessage": "kapp: Error: workflow/x: Failed"`),
		app("busy", "Reconciling", ""),
	)}})
	want := []Part{
		{Part: App, Name: "good", State: "Succeeded", Detail: "Reconcile succeeded"},
		{Part: App, Name: "bad", State: "Failed", Detail: "Reconcile failed; kapp: Error: workflow/x: Failed"},
		{Part: App, Name: "busy", State: "Running"},
	}
	for i := range want {
		want[i].SHA, want[i].URL = "0123456789abcdef0123456789abcdef01234567", "https://git.example.com/ml.git"
	}
	if diff := cmp.Diff(want, c.Apps(t.Context())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestServicesOfTheChartAreAskedThroughTheAPIServer(t *testing.T) {
	t.Parallel()
	c := connect(t, fake{
		answers: map[string]string{
			apps:                                    items(deploymentJSON("api", 2), deploymentJSON("pgadmin", 2), deploymentJSON("dev-mlflow", 2), deploymentJSON("dev-training", 2), deploymentJSON("dev-inference", 1)),
			services:                                items(serviceJSON("api", 80), serviceJSON("pgadmin", 80), serviceJSON("dev-mlflow", 5000), serviceJSON("dev-training", 5432)),
			proxy + "insitu-api:http/proxy/healthz": `{}`,
			proxy + "insitu-api:http/proxy/readyz":  `{"status": "ready", "model": {"name": "digits", "version": 3}}`,
			proxy + "insitu-pgadmin:http/proxy/misc/ping":  "PING",
			proxy + "insitu-pgadmin:http/proxy/":           `<script src="/x.js?ver=91800">`,
			proxy + "insitu-dev-mlflow:http/proxy/version": "3.17.2",
		},
	})
	in, err := c.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mlflow, _ := in.MLflow(t.Context())
	training, _ := in.Database(Training, "training")
	inference, _ := in.Database(Inference, "inference")
	want := []Part{
		{Part: API, Name: "insitu-api", State: Ready, Version: "api:1.2.3", URL: "http://insitu-api.ml.svc:80", Detail: "serves digits version 3"},
		{Part: PgAdmin, Name: "insitu-pgadmin", State: Ready, Version: "9.18", URL: "http://insitu-pgadmin.ml.svc:80", Detail: "2 of 2 pods ready"},
		{Part: MLflow, Name: "insitu-dev-mlflow", State: Ready, Version: "3.17.2", URL: "http://insitu-dev-mlflow.ml.svc:5000", Detail: "2 of 2 pods ready"},
		{Part: Training, Name: "insitu-dev-training", State: Ready, Version: "dev-training:1.2.3", URL: "postgresql://insitu-dev-training.ml.svc:5432", Detail: "2 of 2 pods ready"},
		{Part: Inference, Name: "insitu-dev-inference", State: NotReady, Version: "dev-inference:1.2.3", Detail: "1 of 2 pods ready"},
	}
	if diff := cmp.Diff(want, []Part{in.API(t.Context()), in.PgAdmin(t.Context()), mlflow, training, inference}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWithoutTheRightToAskTheServiceThePodsSpeakForIt(t *testing.T) {
	t.Parallel()
	c := connect(t, fake{
		answers: map[string]string{apps: items(deploymentJSON("api", 2)), services: items(serviceJSON("api", 80))},
		status:  map[string]int{proxy + "insitu-api:http/proxy/healthz": http.StatusForbidden},
	})
	in, err := c.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Part{Part: API, Name: "insitu-api", State: Ready, Version: "api:1.2.3", URL: "http://insitu-api.ml.svc:80", Detail: "2 of 2 pods ready"}
	if diff := cmp.Diff(want, in.API(t.Context())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := in.PgAdmin(t.Context()); got != (Part{Part: PgAdmin, State: Absent}) {
		t.Errorf("a pgAdmin that is not installed: %+v", got)
	}
}

func TestBindingsAreTheSecretsThatThePipelinesMount(t *testing.T) {
	t.Parallel()
	c := connect(t, fake{
		answers: map[string]string{
			apps: items(),
			"/apis/argoproj.io/v1alpha1/namespaces/ml/workflowtemplates/deploy-inference-db": `{"spec": {"templates": [{"volumes": [{"name": "tmp"}, {"name": "training", "secret": {"secretName": "gp"}}, {"name": "inference", "secret": {"secretName": "pg"}}]}]}}`,
			secrets + "gp": `{"data": {"type": "Z3JlZW5wbHVt"}}`,
		},
		status: map[string]int{secrets + "pg": http.StatusForbidden},
	})
	in, err := c.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]map[string][]byte{"training": {"type": []byte("greenplum")}}, in.Bindings); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := []string{in.Missing("inference"), in.Missing("mlflow")}; !cmp.Equal(got, []string{"no right to read Secret pg", "there is no Secret insitu-mlflow"}) {
		t.Errorf("%q", got)
	}
}

func TestAClusterThatDoesNotAnswerIsAnError(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(fake{})
	t.Cleanup(server.Close)
	closed := httptest.NewTLSServer(fake{})
	closed.Close()
	for name, test := range map[string]struct {
		server *httptest.Server
		token  string
		class  fault.Class
		want   string
	}{
		"nobody listens":         {closed, "the-token", fault.Temporary, "does not answer"},
		"the token does not fit": {server, "another", fault.Configuration, "log in again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := NewCluster(kubeconfig(t, test.server, test.token), "other")
			if err != nil {
				t.Fatal(err)
			}
			if c.Namespace != "other" {
				t.Errorf("namespace %q", c.Namespace)
			}
			_, err = c.Look(t.Context())
			if err == nil || fault.Of(err) != test.class || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), test.token) {
				t.Errorf("%v (class %d), expected class %d and %q", err, fault.Of(err), test.class, test.want)
			}
		})
	}
	if _, err := NewCluster("/nonexistent", ""); err == nil || fault.Of(err) != fault.Configuration {
		t.Errorf("a kubeconfig that is not there: %v", err)
	}
}

func TestPartsThatHangEndTogetherAndInOrder(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(server.Close)
	site := Site{Client: http.DefaultClient, URL: server.URL}
	var checks []func() []Part
	var want []Part
	for _, check := range []struct {
		part string
		run  func(context.Context, Site, Part) Part
	}{{API, CheckAPI}, {PgAdmin, CheckPgAdmin}, {MLflow, CheckMLflow}} {
		checks = append(checks, func() []Part { return []Part{check.run(t.Context(), site, Part{})} })
		want = append(want, Part{Part: check.part, State: NotReady, Detail: "no answer within 4s"})
	}
	if diff := cmp.Diff(want, Together(checks...)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnswersOfSomethingElseAreNotTakenForReady(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>hello")) }))
	t.Cleanup(server.Close)
	site := Site{Client: http.DefaultClient, URL: server.URL}
	for name, got := range map[string]Part{
		"the inference API": CheckAPI(t.Context(), site, Part{}), "pgAdmin": CheckPgAdmin(t.Context(), site, Part{}), "MLflow": CheckMLflow(t.Context(), site, Part{}),
	} {
		if want := "answers with status 200, but not as " + name; got.State != NotReady || got.Detail != want {
			t.Errorf("%+v, expected %q", got, want)
		}
	}
	site.URL = "ftp://user:secret@\x7f"
	if got := CheckMLflow(t.Context(), site, Part{}); got.State != NotReady || strings.Contains(got.Detail, "secret") {
		t.Errorf("%+v", got)
	}
}

func TestTheTableAndTheJSONSayTheSame(t *testing.T) {
	t.Parallel()
	r := Report{Where: "This machine", Parts: []Part{
		{Part: Run, Name: "r-1", State: "Failed", SHA: "0123456789abcdef", Detail: "exit code 1"},
		{Part: Training, State: Unknown},
	}}
	var out strings.Builder
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	want := `This machine
PART               NAME  STATE    VERSION       URL  DETAIL
run                r-1   Failed   0123456789ab  -    exit code 1
training database  -     unknown  -             -    -
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text, err := json.Marshal(r.Parts[0])
	if wantJSON := `{"part":"run","name":"r-1","state":"Failed","version":"","sha":"0123456789abcdef","url":"","detail":"exit code 1"}`; err != nil || string(text) != wantJSON {
		t.Errorf("%v, %s", err, text)
	}
}

func TestAllIsWellUnlessSomethingIsNotReadyOrTheNewestRunFailed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		parts []Part
		want  bool
	}{
		"nothing there":              {[]Part{{Part: Run, State: Absent}, {Part: API, State: Absent}, {Part: Training, State: Unknown}}, true},
		"an older run failed":        {[]Part{{Part: Run, State: "Succeeded"}, {Part: Run, State: "Failed"}, {Part: API, State: Ready}}, true},
		"the newest run failed":      {[]Part{{Part: Run, State: "Error"}, {Part: Run, State: "Succeeded"}}, false},
		"an App failed":              {[]Part{{Part: Run, State: "Succeeded"}, {Part: App, State: "Failed"}}, false},
		"a database is not ready":    {[]Part{{Part: Run, State: "Succeeded"}, {Part: Training, State: NotReady}}, false},
		"the newest run is going on": {[]Part{{Part: Run, State: "Running"}, {Part: Run, State: "Failed"}}, true},
	} {
		if got := (Report{Parts: test.parts}).Well(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestServerVersionsAreThePartPeopleMean(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"PostgreSQL 15.20 (Debian 15.20-0+deb12u1) on x86_64-pc-linux-gnu, compiled by gcc": "PostgreSQL 15.20",
		"PostgreSQL 9.4.26 (Greenplum Database 6.24.0 build commit:abc) on x86_64":          "Greenplum 6.24.0",
		"Something else 1": "Something else 1",
	} {
		if got := serverVersion(text); got != want {
			t.Errorf("%q: %q, expected %q", text, got, want)
		}
	}
}
