package workflowcheck_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/util/template"
	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// both returns the two pipelines, the DAG first.
func both(t *testing.T) (dag, express *wfv1.WorkflowTemplate) {
	t.Helper()
	all := load(t)
	dag, express = all["in-database-pipeline"], all["in-database-pipeline-express"]
	if dag == nil || express == nil {
		t.Fatal("there is one pipeline only")
	}
	return dag, express
}

func TestBothPipelinesTakeTheSameParametersButTheSweep(t *testing.T) {
	t.Parallel()
	dag, express := both(t)
	same := dag.Spec.Arguments.DeepCopy()
	same.Parameters = slices.DeleteFunc(same.Parameters, func(p wfv1.Parameter) bool { return p.Name == "sweep" }) // a container set has one train-model
	if diff := cmp.Diff(*same, express.Spec.Arguments); diff != "" {
		t.Errorf("arguments (-in-database-pipeline +express):\n%s", diff)
	}
	for _, p := range dag.Spec.Arguments.Parameters {
		if p.Description == nil || p.Value == nil {
			t.Errorf("parameter %q: the submit dialog needs a description and a default", p.Name)
		}
		if p.Enum != nil && !slices.Contains(p.Enum, *p.Value) {
			t.Errorf("parameter %q: the default %q is none of %v", p.Name, *p.Value, p.Enum)
		}
	}
	for _, name := range []string{"approve", "summary"} {
		if diff := cmp.Diff(dag.GetTemplateByName(name), express.GetTemplateByName(name)); diff != "" {
			t.Errorf("template %q (-in-database-pipeline +express):\n%s", name, diff)
		}
	}
}

func TestAPipelineTellsArgoHowToRunIt(t *testing.T) {
	t.Parallel()
	dag, express := both(t)
	for _, w := range []*wfv1.WorkflowTemplate{dag, express} {
		s := w.Spec
		if s.ServiceAccountName != "insitu-pipeline" || s.Entrypoint != "pipeline" || s.OnExit != "summary" {
			t.Errorf("%s: service account %q, entrypoint %q, onExit %q", w.Name, s.ServiceAccountName, s.Entrypoint, s.OnExit)
		}
		if s.PodGC == nil || s.PodGC.Strategy != wfv1.PodGCOnPodSuccess || s.PodGC.DeleteDelayDuration == "" {
			t.Errorf("%s: podGC %+v: expected OnPodSuccess, with a delay in which logs can be read", w.Name, s.PodGC)
		}
		if s.TTLStrategy == nil || s.TTLStrategy.SecondsAfterCompletion == nil {
			t.Errorf("%s: no ttlStrategy", w.Name)
		}
		if s.ActiveDeadlineSeconds == nil || *s.ActiveDeadlineSeconds < 5*24*3600 {
			t.Errorf("%s: activeDeadlineSeconds leaves no days to approve after two days of training", w.Name)
		}
		want := &wfv1.Synchronization{Mutexes: []*wfv1.Mutex{
			{Name: "insitu-training-{{workflow.parameters.schema}}"}, {Name: "insitu-inference-{{workflow.parameters.inference-schema}}"},
		}}
		if diff := cmp.Diff(want, s.Synchronization); diff != "" {
			t.Errorf("%s: synchronization (-want +got):\n%s", w.Name, diff)
		}
	}
	for name, w := range load(t) {
		for _, key := range []string{"workflows.argoproj.io/title", "workflows.argoproj.io/description"} {
			if w.Annotations[key] == "" {
				t.Errorf("%s has no annotation %s", name, key)
			}
		}
		if name != dag.Name && name != express.Name && name != "monitoring" && (w.Spec.Synchronization != nil || w.Spec.ServiceAccountName != "") {
			t.Errorf("%s: locks and accounts are the pipeline's", name)
		}
		for _, tmpl := range w.Spec.Templates {
			if tmpl.Synchronization != nil {
				t.Errorf("%s: template %q has a lock of its own: a run that holds one while it waits for another can block both", name, tmpl.Name)
			}
		}
	}
}

// TestNoFieldIsGoneInArgo4 looks at the text, because Argo 3.7's types still have these fields.
func TestNoFieldIsGoneInArgo4(t *testing.T) {
	t.Parallel()
	gone := regexp.MustCompile(`(?m)^\s*(- )?(mutex|semaphore|podPriority|schedule|onExitTemplate):`)
	looked := 0
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
			looked++
			if gone.Match(text) {
				t.Errorf("%s: %q", file, gone.FindString(string(text)))
			}
		}
	}
	if want := len(load(t)); looked < want {
		t.Errorf("looked at %d files, there are %d WorkflowTemplates", looked, want)
	}
}

