package workflowcheck_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/insitu-ml/insitu/internal/localrun"
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps"
	"github.com/insitu-ml/insitu/internal/steps/monitor"
	"github.com/insitu-ml/insitu/internal/steps/smoke"
)

// tasks are the declarations of everything that has a WorkflowTemplate of its own: the steps, the smoke test after them and the monitor.
func tasks() []step.Spec { return append(steps.All(), smoke.Spec(), monitor.Spec(nil)) }

// command is the container's command of a task.
func command(spec step.Spec) (command, args []string) {
	if spec.Name == "smoke" || spec.Name == "monitor" { // parts of insitu
		return []string{"insitu"}, []string{spec.Name}
	}
	return []string{spec.Name}, nil
}

// stepTemplate is the template of a step, in a WorkflowTemplate of its name.
func stepTemplate(t *testing.T, all templates, name string) *wfv1.Template {
	t.Helper()
	w, err := all.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	found := w.GetTemplateByName(name)
	if found == nil || found.Container == nil {
		t.Fatalf("WorkflowTemplate %q has no container template %q", name, name)
	}
	return found
}

func TestEveryStepTemplateSaysWhatItsStepDeclares(t *testing.T) {
	t.Parallel()
	all := load(t)
	for _, spec := range tasks() {
		t.Run(spec.Name, func(t *testing.T) {
			t.Parallel()
			tmpl := stepTemplate(t, all, spec.Name)
			command, args := command(spec)
			if diff := cmp.Diff([][]string{command, args}, [][]string{tmpl.Container.Command, tmpl.Container.Args}); diff != "" {
				t.Errorf("command and arguments (-want +got); values pass by environment:\n%s", diff)
			}
			checkSettings(t, spec, tmpl)
			checkOutputs(t, spec, tmpl)
			checkBindings(t, spec, tmpl, tmpl.Container)
			checkOptionalApp(t, spec, tmpl)
		})
	}
}

func checkSettings(t *testing.T, spec step.Spec, tmpl *wfv1.Template) {
	t.Helper()
	given := map[string]string{}
	for _, e := range tmpl.Container.Env {
		given[e.Name] = e.Value
	}
	if given["SERVICE_BINDING_ROOT"] != "/bindings" || given["INSITU_OUTPUT_DIR"] != "/tmp/outputs" {
		t.Errorf("environment %v: expected SERVICE_BINDING_ROOT=/bindings and INSITU_OUTPUT_DIR=/tmp/outputs", given)
	}
	if given["INSITU_WORKFLOW"] != "{{workflow.name}}" || given["INSITU_WORKFLOW_UID"] != "{{workflow.uid}}" {
		t.Errorf("environment %v: expected INSITU_WORKFLOW and INSITU_WORKFLOW_UID, the run in data catalogs", given)
	}
	for _, name := range []string{"SERVICE_BINDING_ROOT", "INSITU_OUTPUT_DIR", "INSITU_WORKFLOW", "INSITU_WORKFLOW_UID"} {
		delete(given, name)
	}
	if diff := cmp.Diff(catalogs(), tmpl.Container.EnvFrom); diff != "" {
		t.Errorf("variables of data catalogs (-want +template):\n%s", diff)
	}
	for _, flag := range spec.AllFlags() {
		value, ok := given[flag.Env()]
		delete(given, flag.Env())
		input := tmpl.Inputs.GetParameterByName(flag.Name)
		if !ok {
			if flag.Required && flag.Binding == nil {
				t.Errorf("--%s is required and %s is not set", flag.Name, flag.Env())
			}
			if input != nil {
				t.Errorf("input %q is not passed on", flag.Name)
			}
			continue
		}
		if want := "{{inputs.parameters." + flag.Name + "}}"; value != want {
			t.Errorf("%s is %q, expected %q", flag.Env(), value, want)
		}
		if input == nil {
			t.Errorf("there is no input %q for %s", flag.Name, flag.Env())
			continue
		}
		checkInput(t, flag, input)
	}
	for name := range given {
		t.Errorf("%s is no setting of %s", name, spec.Name)
	}
	for _, input := range tmpl.Inputs.Parameters {
		if !slices.ContainsFunc(spec.AllFlags(), func(f step.Flag) bool { return f.Name == input.Name }) {
			t.Errorf("input %q is no flag of %s", input.Name, spec.Name)
		}
	}
}

// catalogs is where every step gets the addresses of data catalogs from: a Secret that need not be there.
func catalogs() []corev1.EnvFromSource {
	optional := true
	return []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "insitu-catalog"}, Optional: &optional}}}
}

