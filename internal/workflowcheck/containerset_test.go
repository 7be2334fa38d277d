package workflowcheck_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/step"
)

// set is a container set of the express pipeline, and the task that runs it.
type set struct {
	task *wfv1.DAGTask
	tmpl *wfv1.Template
}

func sets(t *testing.T) []set {
	t.Helper()
	_, express := both(t)
	var out []set
	for _, name := range []string{"learn", "release"} {
		tmpl := express.GetTemplateByName(name)
		if tmpl == nil || tmpl.ContainerSet == nil {
			t.Fatalf("%s has no container set %q", express.Name, name)
		}
		out = append(out, set{task(t, express, name), tmpl})
	}
	return out
}

// before are the containers that have ended well when c starts.
func before(s set, c *wfv1.ContainerNode) []wfv1.ContainerNode {
	var out []wfv1.ContainerNode
	for _, other := range s.tmpl.ContainerSet.Containers {
		if slices.Contains(c.Dependencies, other.Name) {
			out = append(append(out, other), before(s, &other)...)
		}
	}
	return out
}

// specOf is the declaration of what a container runs.
func specOf(t *testing.T, c *wfv1.ContainerNode) step.Spec {
	t.Helper()
	for _, spec := range tasks() {
		if command, args := command(spec); slices.Equal(command, c.Command) && slices.Equal(args, c.Args) {
			return spec
		}
	}
	t.Fatalf("no step is run by %q %q", c.Command, c.Args)
	return step.Spec{}
}

func TestTheContainerSetsRunEveryStepOnceInOrder(t *testing.T) {
	t.Parallel()
	var got []string
	for _, s := range sets(t) {
		for i, c := range s.tmpl.ContainerSet.Containers {
			got = append(got, s.tmpl.Name+" "+c.Name+" "+strings.Join(append(c.Command, c.Args...), " ")+" after "+strings.Join(c.Dependencies, " "))
			if last := i == len(s.tmpl.ContainerSet.Containers)-1; last != (c.Name == "main") {
				t.Errorf("%s: container %q: main has to be the last, because Argo takes the outputs when it ends", s.tmpl.Name, c.Name)
			}
		}
		if s.tmpl.ContainerSet.RetryStrategy != nil {
			t.Errorf("%s: a container set's own retryStrategy tries every failure again", s.tmpl.Name)
		}
	}
	want := []string{
		"learn upload-dataset upload-dataset after ",
		"learn deploy-training-code deploy-training-code after ",
		"learn train-model train-model after upload-dataset deploy-training-code",
		// main names all of them: Argo then tells the exit code of the one that failed.
		"learn main evaluate-model after upload-dataset deploy-training-code train-model",
		"release promote-model-to-staging promote-model-to-staging after ",
		"release deploy-inference-db deploy-inference-db after promote-model-to-staging",
		"release main insitu smoke after promote-model-to-staging deploy-inference-db",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("containers (-want +got):\n%s", diff)
	}
}

// TestTheExpressPipelinePassesWhatTheDAGPasses compares each setting of each container with the argument of the DAG's task.
func TestTheExpressPipelinePassesWhatTheDAGPasses(t *testing.T) {
	t.Parallel()
	dag, _ := both(t)
	for _, s := range sets(t) {
		for i := range s.tmpl.ContainerSet.Containers {
			c := &s.tmpl.ContainerSet.Containers[i]
			spec := specOf(t, c)
			given := map[string]string{}
			for _, e := range c.Env {
				given[e.Name] = e.Value
			}
			if given["SERVICE_BINDING_ROOT"] != "/bindings" || given["INSITU_OUTPUT_DIR"] != path.Join("/tmp/outputs", spec.Name) {
				t.Errorf("%s: environment %v: expected SERVICE_BINDING_ROOT=/bindings and an INSITU_OUTPUT_DIR of its own", spec.Name, given)
			}
			delete(given, "SERVICE_BINDING_ROOT")
			delete(given, "INSITU_OUTPUT_DIR")
			want := map[string]string{"INSITU_WORKFLOW": "{{workflow.name}}", "INSITU_WORKFLOW_UID": "{{workflow.uid}}"}
			if diff := cmp.Diff(catalogs(), c.EnvFrom); diff != "" {
				t.Errorf("%s: variables of data catalogs (-want +container set):\n%s", spec.Name, diff)
			}
			in := task(t, dag, spec.Name)
			for _, p := range in.Arguments.Parameters {
				if p.Name == "sweep" {
					continue
				}
				flag := flagOf(t, spec, p.Name)
				name, value := express(t, s, c, flag, p.Value.String())
				want[name] = value
			}
			if diff := cmp.Diff(want, given); diff != "" {
				t.Errorf("%s: environment (-what the DAG passes +container set):\n%s", spec.Name, diff)
			}
			checkBindings(t, spec, s.tmpl, &c.Container)
			checkAppMount(t, s, c)
		}
	}
}

