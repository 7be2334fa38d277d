// Package localrun runs an Argo WorkflowTemplate on this machine: the file that ships, read with Argo's own
// types, its DAG walked, its parameters substituted by Argo's own code, its containers' commands run as
// local processes.
//
// It is not an Argo: it knows DAGs of containers, lists they run for, parameters, artifacts, conditions, retries and an exit handler,
// and refuses by name whatever else a workflow asks for (see supported.go). It knows nothing of the commands it runs.
package localrun

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Workflow is a WorkflowTemplate with the templates it refers to, and the parameter values it will run with.
type Workflow struct {
	Name        string // metadata.name
	Title       string // annotation workflows.argoproj.io/title
	Description string // annotation workflows.argoproj.io/description
	main        *wfv1.WorkflowTemplate
	known       map[string]manifest               // WorkflowTemplates found beside the file, by name
	parsed      map[string]*wfv1.WorkflowTemplate // those in use
	values      map[string]string
}

// Parameter is one parameter of the workflow, as a user of the Argo UI sees it.
type Parameter struct {
	Name, Description, Default string
	Required                   bool // no default value
	Enum                       []string
}

// manifest is one YAML document and where it was found.
type manifest struct {
	file string
	text []byte
}

// maxManifest bounds a workflow file: Kubernetes itself refuses objects beyond 1.5 MB.
const maxManifest = 2 << 20

// Load reads the first WorkflowTemplate of a file and every WorkflowTemplate it refers to: in the same file,
// beside it, or in the folder steps beside it. Unknown fields, unsupported Argo features and references that
// lead nowhere are errors, all reported together.
func Load(file string) (*Workflow, error) {
	own, err := readManifests(file)
	if err != nil {
		return nil, err
	}
	w := &Workflow{known: map[string]manifest{}, parsed: map[string]*wfv1.WorkflowTemplate{}, values: map[string]string{}}
	var first string
	for _, m := range own {
		name, ok := templateName(m)
		if !ok {
			continue
		}
		if _, twice := w.known[name]; twice {
			return nil, fmt.Errorf("workflow %s: two WorkflowTemplates are named %q", file, name)
		}
		w.known[name] = m
		if first == "" {
			first = name
		}
	}
	if first == "" {
		return nil, fmt.Errorf("workflow %s: expected a document of kind WorkflowTemplate with a metadata.name", file)
	}
	if err := w.findBeside(file); err != nil {
		return nil, err
	}
	if w.main, err = w.workflowTemplate(first); err != nil {
		return nil, err
	}
	w.Name = first
	w.Title = w.main.Annotations["workflows.argoproj.io/title"]
	w.Description = strings.TrimSpace(w.main.Annotations["workflows.argoproj.io/description"])
	if err := w.check(); err != nil {
		return nil, fmt.Errorf("workflow %s: %w", file, err)
	}
	return w, nil
}

// findBeside indexes the manifests near the file; those that do not parse are somebody else's.
func (w *Workflow) findBeside(file string) error {
	dir := filepath.Dir(file)
	for _, pattern := range []string{filepath.Join(dir, "*.yaml"), filepath.Join(dir, "steps", "*.yaml")} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("look for workflow templates beside %s: %w", file, err)
		}
		for _, other := range files {
			if filepath.Clean(other) == filepath.Clean(file) {
				continue
			}
			found, err := readManifests(other)
			if err != nil {
				continue
			}
			for _, m := range found {
				if name, ok := templateName(m); ok {
					if _, taken := w.known[name]; !taken {
						w.known[name] = m
					}
				}
			}
		}
	}
	return nil
}

func readManifests(file string) ([]manifest, error) {
	f, err := os.Open(file)
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return nil, fmt.Errorf("read workflow %s: %w", file, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read workflow %s: %w", file, err)
	}
	if len(content) > maxManifest {
		return nil, fmt.Errorf("read workflow %s: larger than %d bytes", file, maxManifest)
	}
	var out []manifest
	reader := k8syaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read workflow %s: %w", file, err)
		}
		out = append(out, manifest{file, text})
	}
}

func templateName(m manifest) (string, bool) {
	var head struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	if yaml.Unmarshal(m.text, &head) != nil || head.Kind != "WorkflowTemplate" {
		return "", false
	}
	return head.Name, head.Name != ""
}

func (w *Workflow) workflowTemplate(name string) (*wfv1.WorkflowTemplate, error) {
	if t, ok := w.parsed[name]; ok {
		return t, nil
	}
	m, ok := w.known[name]
	if !ok {
		return nil, fmt.Errorf("no WorkflowTemplate named %q in the workflow's file, beside it, or in the folder steps beside it", name)
	}
	t := new(wfv1.WorkflowTemplate)
	if err := yaml.UnmarshalStrict(m.text, t); err != nil {
		return nil, fmt.Errorf("parse %s: %w", m.file, err)
	}
	if want := wfv1.SchemeGroupVersion.String(); t.APIVersion != want {
		return nil, fmt.Errorf("parse %s: apiVersion is %q, expected %q", m.file, t.APIVersion, want)
	}
	w.parsed[name] = t
	return t, nil
}

// place is a template and the WorkflowTemplate it stands in, in which its own references are looked up.
type place struct {
	home     *wfv1.WorkflowTemplate
	template *wfv1.Template
}

func (p place) String() string {
	return fmt.Sprintf("template %q of WorkflowTemplate %q", p.template.Name, p.home.Name)
}

func (w *Workflow) entry() (place, error) {
	if w.main.Spec.Entrypoint == "" {
		return place{}, fmt.Errorf("WorkflowTemplate %q has no entrypoint", w.Name)
	}
	return w.find(w.main, w.main.Spec.Entrypoint)
}

