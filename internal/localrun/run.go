package localrun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/util/template"
	corev1 "k8s.io/api/core/v1"
)

// Status is where a task stands, in Argo's words.
type Status string

// The states of a task. Skipped: its condition was false. Omitted: the tasks before it did not end as it needs.
const (
	Pending   Status = "Pending"
	Running   Status = "Running"
	Succeeded Status = "Succeeded"
	Failed    Status = "Failed"
	Errored   Status = "Error"
	Skipped   Status = "Skipped"
	Omitted   Status = "Omitted"
)

// Options say where and with what a workflow runs.
type Options struct {
	Name      string            // of this run: {{workflow.name}}, first part of artifact keys
	Bin       string            // directory of the commands: container.command[0] is looked up by its last element
	Dir       string            // directory of this run: one folder a task with its log, outputs and artifacts
	Mounts    map[string]string // container path -> directory here, for secret volumes mounted at or below it
	Env       []string          // environment each command starts with; the template's comes on top
	Artifacts Store             // may be nil if the workflow has no artifacts
	Grace     time.Duration     // how long a stopped command may take to clean up; 0: 30 s
	Kill      <-chan struct{}   // when closed, running commands are killed
	Observe   func(Event)       // called with what happens, one call at a time; may be nil
}

// Store keeps artifacts by key. objectstore does.
type Store interface {
	Put(ctx context.Context, key, file string) error
	Get(ctx context.Context, key, file string) error
}

// Event is one thing that happened to a task. Of the last four fields, one is set.
type Event struct {
	Task    string
	Of      string         // the task that this is an item of; "" for others
	Status  Status         // the task's status now
	Log     map[string]any // a line of its log that is a JSON object
	Line    string         // a line of its log that is not, or a remark of localrun
	Done    int64          // progress, when Total > 0
	Total   int64
	Changed bool // the status changed
	Step    Step // the state so far, when Changed
}

// Step is what became of one task.
type Step struct {
	Name      string
	Of        string // the task that this is an item of; "" for others
	Items     int    // of a task that was expanded (withParam): this step stands for them all, with lists as outputs
	Dir       string // its folder below Options.Dir
	Command   string
	Status    Status
	Seconds   float64 // all attempts and the waits between them
	Attempts  int
	ExitCode  int
	Message   string            // why it failed, or was skipped
	Outputs   map[string]string // output parameters
	Artifacts map[string]string // output artifacts, files here
}

// Result is what became of a run.
type Result struct {
	Name      string
	Steps     []Step // in the order of Workflow.Tasks, the items of a task behind it
	Outputs   map[string]string
	Artifacts map[string]string // of the entry template, files here
	ExitCode  int               // of the first step that failed, 0 if none did; the exit handler's does not count
}

// node is a finished task or template: what later tasks may refer to.
type node struct {
	status    Status
	outputs   map[string]any // string, or nil: a skipped task's output without a default
	artifacts map[string]artifact
	err       error // why localrun could not go on (status Errored)
}

type artifact struct{ key, file string }

type run struct {
	w       *Workflow
	o       Options
	globals map[string]any
	mu      sync.Mutex
	steps   map[string]*Step
	items   map[string][]string // names of the items of tasks that were expanded
	failure int                 // exit code of the first failed step
}

// work is a task to run, or one of its items.
type work struct {
	task, item int    // item: -1 if the task has none
	name       string // with the path to the task
	at         place
	args       wfv1.Arguments
	arts       map[string]artifact
}

// ExitTask is the name of the exit handler among the tasks, as in Argo.
const ExitTask = "onExit"

