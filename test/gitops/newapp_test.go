package gitops

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/argoproj/argo-workflows/v3/workflow/templateresolution"
	"github.com/argoproj/argo-workflows/v3/workflow/validate"
	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/newapp"
	"github.com/insitu-ml/insitu/internal/serve"
)

// learners are the choices of insitu init.
func learners(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, o := range newapp.Options() {
		if o.Name == "learner" {
			for _, c := range o.Choices {
				out = append(out, c.Value)
			}
		}
	}
	if len(out) < 5 {
		t.Fatalf("learners: %q", out)
	}
	return out
}

func TestANewAppIsRenderedAndArgoAcceptsItsRun(t *testing.T) {
	t.Parallel()
	all := load(t)
	for _, learner := range learners(t) {
		for name, v := range map[string]newapp.Values{
			"defaults": {"name": "my-app", "learner": learner},
			"everything": {"name": "my-app", "learner": learner, "app-name": "spring", "workflow": "in-database-pipeline-express", "experiment": "Spring/1", "schema": "team",
				"stage": "production", "approval": "required", "training-binding": "postgresql/acme", "inference-binding": "postgres"},
		} {
			dir := t.TempDir()
			if _, err := newapp.Write(dir, must(newapp.App(v, serve.OpenAPI())), false); err != nil {
				t.Fatal(err)
			}
			out, err := ytt(t, "-f", filepath.Join(dir, "pipeline.yaml"), "-f", filepath.Join(dir, "values.yaml"),
				"--data-value", "git_sha="+sha, "--data-value", "git_repo_url="+url, "--data-value", "name=spring")
			if err != nil {
				t.Fatalf("%s, %s: %v", learner, name, err)
			}
			wf := workflow(t, out)
			got := []string{wf.Spec.WorkflowTemplateRef.Name}
			for _, p := range wf.Spec.Arguments.Parameters {
				if !slices.Contains([]string{"app", "git-sha"}, p.Name) {
					got = append(got, p.Name+"="+p.Value.String())
				}
			}
			want := map[string][]string{
				"defaults": {"in-database-pipeline", "model-stage=staging", "schema=my_app", "inference-schema=my_app",
					"training-binding=greenplum/vmware", "inference-binding=postgres/vmware", "approval=none"},
				"everything": {"in-database-pipeline-express", "experiment=Spring/1", "model-stage=production", "schema=team", "inference-schema=team",
					"training-binding=postgresql/acme", "inference-binding=postgres", "approval=required"},
			}[name]
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s (-expected +rendered):\n%s", learner, name, diff)
			}
			// What argo lint --offline does.
			if err := validate.ValidateWorkflow(all, &templateresolution.NullClusterWorkflowTemplateGetter{}, wf, nil, validate.ValidateOpts{Lint: true}); err != nil {
				t.Errorf("%s, %s: %v", learner, name, err)
			}
		}
	}
}