// exit is the template that runs when all others have ended, if there is one.
func (w *Workflow) exit() (at place, found bool, err error) {
	if w.main.Spec.OnExit == "" {
		return place{}, false, nil
	}
	at, err = w.find(w.main, w.main.Spec.OnExit)
	return at, err == nil, err
}

// roots are the templates that no task refers to, with the names their tasks begin with: the entrypoint and the exit handler.
func (w *Workflow) roots() map[string]place {
	out := map[string]place{}
	if entry, err := w.entry(); err == nil {
		out[""] = entry
	}
	if exit, found, err := w.exit(); found && err == nil {
		out[ExitTask] = exit
	}
	return out
}

func (w *Workflow) find(home *wfv1.WorkflowTemplate, name string) (place, error) {
	for i := range home.Spec.Templates {
		if home.Spec.Templates[i].Name == name {
			return place{home, &home.Spec.Templates[i]}, nil
		}
	}
	return place{}, fmt.Errorf("WorkflowTemplate %q has no template %q", home.Name, name)
}

// target is the template a task runs.
func (w *Workflow) target(from place, task *wfv1.DAGTask) (place, error) {
	if ref := task.TemplateRef; ref != nil {
		home, err := w.workflowTemplate(ref.Name)
		if err != nil {
			return place{}, err
		}
		return w.find(home, ref.Template)
	}
	return w.find(from.home, task.Template)
}

// Parameters lists the workflow's parameters in the order of the file.
func (w *Workflow) Parameters() []Parameter {
	var out []Parameter
	for _, p := range w.main.Spec.Arguments.Parameters {
		q := Parameter{Name: p.Name, Required: p.Value == nil && p.Default == nil, Default: anyString(p.Value, p.Default), Description: anyString(p.Description)}
		for _, e := range p.Enum {
			q.Enum = append(q.Enum, e.String())
		}
		out = append(out, q)
	}
	return out
}

// anyString is the first value that is given, else "".
func anyString(values ...*wfv1.AnyString) string {
	for _, v := range values {
		if v != nil {
			return v.String()
		}
	}
	return ""
}

// Set gives a parameter its value for the next run.
func (w *Workflow) Set(name, value string) error {
	params := w.Parameters()
	i := slices.IndexFunc(params, func(p Parameter) bool { return p.Name == name })
	if i < 0 {
		return fmt.Errorf("workflow %q has no parameter %q", w.Name, name)
	}
	if enum := params[i].Enum; len(enum) > 0 && !slices.Contains(enum, value) {
		return fmt.Errorf("parameter %q is %q, expected one of %q", name, value, enum)
	}
	w.values[name] = value
	return nil
}

// Value is what the parameter will have in the next run.
func (w *Workflow) Value(name string) string {
	if v, ok := w.values[name]; ok {
		return v
	}
	for _, p := range w.Parameters() {
		if p.Name == name {
			return p.Default
		}
	}
	return ""
}

// Use is a place where a workflow parameter's value ends unchanged: an environment variable of a command.
type Use struct {
	Parameter, Task, Command, Env string
}

// Uses lists where the values of the workflow's parameters go, in the order of the file.
func (w *Workflow) Uses() []Use {
	var out []Use
	roots := w.roots()
	for _, name := range slices.Sorted(maps.Keys(roots)) {
		w.uses(roots[name], name, map[string]string{}, &out)
	}
	return out
}

// uses walks the templates below a place; from maps the names of its inputs to workflow parameters.
func (w *Workflow) uses(at place, task string, from map[string]string, out *[]Use) {
	origin := func(value string) string {
		tag, ok := pureTag(value)
		if !ok {
			return ""
		}
		if name, ok := strings.CutPrefix(tag, "workflow.parameters."); ok {
			return name
		}
		if name, ok := strings.CutPrefix(tag, "inputs.parameters."); ok {
			return from[name]
		}
		return ""
	}
	if c := at.template.Container; c != nil {
		for _, e := range c.Env {
			if p := origin(e.Value); p != "" {
				*out = append(*out, Use{Parameter: p, Task: task, Command: filepath.Base(c.Command[0]), Env: e.Name})
			}
		}
		return
	}
	if at.template.DAG == nil {
		return
	}
	for i := range at.template.DAG.Tasks {
		t := &at.template.DAG.Tasks[i]
		next, err := w.target(at, t)
		if err != nil {
			continue
		}
		inner := map[string]string{}
		for _, a := range t.Arguments.Parameters {
			if p := origin(anyString(a.Value)); p != "" {
				inner[a.Name] = p
			}
		}
		w.uses(next, t.Name, inner, out)
	}
}

// pureTag returns x of a value that is {{x}} and nothing else.
func pureTag(value string) (string, bool) {
	inner, ok := strings.CutPrefix(strings.TrimSpace(value), "{{")
	if !ok {
		return "", false
	}
	inner, ok = strings.CutSuffix(inner, "}}")
	if !ok || strings.Contains(inner, "{{") {
		return "", false
	}
	return strings.TrimSpace(inner), true
}

// Tasks lists what the workflow may run, in an order that respects dependencies; the exit handler comes last.
func (w *Workflow) Tasks() []string {
	var out []string
	roots := w.roots()
	for _, name := range slices.Sorted(maps.Keys(roots)) {
		w.tasks(roots[name], name, &out)
	}
	return out
}

func (w *Workflow) tasks(at place, path string, out *[]string) {
	if at.template.DAG == nil {
		*out = append(*out, orDefault(path, at.template.Name))
		return
	}
	g, err := newGraph(at.template.DAG)
	if err != nil {
		return
	}
	for _, i := range g.order {
		t := &at.template.DAG.Tasks[i]
		if next, err := w.target(at, t); err == nil {
			w.tasks(next, join(path, t.Name), out)
		}
	}
}

// join names a task inside a task.
func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}