// Run runs the workflow. Cancelling ctx stops it: running commands get SIGTERM and o.Grace to clean up.
// A failed step is a Result with an ExitCode, not an error; errors are about the run itself, most of them before anything started.
func (w *Workflow) Run(ctx context.Context, o Options) (*Result, error) {
	r := &run{w: w, o: o, steps: map[string]*Step{}, items: map[string][]string{}}
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if s := w.main.Spec.ActiveDeadlineSeconds; s != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*s)*time.Second, fmt.Errorf("the workflow's activeDeadlineSeconds (%d) are over", *s))
		defer cancel()
	}
	entry, err := w.entry()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	n := r.template(ctx, "", entry, wfv1.Arguments{}, nil)
	res := &Result{Name: o.Name, Outputs: stringOutputs(n.outputs), Artifacts: map[string]string{}, ExitCode: r.failure}
	r.exit(ctx, outcome{status: n.status, seconds: time.Since(began).Seconds()})
	for name, a := range n.artifacts {
		res.Artifacts[name] = a.file
	}
	for _, task := range w.Tasks() {
		for _, name := range append([]string{task}, r.items[task]...) {
			res.Steps = append(res.Steps, *r.steps[name])
		}
	}
	if n.err == nil && n.status != Succeeded && res.ExitCode == 0 {
		if n.err = context.Cause(ctx); n.err == nil {
			n.err = errors.New("the workflow failed")
		}
	}
	return res, n.err
}

// prepare checks this machine against the workflow before anything starts.
func (r *run) prepare() error {
	var problems []error
	for _, p := range r.w.Parameters() {
		if _, set := r.w.values[p.Name]; p.Required && !set {
			problems = append(problems, fmt.Errorf("parameter %q needs a value", p.Name))
		}
	}
	r.globals = r.w.globals(r.o.Name)
	problems = append(problems, r.w.Waits())
	for _, task := range r.w.Tasks() {
		r.steps[task] = &Step{Name: task, Dir: task, Status: Pending, Outputs: map[string]string{}, Artifacts: map[string]string{}}
	}
	used := slices.Collect(maps.Keys(r.w.leaves()))
	slices.SortFunc(used, func(a, b *wfv1.Template) int { return strings.Compare(a.Name, b.Name) })
	for _, t := range used {
		if _, err := r.lookup(t.Container.Command[0]); err != nil {
			problems = append(problems, fmt.Errorf("template %q: %w", t.Name, err))
		}
		for _, m := range t.Container.VolumeMounts {
			i := slices.IndexFunc(t.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
			if t.Volumes[i].Secret == nil {
				continue
			}
			if _, ok := mapPath(m.MountPath, r.o.Mounts); !ok {
				problems = append(problems, fmt.Errorf("template %q mounts secret %q at %s: no directory stands for it on this machine", t.Name, t.Volumes[i].Secret.SecretName, m.MountPath))
			}
		}
		if r.o.Artifacts == nil && len(t.Outputs.Artifacts)+len(t.Inputs.Artifacts) > 0 {
			problems = append(problems, fmt.Errorf("template %q has artifacts and there is no store for them", t.Name))
		}
	}
	return errors.Join(problems...)
}

// globals are the variables that a workflow's templates have everywhere, for a run of that name.
func (w *Workflow) globals(run string) map[string]any {
	params := map[string]string{}
	out := map[string]any{
		"workflow.name": run, "workflow.namespace": "local", "workflow.uid": run, "workflow.mainEntrypoint": w.main.Spec.Entrypoint, "workflow.serviceAccountName": w.main.Spec.ServiceAccountName,
		// A local run has no object in Kubernetes that could have labels.
		"workflow.labels": "{}", "workflow.labels.json": "{}", "workflow.annotations": "{}", "workflow.annotations.json": "{}",
	}
	for _, p := range w.Parameters() {
		params[p.Name] = w.Value(p.Name)
		out["workflow.parameters."+p.Name] = params[p.Name]
	}
	all, err := json.Marshal(params)
	if err != nil { // texts have JSON
		panic(err)
	}
	out["workflow.parameters"], out["workflow.parameters.json"] = string(all), string(all)
	return out
}

func (r *run) lookup(command string) (string, error) {
	file := filepath.Join(r.o.Bin, filepath.Base(command))
	if _, err := exec.LookPath(file); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("command %q is not in %s", filepath.Base(command), r.o.Bin)
		}
		return "", fmt.Errorf("command %s: %w", file, err)
	}
	return file, nil
}

