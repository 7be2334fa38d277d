package workflowcheck_test

import (
	"fmt"
	"os"
	"path/filepath"
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
	if len(out) < 7 {
		t.Fatalf("found %d WorkflowTemplates in %s, expected the pipeline and six steps", len(out), folder)
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

func TestArgoAcceptsASubmissionOfThePipeline(t *testing.T) {
	t.Parallel()
	all := load(t)
	wf := &wfv1.Workflow{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "in-database-pipeline-"},
		Spec: wfv1.WorkflowSpec{
			WorkflowTemplateRef: &wfv1.WorkflowTemplateRef{Name: "in-database-pipeline"},
			Arguments:           wfv1.Arguments{Parameters: []wfv1.Parameter{{Name: "app", Value: wfv1.AnyStringPtr("s3://bucket/apps/digits.tar.gz")}}},
		},
	}
	if err := validate.ValidateWorkflow(all, &templateresolution.NullClusterWorkflowTemplateGetter{}, wf, nil, validate.ValidateOpts{Submit: true}); err != nil {
		t.Error(err)
	}
}

func TestTheManifestNamesTheStepsAsUsersKnowThem(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(folder, "in-database-pipeline.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"upload-dataset", "deploy-training-code", "train-model", "evaluate-model", "promote-model-to-staging", "deploy-inference-db"} {
		if !strings.Contains(string(text), "- name: "+step+"\n") {
			t.Errorf("in-database-pipeline.yaml has no line %q", "- name: "+step)
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
		if !used[p.Name] {
			t.Errorf("parameter %q reaches no step", p.Name)
		}
	}
}