func TestTheApprovalCanBeGivenInTheUserInterface(t *testing.T) {
	t.Parallel()
	dag, _ := both(t)
	approve := dag.GetTemplateByName("approve")
	if approve == nil || approve.Suspend == nil || approve.Suspend.Duration != "" {
		t.Fatalf("template approve is %+v, expected one that waits until somebody resumes it", approve)
	}
	// The resume dialog sets every input as an output; Argo refuses all of them if one is no supplied output.
	var inputs, outputs []string
	for _, p := range approve.Inputs.Parameters {
		inputs = append(inputs, p.Name)
	}
	for _, p := range approve.Outputs.Parameters {
		outputs = append(outputs, p.Name)
		if p.ValueFrom == nil || p.ValueFrom.Supplied == nil || p.ValueFrom.Default == nil {
			t.Errorf("output %q: argo resume without it would fail", p.Name)
		}
	}
	if diff := cmp.Diff(inputs, outputs); diff != "" {
		t.Errorf("-inputs +outputs:\n%s", diff)
	}
	decision := approve.Inputs.GetParameterByName("decision")
	if diff := cmp.Diff([]string{"approve", "reject"}, enum(decision.Enum)); diff != "" {
		t.Error(diff)
	}
}

// TestPromoteIsToldTheDecision evaluates the expressions of the pipelines as Argo's controller does when promote is about to start.
func TestPromoteIsToldTheDecision(t *testing.T) {
	t.Parallel()
	dag, express := both(t)
	promote := task(t, dag, "promote-model-to-staging")
	release := task(t, express, "release")
	for _, name := range []string{"approval", "approver", "approval-labels"} {
		if diff := cmp.Diff(argument(promote, name), argument(release, name)); diff != "" {
			t.Errorf("%s (-in-database-pipeline +express):\n%s", name, diff)
		}
	}
	if got := argument(promote, "approval-labels"); got != "{{workflow.labels.json}}" {
		t.Errorf("approval-labels is %q", got)
	}
	for _, test := range []struct {
		name               string
		scope              map[string]any
		approval, approver string
	}{
		{"nobody was asked", map[string]any{"workflow.parameters.approval": "none", "tasks.approve.status": "Skipped", "tasks.approve.outputs.parameters.decision": "approve", "tasks.approve.outputs.parameters.approver": ""}, "", ""},
		{"nobody was asked, Argo before 3.7.16", map[string]any{"workflow.parameters.approval": "none", "tasks.approve.status": "Skipped"}, "", ""},
		{"approved", map[string]any{"workflow.parameters.approval": "required", "tasks.approve.status": "Succeeded", "tasks.approve.outputs.parameters.decision": "approve", "tasks.approve.outputs.parameters.approver": "Jane"}, "approve", "Jane"},
		{"rejected", map[string]any{"workflow.parameters.approval": "required", "tasks.approve.status": "Succeeded", "tasks.approve.outputs.parameters.decision": "reject", "tasks.approve.outputs.parameters.approver": ""}, "reject", ""},
		{"misspelt", map[string]any{"workflow.parameters.approval": "required", "tasks.approve.status": "Succeeded", "tasks.approve.outputs.parameters.decision": "Approved", "tasks.approve.outputs.parameters.approver": ""}, "reject", ""},
		{"decided with nothing", map[string]any{"workflow.parameters.approval": "required", "tasks.approve.status": "Succeeded", "tasks.approve.outputs.parameters.decision": "", "tasks.approve.outputs.parameters.approver": ""}, "reject", ""},
		{"resumed by node, which leaves the outputs unset", map[string]any{"workflow.parameters.approval": "required", "tasks.approve.status": "Succeeded"}, "approve", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for name, want := range map[string]string{"approval": test.approval, "approver": test.approver} {
				text, err := yaml.Marshal(argument(promote, name))
				if err != nil {
					t.Fatal(err)
				}
				quoted, err := yaml.YAMLToJSON(text)
				if err != nil {
					t.Fatal(err)
				}
				got, err := template.ReplaceStrictAny(string(quoted), test.scope, []string{"tasks", "steps"})
				if err != nil || got != `"`+want+`"` {
					t.Errorf("%s is %s, %v; expected %q", name, got, err, want)
				}
			}
		})
	}
}

