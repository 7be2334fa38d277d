package localrun

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Knetic/govaluate"
	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/util/expr/argoexpr"
	exprenv "github.com/argoproj/argo-workflows/v3/util/expr/env"
	"github.com/argoproj/argo-workflows/v3/util/template"
	corev1 "k8s.io/api/core/v1"
)

// check finds everything that would stop a run halfway, before it starts.
func (w *Workflow) check() error {
	c := checker{w: w, seen: map[*wfv1.Template]bool{}, globals: w.globals("")}
	top := *w.main
	top.Spec.Templates = nil // only those in use are checked
	for _, feature := range unsupported(&top) {
		c.add(unsupportedError(fmt.Sprintf("WorkflowTemplate %q", w.Name), feature))
	}
	for _, p := range w.main.Spec.Arguments.Parameters {
		if p.ValueFrom != nil {
			c.add(unsupportedError(fmt.Sprintf("WorkflowTemplate %q", w.Name), "spec.arguments.parameters["+p.Name+"].valueFrom"))
		}
	}
	if entry, err := w.entry(); err != nil {
		c.add(err)
	} else {
		c.root(entry, "entrypoint")
	}
	if exit, found, err := w.exit(); err != nil {
		c.add(err)
	} else if found {
		for name := range new(outcome).globals() {
			c.globals[name] = ""
		}
		c.root(exit, "exit handler")
	}
	return errors.Join(c.problems...)
}

type checker struct {
	w        *Workflow
	seen     map[*wfv1.Template]bool
	globals  map[string]any // what is known everywhere
	problems []error
}

// root checks a template that no task passes anything to.
func (c *checker) root(at place, role string) {
	if len(at.template.Inputs.Parameters) > 0 {
		c.add(fmt.Errorf("%s is the %s and has input parameters: use workflow.parameters in it instead", at, role))
	}
	for _, a := range at.template.Inputs.Artifacts {
		if !a.Optional { // arguments of the workflow that are artifacts are given to Argo only
			c.add(unsupportedError(at.String(), "inputs.artifacts["+a.Name+"] without optional: true"))
		}
	}
	c.place(at, nil)
}

func (c *checker) add(err error) { c.problems = append(c.problems, err) }

func (c *checker) place(at place, above []*wfv1.Template) {
	if slices.Contains(above, at.template) {
		c.add(fmt.Errorf("%s runs itself", at))
		return
	}
	if c.seen[at.template] {
		return
	}
	c.seen[at.template] = true
	found := unsupported(at.template)
	for _, feature := range found {
		c.add(unsupportedError(at.String(), feature))
	}
	t := at.template
	switch {
	case t.DAG != nil:
		c.dag(at, append(above, t))
	case t.Container != nil:
		c.container(at)
	case t.Suspend != nil:
	case len(found) == 0:
		c.add(fmt.Errorf("%s has neither a dag nor a container", at))
	}
}

func (c *checker) container(at place) {
	t := at.template
	if len(t.Container.Command) == 0 {
		c.add(fmt.Errorf("%s: container.command is not set; without the image insitu run cannot know what to start", at))
	}
	for _, text := range append(append([]string{}, t.Container.Command...), t.Container.Args...) {
		if strings.Contains(text, "$(") {
			c.add(unsupportedError(at.String(), "container: "+text))
		}
	}
	for _, from := range t.Container.EnvFrom {
		if s := from.SecretRef; s == nil || s.Optional == nil || !*s.Optional {
			c.add(unsupportedError(at.String(), "container.envFrom, but for a Secret that need not be there"))
		}
	}
	for _, e := range t.Container.Env {
		if strings.Contains(e.Value, "$(") {
			c.add(unsupportedError(at.String(), "container.env["+e.Name+"]: "+e.Value))
		}
	}
	for _, m := range t.Container.VolumeMounts {
		if !slices.ContainsFunc(t.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
			c.add(fmt.Errorf("%s: container.volumeMounts[%s]: the template has no volume of that name", at, m.Name))
		}
	}
	for _, p := range t.Outputs.Parameters {
		if p.ValueFrom == nil || p.ValueFrom.Path == "" {
			c.add(fmt.Errorf("%s: output parameter %q has no valueFrom.path", at, p.Name))
		} else {
			c.reachable(at, p.Name, p.ValueFrom.Path)
		}
	}
	for _, a := range t.Outputs.Artifacts {
		if a.Archive == nil || a.Archive.None == nil {
			c.add(unsupportedError(at.String(), "outputs.artifacts["+a.Name+"] without archive: {none: {}}"))
		}
		c.reachable(at, a.Name, a.Path)
	}
	for _, a := range t.Inputs.Artifacts {
		if !a.Optional { // optional ones where a task passes them
			c.reachable(at, a.Name, a.Path)
		}
	}
	if r := t.RetryStrategy; r != nil {
		if err := checkRetry(r); err != nil {
			c.add(fmt.Errorf("%s: retryStrategy: %w", at, err))
		}
	}
	c.tags(at, acted(t), c.inputs(t))
}

