package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

// needServer skips a test where there is no argo-server.
func (in *installation) needServer(t *testing.T) {
	t.Helper()
	if in.server == "" {
		t.Skip(in.noServer)
	}
}

// submitFromUI sends what the submit dialog of the user interface sends.
func (p *tenant) submitFromUI(template string, parameters []string) (*wfv1.Workflow, error) {
	reply, err := p.request(http.MethodPost, "/api/v1/workflows/"+p.namespace+"/submit", map[string]any{
		"namespace": p.namespace, "resourceKind": "WorkflowTemplate", "resourceName": template,
		"submitOptions": map[string]any{"parameters": parameters, "labels": "submit-from-ui=true"},
	})
	if err != nil {
		return nil, err
	}
	var wf wfv1.Workflow
	return &wf, json.Unmarshal(reply, &wf)
}

func TestTheUserInterfaceStartsThePipeline(t *testing.T) {
	t.Parallel()
	p := newTenant(t, "ui")
	p.needServer(t)

	// The dialog offers what the template says: every parameter, with its default, its description and its choices.
	reply, err := p.request(http.MethodGet, "/api/v1/workflow-templates/"+p.namespace+"/"+dag, nil)
	if err != nil {
		t.Fatal(err)
	}
	var template wfv1.WorkflowTemplate
	if err := json.Unmarshal(reply, &template); err != nil {
		t.Fatal(err)
	}
	chosen := map[string]string{"app": p.app, "schema": p.name, "inference-schema": p.name, "model-name": p.name, "experiment": p.name,
		"epochs": "2", "min-accuracy": "0.5", "min-f1": "0.5", "log-level": "debug"} // log-level has an enum
	var parameters []string
	for _, parameter := range template.Spec.Arguments.Parameters {
		value := parameter.GetValue()
		if v, ok := chosen[parameter.Name]; ok {
			value = v
			delete(chosen, parameter.Name)
		}
		if parameter.Description == nil {
			t.Errorf("parameter %s has no description", parameter.Name)
		}
		// The dialog is what keeps to the choices: Argo 3.7 takes any value for a parameter of a WorkflowTemplate.
		if parameter.Enum != nil && !slices.ContainsFunc(parameter.Enum, func(choice wfv1.AnyString) bool { return choice.String() == value }) {
			t.Errorf("parameter %s offers %v, not %q", parameter.Name, parameter.Enum, value)
		}
		parameters = append(parameters, parameter.Name+"="+value)
	}
	if len(chosen) > 0 {
		t.Fatalf("the template has no parameters %v", chosen)
	}

	wf, err := p.submitFromUI(dag, parameters)
	if err != nil {
		t.Fatal(err)
	}
	r := p.started(t, wf.Name)
	if wf.Labels["submit-from-ui"] != "true" {
		t.Errorf("labels %v", wf.Labels)
	}
	wf = r.end(t, wfv1.WorkflowSucceeded)
	r.serves(t, wf)
	r.reportByServer(t, wf)
	if line := r.logged(t).find("upload-dataset", "setting"); line == nil {
		t.Error("log-level=debug has not reached upload-dataset: it logs no settings")
	}
}

// reportByServer fetches the report as the user interface shows it.
// A server outside the cluster does not know the name of the object store in it: that is said and not held against the pipeline.
func (r *run) reportByServer(t *testing.T, wf *wfv1.Workflow) {
	t.Helper()
	// In its mode client the server asks for the object store's credentials in the user's name.
	if may := r.kubectl("auth", "can-i", "get", "secrets/insitu-s3", "--as", "system:serviceaccount:"+r.namespace+":ml-user"); may.err != nil {
		t.Errorf("the user of docs/deploy-helm.md may not see reports: %v", may.err)
	}
	page, err := r.request(http.MethodGet, "/artifact-files/"+url.PathEscape(r.namespace)+"/workflows/"+wf.Name+"/"+mustNode(t, wf, wf.Name).ID+"/outputs/report", nil)
	if err != nil && (strings.Contains(err.Error(), "no such host") || strings.Contains(err.Error(), "500")) {
		t.Logf("argo-server does not reach the object store: %v", err)
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	checkPage(t, page)
}