func checkInput(t *testing.T, flag step.Flag, input *wfv1.Parameter) {
	t.Helper()
	if flag.Required != (input.Default == nil) {
		t.Errorf("input %q: required is %v, but it has the default %v", input.Name, flag.Required, input.Default)
	}
	if input.Default != nil && input.Default.String() != flag.Default {
		t.Errorf("input %q has the default %q, the flag has %q", input.Name, input.Default.String(), flag.Default)
	}
	if input.Description == nil {
		t.Errorf("input %q has no description", input.Name)
	}
	if diff := cmp.Diff(flag.Enum, enum(input.Enum)); diff != "" {
		t.Errorf("input %q: allowed values (-flag +input):\n%s", input.Name, diff)
	}
}

// enum is a list of allowed values without the empty one, which means "not set".
func enum(values []wfv1.AnyString) []string {
	var out []string
	for _, v := range values {
		if v.String() != "" {
			out = append(out, v.String())
		}
	}
	return out
}

func checkOutputs(t *testing.T, spec step.Spec, tmpl *wfv1.Template) {
	t.Helper()
	var declared, files []string
	for _, o := range spec.Outputs {
		if o.File == "" {
			declared = append(declared, o.Name)
		} else {
			files = append(files, o.Name+" "+o.File)
		}
	}
	var given, givenFiles []string
	for _, o := range tmpl.Outputs.Parameters {
		given = append(given, o.Name)
		if want := path.Join("/tmp/outputs", o.Name); o.ValueFrom == nil || o.ValueFrom.Path != want {
			t.Errorf("output %q comes from %+v, expected the path %s", o.Name, o.ValueFrom, want)
		} else if o.ValueFrom.Default == nil {
			t.Errorf("output %q has no default: tasks after a skipped one could not refer to it", o.Name)
		}
	}
	for _, o := range tmpl.Outputs.Artifacts {
		givenFiles = append(givenFiles, o.Name+" "+strings.TrimPrefix(o.Path, "/tmp/outputs/"))
	}
	if diff := cmp.Diff(declared, given); diff != "" {
		t.Errorf("output parameters (-declared +template):\n%s", diff)
	}
	if diff := cmp.Diff(files, givenFiles); diff != "" {
		t.Errorf("output artifacts (-declared +template):\n%s", diff)
	}
}

// checkBindings expects exactly the service bindings that the step's flags fall back to.
func checkBindings(t *testing.T, spec step.Spec, tmpl *wfv1.Template, c *corev1.Container) {
	t.Helper()
	want := map[string]string{}
	for _, flag := range spec.AllFlags() {
		if flag.Binding != nil {
			want["/bindings/"+flag.Binding.Binding] = "insitu-" + flag.Binding.Binding
		}
	}
	got := map[string]string{}
	for _, m := range c.VolumeMounts {
		for _, v := range tmpl.Volumes {
			if v.Name == m.Name && v.Secret != nil {
				got[m.MountPath] = v.Secret.SecretName
				if !m.ReadOnly {
					t.Errorf("%s is mounted writable", m.MountPath)
				}
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("service bindings (-flags +mounts):\n%s", diff)
	}
}

// checkOptionalApp: a step that takes the ML app can be given it as an artifact, where the parameter's default looks for it.
func checkOptionalApp(t *testing.T, spec step.Spec, tmpl *wfv1.Template) {
	t.Helper()
	var want wfv1.Artifacts
	if tmpl.Inputs.GetParameterByName("app") != nil {
		want = wfv1.Artifacts{{Name: "app", Path: "/app", Optional: true}}
	}
	if diff := cmp.Diff(want, tmpl.Inputs.Artifacts); diff != "" {
		t.Errorf("%s: input artifacts (-want +template):\n%s", spec.Name, diff)
	}
}

func TestThePipelinesDefaultsAreThoseOfTheSteps(t *testing.T) {
	t.Parallel()
	w, err := localrun.Load(folder + "/in-database-pipeline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	params := map[string]localrun.Parameter{}
	for _, p := range w.Parameters() {
		params[p.Name] = p
	}
	for _, spec := range steps.All() {
		for _, use := range w.Uses() {
			for _, flag := range spec.AllFlags() {
				if use.Command != spec.Name || use.Env != flag.Env() || flag.Required || flag.Name == "inference-schema" {
					continue // a required flag has no default, nor has one that others require; the pipeline may have one
				}
				if got := params[use.Parameter].Default; got != flag.Default {
					t.Errorf("parameter %q has the default %q, --%s of %s has %q", use.Parameter, got, flag.Name, spec.Name, flag.Default)
				}
				if err := spec.CheckValue(flag.Name, params[use.Parameter].Default); err != nil {
					t.Errorf("parameter %q: %v", use.Parameter, err)
				}
			}
		}
	}
}