// leaves are the container templates in use.
func (w *Workflow) leaves() map[*wfv1.Template]bool {
	out := map[*wfv1.Template]bool{}
	var visit func(at place)
	visit = func(at place) {
		if at.template.Container != nil {
			out[at.template] = true
			return
		}
		if at.template.DAG == nil {
			return
		}
		for i := range at.template.DAG.Tasks {
			if next, err := w.target(at, &at.template.DAG.Tasks[i]); err == nil {
				visit(next)
			}
		}
	}
	for _, at := range w.roots() {
		visit(at)
	}
	return out
}

// template runs one template with the arguments of its task, whose references are already replaced.
func (r *run) template(ctx context.Context, path string, at place, args wfv1.Arguments, arts map[string]artifact) node {
	scope := maps.Clone(r.globals)
	for _, p := range at.template.Inputs.Parameters {
		value := anyString(p.Value, p.Default)
		if a := args.GetParameterByName(p.Name); a != nil {
			value = anyString(a.Value)
		}
		if len(p.Enum) > 0 && !slices.ContainsFunc(p.Enum, func(e wfv1.AnyString) bool { return e.String() == value }) {
			return r.broken(path, fmt.Errorf("%s: input %q is %q, expected one of %q", at, p.Name, value, p.Enum))
		}
		scope["inputs.parameters."+p.Name] = value
	}
	if at.template.DAG != nil {
		return r.dag(ctx, path, at, scope, arts)
	}
	if at.template.Suspend != nil {
		return r.broken(path, fmt.Errorf("%s waits for a person, which insitu run cannot", at))
	}
	for _, a := range at.template.Inputs.Artifacts {
		scope["inputs.artifacts."+a.Name+".path"] = a.Path
	}
	t, err := substitute(acted(at.template), scope)
	if err != nil {
		return r.broken(path, fmt.Errorf("%s: %w", at, err))
	}
	t.RetryStrategy = at.template.RetryStrategy
	return r.container(ctx, orDefault(path, t.Name), at.template, t, arts)
}

// broken records an error of localrun itself.
func (r *run) broken(path string, err error) node {
	r.mu.Lock()
	_, known := r.steps[path]
	r.mu.Unlock()
	if known {
		r.change(path, func(s *Step) { s.Status, s.Message, s.ExitCode = Errored, err.Error(), 1 })
	}
	return node{status: Errored, err: err}
}

// substitute replaces {{...}} in every text of v, as Argo does: over its JSON.
func substitute[T any](v *T, scope map[string]any) (*T, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	replaced, err := template.Replace(string(text), scope, false)
	if err != nil {
		return nil, err
	}
	out := new(T)
	return out, json.Unmarshal([]byte(replaced), out)
}