// reachable checks that the command is told where a file is: a process cannot have a /tmp/outputs of its own,
// so the path must appear in its arguments or environment, where localrun replaces it.
func (c *checker) reachable(at place, name, file string) {
	dir := path.Dir(file)
	texts := append(append([]string{}, at.template.Container.Command...), at.template.Container.Args...)
	for _, e := range at.template.Container.Env {
		texts = append(texts, e.Value)
	}
	for _, text := range texts {
		if text == dir || text == file {
			return
		}
	}
	c.add(fmt.Errorf("%s: %q is the file %s, but no argument or environment variable of the container is %q: insitu run cannot tell the command where to put it", at, name, file, dir))
}

func (c *checker) inputs(t *wfv1.Template) map[string]bool {
	known := map[string]bool{}
	for name := range c.globals {
		known[name] = true
	}
	for _, p := range t.Inputs.Parameters {
		known["inputs.parameters."+p.Name] = true
	}
	for _, a := range t.Inputs.Artifacts {
		known["inputs.artifacts."+a.Name] = true
		known["inputs.artifacts."+a.Name+".path"] = true
	}
	return known
}

// tags checks that everything between {{ and }} has a value.
func (c *checker) tags(at place, v any, known map[string]bool) {
	text, err := json.Marshal(v)
	if err != nil {
		c.add(fmt.Errorf("%s: %w", at, err))
		return
	}
	err = template.Validate(string(text), func(tag string) error {
		if tag = strings.TrimSpace(tag); !known[tag] && !(known["item"] && strings.HasPrefix(tag, "item.")) {
			c.add(fmt.Errorf("%s: {{%s}} has no value there", at, tag))
		}
		return nil
	})
	if err != nil {
		c.add(fmt.Errorf("%s: %w", at, err))
	}
}

func (c *checker) dag(at place, above []*wfv1.Template) {
	g, err := newGraph(at.template.DAG)
	if err != nil {
		c.add(fmt.Errorf("%s: %w", at, err))
		return
	}
	results := make([]map[string]bool, len(g.tasks)) // what each task leaves for others
	for i := range g.tasks {
		t := &g.tasks[i]
		results[i] = map[string]bool{"tasks." + t.Name + ".status": true}
		next, err := c.w.target(at, t)
		if err != nil {
			c.add(fmt.Errorf("%s: task %q: %w", at, t.Name, err))
			continue
		}
		c.place(next, above)
		c.arguments(at, t, next)
		for _, p := range next.template.Outputs.Parameters {
			results[i]["tasks."+t.Name+".outputs.parameters."+p.Name] = true
		}
		if t.WithParam != "" {
			c.loop(at, t, next)
			results[i]["tasks."+t.Name+".outputs.parameters"] = true
			continue // artifacts of items have no list
		}
		for _, a := range next.template.Outputs.Artifacts {
			results[i]["tasks."+t.Name+".outputs.artifacts."+a.Name] = true
		}
	}
	for i := range g.tasks {
		known := c.inputs(at.template)
		for _, before := range g.ancestors(i) {
			for tag := range results[before] {
				known[tag] = true
			}
		}
		known["item"] = g.tasks[i].WithParam != ""
		c.tags(at, g.tasks[i], known)
	}
	known := c.inputs(at.template)
	for _, r := range results {
		for tag := range r {
			known[tag] = true
		}
	}
	for _, p := range at.template.Outputs.Parameters {
		if p.ValueFrom == nil || p.ValueFrom.Parameter == "" {
			c.add(fmt.Errorf("%s: output parameter %q has no valueFrom.parameter", at, p.Name))
		}
	}
	for _, a := range at.template.Outputs.Artifacts {
		if a.From == "" {
			c.add(fmt.Errorf("%s: output artifact %q has no from", at, a.Name))
		}
	}
	c.tags(at, at.template.Outputs, known)
}