// TestARejectedModelIsNotPromotedInTheExpressPipelineEither evaluates the run's output promoted as Argo's controller does at its end.
func TestARejectedModelIsNotPromotedInTheExpressPipelineEither(t *testing.T) {
	t.Parallel()
	_, express := both(t)
	outputs := express.GetTemplateByName("pipeline").Outputs.Parameters
	promoted := outputs[slices.IndexFunc(outputs, func(p wfv1.Parameter) bool { return p.Name == "promoted" })].ValueFrom.Expression
	for _, test := range []struct {
		name  string
		scope map[string]any
		want  string
	}{
		{"promoted", map[string]any{"tasks.release.outputs.parameters.promoted": "true", "tasks.reject.outputs.parameters.promoted": ""}, "true"},
		{"rejected", map[string]any{"tasks.release.outputs.parameters.promoted": "", "tasks.reject.outputs.parameters.promoted": "false"}, "false"},
		{"rejected, Argo before 3.7.16", map[string]any{"tasks.release.status": "Skipped", "tasks.reject.outputs.parameters.promoted": "false"}, "false"},
		{"below the gate", map[string]any{"tasks.release.status": "Skipped", "tasks.reject.status": "Omitted"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := template.ReplaceStrictAny(`"{{=`+promoted+`}}"`, test.scope, []string{"tasks"})
			if err != nil || got != `"`+test.want+`"` {
				t.Errorf("promoted is %s, %v; expected %q", got, err, test.want)
			}
		})
	}
}

func task(t *testing.T, w *wfv1.WorkflowTemplate, name string) *wfv1.DAGTask {
	t.Helper()
	found := w.GetTemplateByName("pipeline").DAG
	for i := range found.Tasks {
		if found.Tasks[i].Name == name {
			return &found.Tasks[i]
		}
	}
	t.Fatalf("%s has no task %q", w.Name, name)
	return nil
}

func argument(task *wfv1.DAGTask, name string) string {
	if p := task.Arguments.GetParameterByName(name); p != nil && p.Value != nil {
		return p.Value.String()
	}
	return ""
}

func TestTheDAGDecidesAsTheDocumentationSays(t *testing.T) {
	t.Parallel()
	dag, express := both(t)
	for _, test := range []struct {
		w                   *wfv1.WorkflowTemplate
		task, depends, when string
	}{
		{dag, "train-model", "upload-dataset && deploy-training-code", ""},
		{dag, "evaluate-model", "train-model", ""},
		{dag, "approve", "evaluate-model", "'{{workflow.parameters.approval}}' != 'none' && '{{tasks.evaluate-model.outputs.parameters.passed}}' == 'true'"},
		{dag, "promote-model-to-staging", "approve.Succeeded || approve.Skipped", "'{{tasks.evaluate-model.outputs.parameters.passed}}' == 'true'"},
		{dag, "deploy-inference-db", "promote-model-to-staging.Succeeded", "'{{tasks.promote-model-to-staging.outputs.parameters.accepted}}' == 'true'"},
		{express, "approve", "learn", "'{{workflow.parameters.approval}}' != 'none' && '{{tasks.learn.outputs.parameters.passed}}' == 'true'"},
		{express, "reject", "approve.Succeeded", "'{{=tasks.approve?.outputs?.parameters?.decision ?? 'approve'}}' != 'approve'"},
		{express, "release", "approve.Succeeded || approve.Skipped", "'{{tasks.learn.outputs.parameters.passed}}' == 'true' && '{{=tasks.approve?.outputs?.parameters?.decision ?? 'approve'}}' == 'approve'"},
	} {
		if got := task(t, test.w, test.task); got.Depends != test.depends || got.When != test.when {
			t.Errorf("%s: task %q depends %q when %q, expected %q when %q", test.w.Name, test.task, got.Depends, got.When, test.depends, test.when)
		}
	}
	for _, w := range []*wfv1.WorkflowTemplate{dag, express} {
		for _, p := range w.GetTemplateByName("pipeline").Outputs.Parameters {
			if p.ValueFrom == nil || p.ValueFrom.Default == nil {
				t.Errorf("%s: output %q has no default: a run that stops at the gate would be an error", w.Name, p.Name)
			}
		}
	}
}