// dag runs tasks as soon as what they need has ended, side by side up to the template's parallelism.
func (r *run) dag(ctx context.Context, path string, at place, scope map[string]any, inputs map[string]artifact) node {
	g, err := newGraph(at.template.DAG)
	if err != nil {
		return node{status: Errored, err: err}
	}
	type ended struct {
		work work
		node node
	}
	var (
		ends    = make([]Status, len(g.tasks)) // "" until the task ended
		nodes   = make([]node, len(g.tasks))
		loops   = make([]loop, len(g.tasks)) // of tasks that were expanded
		started = make([]bool, len(g.tasks))
		queue   []work
		done    = make(chan ended)
		running int
		broken  error
	)
	finish := func(i int, n node) {
		ends[i], nodes[i] = n.status, n
		broken = errors.Join(broken, n.err)
		r.publish(scope, g.tasks[i].Name, n)
	}
	end := func(w work, n node) {
		if w.item < 0 {
			finish(w.task, n)
			return
		}
		broken = errors.Join(broken, n.err)
		l := &loops[w.task]
		l.ended[w.item] = n
		if l.left--; l.left == 0 {
			n, all := group(l.ended)
			r.change(join(path, g.tasks[w.task].Name), func(s *Step) {
				s.Status, s.Seconds, s.Outputs = n.status, time.Since(l.began).Seconds(), stringOutputs(n.outputs)
			})
			scope["tasks."+g.tasks[w.task].Name+".outputs.parameters"] = all
			finish(w.task, n)
		}
	}
	failFast := at.template.DAG.FailFast == nil || *at.template.DAG.FailFast
	room := func() bool { return !at.template.HasParallelism() || int64(running) < *at.template.Parallelism }
	for {
		for _, i := range g.order {
			stopped := ctx.Err() != nil || broken != nil || failFast && g.failed(ends)
			if started[i] || stopped || slices.ContainsFunc(g.needs[i], func(need int) bool { return ends[need] == "" }) {
				continue
			}
			started[i] = true
			name := join(path, g.tasks[i].Name)
			works, next, status, err := r.start(g, i, at, path, ends, nodes, scope, inputs)
			switch {
			case err != nil:
				finish(i, r.broken(name, err))
			case status != "":
				finish(i, r.skip(name, next, status))
			default:
				queue = append(queue, works...)
				if works[0].item >= 0 {
					loops[i] = loop{ended: make([]node, len(works)), left: len(works), began: time.Now()}
					r.open(name, works)
				}
			}
		}
		for len(queue) > 0 && room() && ctx.Err() == nil && broken == nil {
			w := queue[0]
			queue = queue[1:]
			running++
			go func() { done <- ended{w, r.template(ctx, w.name, w.at, w.args, w.arts)} }()
		}
		if running == 0 {
			break
		}
		e := <-done
		running--
		end(e.work, e.node)
	}
	for _, w := range queue { // stopped before it was its turn
		end(w, r.skip(w.name, w.at, Omitted))
	}
	for i := range g.tasks {
		if !started[i] {
			if next, err := r.w.target(at, &g.tasks[i]); err == nil {
				ends[i] = Omitted
				r.publish(scope, g.tasks[i].Name, r.skip(join(path, g.tasks[i].Name), next, Omitted))
			}
		}
	}
	out := node{status: Succeeded, outputs: map[string]any{}, artifacts: map[string]artifact{}, err: broken}
	if g.failed(ends) || ctx.Err() != nil {
		out.status = Failed
	}
	for _, p := range at.template.Outputs.Parameters {
		value, err := template.ResolveVar(p.ValueFrom.Parameter, scope)
		switch {
		case err == nil && value != nil:
			out.outputs[p.Name] = value
		case p.ValueFrom.Default != nil:
			out.outputs[p.Name] = p.ValueFrom.Default.String()
		default:
			out.outputs[p.Name] = nil
		}
	}
	for _, a := range at.template.Outputs.Artifacts {
		if found, ok := findArtifact(a.From, g, nodes, inputs); ok {
			out.artifacts[a.Name] = found
		}
	}
	return out
}

// open makes the items of a task known.
func (r *run) open(task string, works []work) {
	r.mu.Lock()
	for _, w := range works {
		r.items[task] = append(r.items[task], w.name)
		// Names of items hold whatever their values do: the folder is called by the number.
		r.steps[w.name] = &Step{Name: w.name, Of: task, Dir: fmt.Sprintf("%s.%d", task, w.item), Status: Pending, Outputs: map[string]string{}, Artifacts: map[string]string{}}
	}
	r.mu.Unlock()
	r.change(task, func(s *Step) { s.Status, s.Items, s.Attempts = Running, len(works), 1 })
}

