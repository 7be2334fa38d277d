package workflowcheck_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/util/template"
	"github.com/argoproj/argo-workflows/v3/workflow/templateresolution"
	"github.com/argoproj/argo-workflows/v3/workflow/validate"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps/monitor"
)

func TestMonitoringHasTheDefaultsOfTheStep(t *testing.T) {
	t.Parallel()
	for _, p := range load(t)["monitoring"].Spec.Arguments.Parameters {
		if p.Description == nil {
			t.Errorf("parameter %q has no description", p.Name)
		}
		flags := monitor.Spec(nil).AllFlags()
		i := slices.IndexFunc(flags, func(f step.Flag) bool { return f.Name == p.Name })
		if i < 0 || flags[i].Required || p.Name == "arguments" || p.Name == "pipeline" { // the last is another thing here
			continue
		}
		if p.Value.String() != flags[i].Default {
			t.Errorf("parameter %q has the default %q, --%s has %q", p.Name, p.Value, p.Name, flags[i].Default)
		}
	}
}

// TestTheRunThatMonitoringSubmitsIsOneThatArgoAccepts fills in the manifest as the controller does.
func TestTheRunThatMonitoringSubmitsIsOneThatArgoAccepts(t *testing.T) {
	t.Parallel()
	all := load(t)
	submit := all["monitoring"].GetTemplateByName("submit")
	reason := `model digits version 1: PSI 2.310 of the input "mean: {a}", 'b' # is above 0.2`
	list, err := json.Marshal([]map[string]string{{"name": "inference-schema", "value": "team-a"}, {"name": "reason", "value": reason}, {"name": "sweep", "value": `{"learning_rate": [0.1, 0.2]}`}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(submit)
	if err != nil {
		t.Fatal(err)
	}
	filled, err := template.Replace(string(text), map[string]any{
		"inputs.parameters.run": "retrain-team-a-v1-0a1b2c3d", "inputs.parameters.pipeline": "in-database-pipeline", "inputs.parameters.arguments": string(list),
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	var ready wfv1.Template
	if err := json.Unmarshal([]byte(filled), &ready); err != nil {
		t.Fatal(err)
	}
	var run wfv1.Workflow
	if err := yaml.UnmarshalStrict([]byte(ready.Resource.Manifest), &run); err != nil {
		t.Fatalf("%v\n%s", err, ready.Resource.Manifest)
	}
	if got := run.Spec.Arguments.GetParameterByName("reason"); run.Name != "retrain-team-a-v1-0a1b2c3d" || got == nil || got.Value.String() != reason {
		t.Errorf("run %q has the reason %v", run.Name, got)
	}
	if err := validate.ValidateWorkflow(all, &templateresolution.NullClusterWorkflowTemplateGetter{}, &run, nil, validate.ValidateOpts{Submit: true}); err != nil {
		t.Error(err)
	}
	// A second create of the same name would fail; what a pod does that is tried again must not.
	if ready.Resource.Action != "apply" || ready.RetryStrategy == nil {
		t.Errorf("action %q, retryStrategy %v", ready.Resource.Action, ready.RetryStrategy)
	}
}

func TestThePodThatSubmitsMayRunInARestrictedNamespace(t *testing.T) {
	t.Parallel()
	submit := load(t)["monitoring"].GetTemplateByName("submit")
	no := false
	dropped := &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	spec := corev1.PodSpec{InitContainers: []corev1.Container{{Name: "init"}}, Containers: []corev1.Container{{Name: "main"}}}
	got := patch(t, spec, submit.PodSpecPatch)
	if len(got.Containers) != 1 {
		t.Errorf("the patch adds a container: a pod that submits has no wait")
	}
	for _, c := range slices.Concat(got.InitContainers, got.Containers) {
		if diff := cmp.Diff(dropped, c.SecurityContext); diff != "" {
			t.Errorf("%s: securityContext (-want +got):\n%s", c.Name, diff)
		}
	}
	if s := submit.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile == nil {
		t.Errorf("securityContext is %+v", s)
	}
}

func TestTheScheduleMayDoWhatItNeeds(t *testing.T) {
	t.Parallel()
	all := load(t)
	text, err := os.ReadFile(filepath.Join(folder, "cron", "monitoring.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(string(text), "\n---\n")
	if len(documents) != 4 {
		t.Fatalf("%d objects, expected a CronWorkflow, a ServiceAccount, a Role and a RoleBinding", len(documents))
	}
	var cron wfv1.CronWorkflow
	var account corev1.ServiceAccount
	var role rbacv1.Role
	var binding rbacv1.RoleBinding
	for i, into := range []any{&cron, &account, &role, &binding} {
		if err := yaml.UnmarshalStrict([]byte(documents[i]), into); err != nil {
			t.Fatal(err)
		}
	}
	if err := validate.ValidateCronWorkflow(context.Background(), all, &templateresolution.NullClusterWorkflowTemplateGetter{}, &cron, nil); err != nil {
		t.Error(err)
	}
	if cron.Spec.ConcurrencyPolicy != wfv1.ForbidConcurrent {
		t.Errorf("concurrencyPolicy is %q", cron.Spec.ConcurrencyPolicy)
	}
	for _, p := range cron.Spec.WorkflowSpec.Arguments.Parameters {
		if all["monitoring"].Spec.Arguments.GetParameterByName(p.Name) == nil {
			t.Errorf("monitoring has no parameter %q", p.Name)
		}
	}
	name := all["monitoring"].GetTemplateByName("submit").ServiceAccountName
	if account.Name != name || binding.Subjects[0].Name != name || binding.RoleRef.Name != role.Name {
		t.Errorf("the pod that submits runs as %q; account %q, binding of %q to %q", name, account.Name, binding.Subjects[0].Name, binding.RoleRef.Name)
	}
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{"argoproj.io"}, Resources: []string{"workflowtaskresults"}, Verbs: []string{"create", "patch"}},
		{APIGroups: []string{"argoproj.io"}, Resources: []string{"workflows"}, Verbs: []string{"get", "create", "patch"}},
	}
	if diff := cmp.Diff(want, role.Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}
