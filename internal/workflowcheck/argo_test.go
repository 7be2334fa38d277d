package workflowcheck_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/workflow/templateresolution"
	"github.com/argoproj/argo-workflows/v3/workflow/validate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/insitu-ml/insitu/internal/localrun"
)

const folder = "../../workflows"

// pipelines are the WorkflowTemplates that users submit, as opposed to those of one step.
func pipelines() []string { return []string{"in-database-pipeline", "in-database-pipeline-express"} }

// templates are the shipped WorkflowTemplates by name. They serve Argo's validator as the cluster would.
type templates map[string]*wfv1.WorkflowTemplate

func (t templates) Get(name string) (*wfv1.WorkflowTemplate, error) {
	if found, ok := t[name]; ok {
		return found, nil
	}
	return nil, fmt.Errorf("no WorkflowTemplate %q in %s", name, folder)
}

func load(t *testing.T) templates {
	t.Helper()
	out := templates{}
	for _, pattern := range []string{"*.yaml", "steps/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if slices.Contains([]string{"rbac.yaml", "kustomization.yaml", "kustomizeconfig.yaml"}, filepath.Base(file)) {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			w := new(wfv1.WorkflowTemplate)
			if err := yaml.UnmarshalStrict(text, w); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if base := strings.TrimSuffix(filepath.Base(file), ".yaml"); base != w.Name {
				t.Errorf("%s holds the WorkflowTemplate %q: name the file after it", file, w.Name)
			}
			out[w.Name] = w
		}
	}
	if len(out) != len(pipelines())+1+len(tasks()) {
		t.Fatalf("found %d WorkflowTemplates in %s, expected %v, monitoring, and those of six steps, the smoke test and the monitor", len(out), folder, pipelines())
	}
	return out
}

func TestArgoAcceptsEveryWorkflowTemplate(t *testing.T) {
	t.Parallel()
	all := load(t)
	for name, w := range all {
		if err := validate.ValidateWorkflowTemplate(all, &templateresolution.NullClusterWorkflowTemplateGetter{}, w, nil, validate.ValidateOpts{Lint: true}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// submission is what a user gives Argo: a reference, parameters and, if there is one, the ML app as an artifact.
func submission(pipeline string, app *wfv1.ArtifactLocation, parameters ...string) *wfv1.Workflow {
	wf := &wfv1.Workflow{
		ObjectMeta: metav1.ObjectMeta{GenerateName: pipeline + "-"},
		Spec:       wfv1.WorkflowSpec{WorkflowTemplateRef: &wfv1.WorkflowTemplateRef{Name: pipeline}},
	}
	for _, p := range parameters {
		name, value, _ := strings.Cut(p, "=")
		wf.Spec.Arguments.Parameters = append(wf.Spec.Arguments.Parameters, wfv1.Parameter{Name: name, Value: wfv1.AnyStringPtr(value)})
	}
	if app != nil {
		wf.Spec.Arguments.Artifacts = wfv1.Artifacts{{Name: "app", ArtifactLocation: *app}}
	}
	return wf
}

func TestArgoAcceptsSubmissionsOfThePipelines(t *testing.T) {
	t.Parallel()
	all := load(t)
	for _, pipeline := range pipelines() {
		for name, wf := range map[string]*wfv1.Workflow{
			"with a sweep":           submission(pipeline, nil, `sweep={"learning_rate": [0.01, 0.003]}`),
			"as it is":               submission(pipeline, nil),
			"with a packed app":      submission(pipeline, nil, "app=s3://bucket/apps/digits.tar.gz", "epochs=2"),
			"with an app in Git":     submission(pipeline, &wfv1.ArtifactLocation{Git: &wfv1.GitArtifact{Repo: "https://example.org/app.git", Revision: "main"}}),
			"with an app in S3":      submission(pipeline, &wfv1.ArtifactLocation{S3: &wfv1.S3Artifact{Key: "app.tar.gz"}}),
			"with a person to ask":   submission(pipeline, nil, "approval=required"),
			"with another log level": submission(pipeline, nil, "log-level=debug"),
		} {
			if err := validate.ValidateWorkflow(all, &templateresolution.NullClusterWorkflowTemplateGetter{}, wf, nil, validate.ValidateOpts{Submit: true}); err != nil {
				t.Errorf("%s, %s: %v", pipeline, name, err)
			}
		}
	}
}

func TestTheManifestNamesTheStepsAsUsersKnowThem(t *testing.T) {
	t.Parallel()
	for _, pipeline := range pipelines() {
		text, err := os.ReadFile(filepath.Join(folder, pipeline+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		names := []string{"upload-dataset", "deploy-training-code", "train-model", "promote-model-to-staging"}
		if pipeline == "in-database-pipeline" { // a container set's last container has to be called main
			names = append(names, "evaluate-model", "deploy-inference-db")
		}
		for _, step := range names {
			if !strings.Contains(string(text), "- name: "+step+"\n") {
				t.Errorf("%s.yaml has no line %q", pipeline, "- name: "+step)
			}
		}
	}
}

func TestThePipelineRunsLocally(t *testing.T) {
	t.Parallel()
	w, err := localrun.Load(filepath.Join(folder, "in-database-pipeline.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, u := range w.Uses() {
		used[u.Parameter] = true
	}
	for _, p := range w.Parameters() {
		if p.Description == "" {
			t.Errorf("parameter %q has no description", p.Name)
		}
		if !used[p.Name] && p.Name != "approval" && p.Name != "reason" { // which decide whether the task approve runs, and are for the record
			t.Errorf("parameter %q reaches no step", p.Name)
		}
	}
}