// loop checks a task that runs once for each item of a list.
func (c *checker) loop(at place, t *wfv1.DAGTask, next place) {
	field := "dag.tasks[" + t.Name + "]."
	if next.template.Container == nil {
		c.add(unsupportedError(at.String(), field+"withParam of a template that is no container"))
	}
	item := regexp.MustCompile(`{{=?\s*item\b`)
	if item.MatchString(t.When) {
		c.add(unsupportedError(at.String(), field+"when with {{item}}"))
	}
	if item.MatchString(t.WithParam) {
		c.add(fmt.Errorf("%s: %swithParam: {{item}} has no value there", at, field))
	}
}

// arguments checks that a task gives its template what it takes, and nothing else.
func (c *checker) arguments(at place, t *wfv1.DAGTask, next place) {
	for _, a := range t.Arguments.Parameters {
		if a.Value == nil {
			c.add(fmt.Errorf("%s: task %q: argument %q has no value", at, t.Name, a.Name))
		}
		if next.template.Inputs.GetParameterByName(a.Name) == nil {
			c.add(fmt.Errorf("%s: task %q passes %q, which %s does not take", at, t.Name, a.Name, next))
		}
	}
	for _, p := range next.template.Inputs.Parameters {
		if p.Default == nil && p.Value == nil && t.Arguments.GetParameterByName(p.Name) == nil {
			c.add(fmt.Errorf("%s: task %q does not pass %q, which %s needs", at, t.Name, p.Name, next))
		}
	}
	for _, a := range t.Arguments.Artifacts {
		if a.From == "" {
			c.add(fmt.Errorf("%s: task %q: artifact %q has no from", at, t.Name, a.Name))
		}
		in := next.template.Inputs.GetArtifactByName(a.Name)
		if in == nil {
			c.add(fmt.Errorf("%s: task %q passes artifact %q, which %s does not take", at, t.Name, a.Name, next))
		} else if tag, _ := pureTag(a.From); in.Optional && next.template.Container != nil && !strings.HasPrefix(tag, "inputs.") {
			c.reachable(next, in.Name, in.Path)
		}
	}
	for _, a := range next.template.Inputs.Artifacts {
		if !a.Optional && t.Arguments.GetArtifactByName(a.Name) == nil {
			c.add(fmt.Errorf("%s: task %q does not pass artifact %q, which %s needs", at, t.Name, a.Name, next))
		}
	}
}

func checkRetry(r *wfv1.RetryStrategy) error {
	if r.Expression != "" {
		if _, err := evaluateRetry(r.Expression, 0, attempt{code: 1}); err != nil {
			return err
		}
	}
	if b := r.Backoff; b != nil {
		for _, d := range []string{b.Duration, b.MaxDuration, b.Cap} {
			if d == "" {
				continue
			}
			if _, err := wfv1.ParseStringToDuration(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// acted is what localrun acts on of a template: without what only pods have, and whose variables exist only there or later.
func acted(t *wfv1.Template) *wfv1.Template {
	out := t.DeepCopy()
	out.RetryStrategy, out.Metrics, out.Synchronization, out.PodSpecPatch = nil, nil, nil, ""
	return out
}

// evaluateRetry decides a retry expression. It sees strings, and Argo's functions.
func evaluateRetry(expression string, retries int, last attempt) (bool, error) {
	return argoexpr.EvalBool(expression, exprenv.GetFuncMap(map[string]any{
		"retries":            fmt.Sprint(retries),
		"lastRetry.exitCode": fmt.Sprint(last.code),
		"lastRetry.status":   string(Failed),
		"lastRetry.duration": fmt.Sprint(last.seconds),
		"lastRetry.message":  last.text(),
	}))
}

// evaluateWhen decides a task's condition as Argo does: bare words count as strings.
func evaluateWhen(when string) (bool, error) {
	if when == "" {
		return true, nil
	}
	expression, err := govaluate.NewEvaluableExpression(when)
	if err != nil {
		return false, fmt.Errorf("when %q: %w", when, err)
	}
	tokens := expression.Tokens()
	for i := range tokens {
		if tokens[i].Kind == govaluate.VARIABLE {
			tokens[i].Kind = govaluate.STRING
		}
	}
	if expression, err = govaluate.NewEvaluableExpressionFromTokens(tokens); err != nil {
		return false, fmt.Errorf("when %q: %w", when, err)
	}
	result, err := expression.Evaluate(nil)
	if err != nil {
		return false, fmt.Errorf("when %q: %w", when, err)
	}
	yes, ok := result.(bool)
	if !ok {
		return false, fmt.Errorf("when %q is %v, expected true or false", when, result)
	}
	return yes, nil
}