// start decides whether task i runs and with what; a status means it does not.
func (r *run) start(g *graph, i int, at place, path string, ends []Status, nodes []node, scope map[string]any, inputs map[string]artifact) (works []work, next place, status Status, err error) {
	task := g.tasks[i].DeepCopy()
	if next, err = r.w.target(at, task); err != nil {
		return
	}
	ready, err := g.ready(i, ends)
	if err != nil {
		return
	}
	if !ready {
		status = Omitted
		return
	}
	arts := map[string]artifact{}
	for _, a := range task.Arguments.Artifacts {
		if found, ok := findArtifact(a.From, g, nodes, inputs); ok {
			arts[a.Name] = found
		}
	}
	task.Arguments.Artifacts = nil
	// The condition first: arguments of a task that is skipped may refer to outputs that never came.
	condition, err := substitute(&wfv1.DAGTask{When: task.When}, scope)
	if err != nil {
		err = fmt.Errorf("task %q: %w", task.Name, err)
		return
	}
	yes, err := evaluateWhen(condition.When)
	if err != nil {
		err = fmt.Errorf("task %q: %w", task.Name, err)
		return
	}
	if !yes {
		status = Skipped
		return
	}
	if task.WithParam != "" {
		works, err = expand(task, scope)
	} else {
		var replaced *wfv1.DAGTask
		if replaced, err = substitute(task, scope); err == nil {
			works = []work{{name: task.Name, args: replaced.Arguments}}
		}
	}
	if err != nil {
		err = fmt.Errorf("task %q: %w", task.Name, err)
		return
	}
	for k := range works {
		w := &works[k]
		w.task, w.item, w.name, w.at, w.arts = i, -1, join(path, w.name), next, arts
		if task.WithParam != "" {
			w.item = k
		}
	}
	if len(works) == 0 {
		status = Skipped
	}
	return
}

// skip ends a task that never ran: its outputs are their defaults, as in Argo.
func (r *run) skip(path string, at place, status Status) node {
	n := node{status: status, outputs: map[string]any{}}
	for _, p := range at.template.Outputs.Parameters {
		n.outputs[p.Name] = nil
		if p.ValueFrom != nil && p.ValueFrom.Default != nil {
			n.outputs[p.Name] = p.ValueFrom.Default.String()
		}
	}
	r.mu.Lock()
	tasks := slices.Collect(maps.Keys(r.steps))
	r.mu.Unlock()
	for _, task := range tasks {
		if task == path || strings.HasPrefix(task, path+".") {
			r.change(task, func(s *Step) { s.Status, s.Outputs = status, stringOutputs(n.outputs) })
		}
	}
	return n
}

// publish makes a task's results visible to the tasks after it.
func (r *run) publish(scope map[string]any, task string, n node) {
	scope["tasks."+task+".status"] = string(n.status)
	for name, value := range n.outputs {
		scope["tasks."+task+".outputs.parameters."+name] = value
	}
}

func stringOutputs(outputs map[string]any) map[string]string {
	out := map[string]string{}
	for name, value := range outputs {
		if s, ok := value.(string); ok {
			out[name] = s
		}
	}
	return out
}

// findArtifact follows {{tasks.x.outputs.artifacts.y}} and {{inputs.artifacts.z}}.
func findArtifact(from string, g *graph, nodes []node, inputs map[string]artifact) (artifact, bool) {
	tag, _ := pureTag(from)
	if name, ok := strings.CutPrefix(tag, "inputs.artifacts."); ok {
		a, ok := inputs[name]
		return a, ok
	}
	for i, t := range g.tasks {
		if name, ok := strings.CutPrefix(tag, "tasks."+t.Name+".outputs.artifacts."); ok {
			a, ok := nodes[i].artifacts[name]
			return a, ok
		}
	}
	return artifact{}, false
}

// change updates a step and tells the observer.
func (r *run) change(task string, update func(*Step)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.steps[task]
	update(s)
	if s.Status == Failed || s.Status == Errored {
		if r.failure == 0 {
			r.failure = s.ExitCode
		}
	}
	if r.o.Observe != nil {
		snapshot := *s
		snapshot.Outputs, snapshot.Artifacts = maps.Clone(s.Outputs), maps.Clone(s.Artifacts)
		r.o.Observe(Event{Task: task, Of: s.Of, Status: s.Status, Changed: true, Step: snapshot})
	}
}

// tell passes something on to the observer.
func (r *run) tell(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.o.Observe != nil {
		e.Status, e.Of = r.steps[e.Task].Status, r.steps[e.Task].Of
		r.o.Observe(e)
	}
}

// folder is the name of a task's directory.
func (r *run) folder(task string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.steps[task].Dir
}

// taskDir is where a task leaves its log and outputs.
func (r *run) taskDir(task string) (string, error) {
	dir := filepath.Join(r.o.Dir, r.folder(task))
	return dir, os.MkdirAll(dir, 0o755)
}