func TestMetricsAreLabelledAndGuarded(t *testing.T) {
	t.Parallel()
	all := load(t)
	type metric struct{ kind, value, when, labels string }
	metrics := func(workflow, tmpl string) map[string]metric {
		out := map[string]metric{}
		found := all[workflow].GetTemplateByName(tmpl).Metrics
		if found == nil {
			return out
		}
		for _, m := range found.Prometheus {
			var labels []string
			for _, l := range m.Labels {
				labels = append(labels, l.Key+"="+l.Value)
			}
			got := metric{when: m.When, labels: strings.Join(labels, ",")}
			if m.Gauge != nil {
				got.kind, got.value = "gauge", m.Gauge.Value
			} else if m.Counter != nil {
				got.kind, got.value = "counter", m.Counter.Value
			}
			if m.Help == "" {
				t.Errorf("metric %q has no help", m.Name)
			}
			out[m.Name] = got
		}
		return out
	}
	scored := func(model, schema string) map[string]metric {
		labels := "model=" + model + ",schema=" + schema
		const ok = "'{{status}}' == 'Succeeded' && "
		return map[string]metric{
			"insitu_model_accuracy":           {"gauge", "{{outputs.parameters.accuracy}}", ok + "'{{outputs.parameters.accuracy}}' != ''", labels},
			"insitu_model_f1":                 {"gauge", "{{outputs.parameters.f1}}", ok + "'{{outputs.parameters.f1}}' != ''", labels},
			"insitu_promotions_refused_total": {"counter", "1", ok + "'{{outputs.parameters.passed}}' == 'false'", "model=" + model + ",by=gate"},
		}
	}
	for _, test := range []struct {
		workflow, template string
		want               map[string]metric
	}{
		{"evaluate-model", "evaluate-model", scored("{{inputs.parameters.model-name}}", "{{inputs.parameters.schema}}")},
		{"in-database-pipeline-express", "learn", scored("{{outputs.parameters.model-name}}", "{{workflow.parameters.schema}}")},
		{"promote-model-to-staging", "promote-model-to-staging", map[string]metric{
			"insitu_promotions_refused_total": {"counter", "1", "'{{status}}' == 'Succeeded' && '{{outputs.parameters.accepted}}' == 'false'", "model={{inputs.parameters.model-name}},by=person"},
		}},
	} {
		if diff := cmp.Diff(test.want, metrics(test.workflow, test.template), cmp.AllowUnexported(metric{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.template, diff)
		}
	}
}

func TestThePodsMayReportTheirOutputsAndNothingElse(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(folder, "rbac.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(string(text), "\n---\n")
	if len(documents) != 3 {
		t.Fatalf("rbac.yaml holds %d objects, expected a ServiceAccount, a Role and a RoleBinding", len(documents))
	}
	var role rbacv1.Role
	if err := yaml.UnmarshalStrict([]byte(documents[1]), &role); err != nil {
		t.Fatal(err)
	}
	want := []rbacv1.PolicyRule{{APIGroups: []string{"argoproj.io"}, Resources: []string{"workflowtaskresults"}, Verbs: []string{"create", "patch"}}}
	if diff := cmp.Diff(want, role.Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	var binding rbacv1.RoleBinding
	if err := yaml.UnmarshalStrict([]byte(documents[2]), &binding); err != nil {
		t.Fatal(err)
	}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "insitu-pipeline"}}
	if diff := cmp.Diff(subjects, binding.Subjects); diff != "" || binding.RoleRef.Name != role.Name || binding.RoleRef.Kind != "Role" {
		t.Errorf("binding to %+v, subjects (-want +got):\n%s", binding.RoleRef, diff)
	}
}

func TestTheKustomizationHoldsEveryFile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(folder, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var k struct{ Resources, Configurations []string }
	if err := yaml.Unmarshal(text, &k); err != nil {
		t.Fatal(err)
	}
	want := []string{"rbac.yaml"}
	for name := range load(t) {
		if !slices.Contains(append(pipelines(), "monitoring"), name) {
			name = "steps/" + name
		}
		want = append(want, name+".yaml")
	}
	slices.Sort(want)
	slices.Sort(k.Resources)
	if diff := cmp.Diff(want, k.Resources); diff != "" {
		t.Errorf("resources (-files +kustomization):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"kustomizeconfig.yaml"}, k.Configurations); diff != "" {
		t.Error(diff)
	}
}

func TestTheDocumentationListsEveryParameter(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/workflows.md")
	if err != nil {
		t.Fatal(err)
	}
	dag, _ := both(t)
	var want []string
	for _, p := range dag.Spec.Arguments.Parameters {
		value := p.Value.String()
		if value != "" {
			value = "`" + value + "`"
		}
		want = append(want, "| `"+p.Name+"` | "+value+" |")
	}
	var got []string
	_, after, _ := strings.Cut(string(text), "\n### Parameters\n")
	section, _, _ := strings.Cut(after, "\n### ")
	for line := range strings.Lines(section) {
		if row := regexp.MustCompile("^\\| `[^`]*` \\| [^|]*\\|").FindString(line); row != "" {
			got = append(got, strings.Join(strings.Fields(row), " "))
		}
	}
	for i := range want {
		want[i] = strings.Join(strings.Fields(want[i]), " ")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/workflows.md (-in-database-pipeline.yaml +documentation):\n%s", diff)
	}
}