func flagOf(t *testing.T, spec step.Spec, name string) step.Flag {
	t.Helper()
	for _, f := range spec.AllFlags() {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("%s has no flag --%s", spec.Name, name)
	return step.Flag{}
}

// express translates an argument of the DAG into the variable that a container has instead.
func express(t *testing.T, s set, c *wfv1.ContainerNode, flag step.Flag, value string) (string, string) {
	t.Helper()
	switch value { // a list of candidates in the DAG, and what they have in common
	case "{{item}}":
		value = "{{workflow.parameters.parameters}}"
	case "{{=jsonpath(tasks['train-model'].outputs.parameters['model-name'], '$[0]')}}":
		value = "{{tasks.train-model.outputs.parameters.model-name}}"
	}
	if strings.HasPrefix(value, "{{workflow.parameters.") || !strings.Contains(value, "{{") { // of the run, or always the same
		return flag.Env(), value
	}
	from, output, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(value, "{{tasks."), "}}"), ".outputs.parameters.")
	if ok && !strings.Contains(from, "=") {
		for _, earlier := range before(s, c) { // the same pod: a file
			if earlier.Command[0] == from && slices.ContainsFunc(specOf(t, &earlier).Outputs, func(o step.Output) bool { return o.Name == output && o.File == "" }) {
				return flag.Env() + "_FILE", path.Join("/tmp/outputs", from, output)
			}
		}
		value = "{{tasks.learn.outputs.parameters." + output + "}}" // the pod before: an input
	}
	if got := argument(s.task, flag.Name); got != value {
		t.Errorf("task %q passes %s=%q, expected %q", s.task.Name, flag.Name, got, value)
	}
	return flag.Env(), "{{inputs.parameters." + flag.Name + "}}"
}

// checkAppMount: an input artifact's own mount reaches the container main alone, so it lies below /tmp and is mounted from there.
func checkAppMount(t *testing.T, s set, c *wfv1.ContainerNode) {
	t.Helper()
	var got []string
	for _, m := range c.VolumeMounts {
		if m.SubPath != "" {
			got = append(got, m.Name+" "+m.SubPath+" "+m.MountPath)
		}
	}
	var want []string
	if slices.ContainsFunc(specOf(t, c).AllFlags(), func(f step.Flag) bool { return f.Name == "app" }) {
		want = []string{"tmp app /app"}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: mount of the ML app (-want +got):\n%s", c.Name, diff)
	}
	artifacts := wfv1.Artifacts{{Name: "app", Path: "/tmp/app", Optional: true}}
	if s.tmpl.Name != "learn" {
		artifacts = nil
	}
	if diff := cmp.Diff(artifacts, s.tmpl.Inputs.Artifacts); diff != "" {
		t.Errorf("%s: input artifacts (-want +got):\n%s", s.tmpl.Name, diff)
	}
}

func TestTheContainerSetsGiveOutputsOfTheirSteps(t *testing.T) {
	t.Parallel()
	for _, s := range sets(t) {
		declared := map[string]bool{}
		for _, c := range s.tmpl.ContainerSet.Containers {
			for _, o := range specOf(t, &c).Outputs {
				file := o.File
				if file == "" {
					file = o.Name
				}
				declared[path.Join("/tmp/outputs", c.Command[0], file)] = true
			}
		}
		for _, o := range s.tmpl.Outputs.Parameters {
			if !declared[o.ValueFrom.Path] || path.Base(o.ValueFrom.Path) != o.Name || o.ValueFrom.Default == nil {
				t.Errorf("%s: output %q comes from %+v: expected the file of that name of a step, and a default", s.tmpl.Name, o.Name, o.ValueFrom)
			}
		}
		for _, a := range s.tmpl.Outputs.Artifacts {
			if !declared[a.Path] || a.Archive == nil || a.Archive.None == nil {
				t.Errorf("%s: artifact %q at %s, archive %+v: expected a step's file as it is", s.tmpl.Name, a.Name, a.Path, a.Archive)
			}
		}
	}
}
