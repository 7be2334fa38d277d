package localrun

import (
	"fmt"
	"regexp"
	"strings"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/util/expr/argoexpr"
)

// graph is the order of a DAG's tasks. Tasks are named by their index.
type graph struct {
	tasks   []wfv1.DAGTask
	depends []string // each task's condition, with bare names spelled out as Argo does
	needs   [][]int  // the tasks each condition names
	order   []int    // every task after those it needs
	leaf    []bool   // no other task needs it
}

// taskResult is what a condition like "train.Succeeded" sees of a finished task.
type taskResult struct {
	Succeeded, Failed, Errored, Skipped, Omitted, Daemoned bool
}

// dependency matches a task's name with or without a result: train-model, train-model.Succeeded.
const dependency = `([a-zA-Z0-9][-a-zA-Z0-9]*)(\.[A-Z][a-zA-Z]+)?`

func newGraph(dag *wfv1.DAGTemplate) (*graph, error) {
	g := &graph{tasks: dag.Tasks, depends: make([]string, len(dag.Tasks)), needs: make([][]int, len(dag.Tasks)), leaf: make([]bool, len(dag.Tasks))}
	index := map[string]int{}
	for i, t := range g.tasks {
		if _, twice := index[t.Name]; twice {
			return nil, fmt.Errorf("two tasks are named %q", t.Name)
		}
		index[t.Name] = i
		g.leaf[i] = true
	}
	pattern := regexp.MustCompile(dependency)
	for i, t := range g.tasks {
		condition := t.Depends
		if condition == "" {
			condition = strings.Join(t.Dependencies, " && ")
		} else if len(t.Dependencies) > 0 {
			return nil, fmt.Errorf("task %q has both depends and dependencies", t.Name)
		}
		scope := map[string]taskResult{}
		var missing error
		g.depends[i] = pattern.ReplaceAllStringFunc(condition, func(match string) string {
			parts := pattern.FindStringSubmatch(match)
			need, ok := index[parts[1]]
			if !ok {
				missing = fmt.Errorf("task %q depends on task %q, which does not exist", t.Name, parts[1])
				return match
			}
			g.needs[i] = append(g.needs[i], need)
			g.leaf[need] = false
			name := variable(parts[1])
			scope[name] = taskResult{}
			if parts[2] != "" {
				return name + parts[2]
			}
			return fmt.Sprintf("(%[1]s.Succeeded || %[1]s.Skipped || %[1]s.Daemoned)", name)
		})
		if missing != nil {
			return nil, missing
		}
		if condition == "" {
			continue
		}
		if _, err := argoexpr.EvalBool(g.depends[i], scope); err != nil {
			return nil, fmt.Errorf("task %q depends on %q: %w", t.Name, condition, err)
		}
	}
	return g, g.sort()
}

// variable is a task's name as an identifier of the expression language.
func variable(task string) string { return strings.ReplaceAll(task, "-", "_") }

func (g *graph) sort() error {
	state := make([]int, len(g.tasks)) // 0 unseen, 1 on the way, 2 placed
	var visit func(i int) error
	visit = func(i int) error {
		switch state[i] {
		case 1:
			return fmt.Errorf("task %q depends on itself", g.tasks[i].Name)
		case 2:
			return nil
		}
		state[i] = 1
		for _, need := range g.needs[i] {
			if err := visit(need); err != nil {
				return err
			}
		}
		state[i] = 2
		g.order = append(g.order, i)
		return nil
	}
	for i := range g.tasks {
		if err := visit(i); err != nil {
			return err
		}
	}
	return nil
}

// ancestors are all tasks that end before task i starts.
func (g *graph) ancestors(i int) map[string]int {
	out := map[string]int{}
	var visit func(i int)
	visit = func(i int) {
		for _, need := range g.needs[i] {
			if _, seen := out[g.tasks[need].Name]; !seen {
				out[g.tasks[need].Name] = need
				visit(need)
			}
		}
	}
	visit(i)
	return out
}

// ready tells whether task i may start, given the ends of the tasks it needs.
func (g *graph) ready(i int, ends []Status) (bool, error) {
	if g.depends[i] == "" {
		return true, nil
	}
	scope := map[string]taskResult{}
	for _, need := range g.needs[i] {
		scope[variable(g.tasks[need].Name)] = taskResult{
			Succeeded: ends[need] == Succeeded, Failed: ends[need] == Failed,
			Errored: ends[need] == Errored, Skipped: ends[need] == Skipped, Omitted: ends[need] == Omitted,
		}
	}
	ok, err := argoexpr.EvalBool(g.depends[i], scope)
	if err != nil {
		return false, fmt.Errorf("task %q depends on %q: %w", g.tasks[i].Name, g.depends[i], err)
	}
	return ok, nil
}

// failed tells whether a DAG's result is a failure: a branch that ends in a failed task, or in tasks omitted because
// of one. A failure that a later task took up (depends: "a.Failed") and survived is none, as in Argo.
func (g *graph) failed(ends []Status) bool {
	branch := make([]bool, len(g.tasks))
	failed := false
	for _, i := range g.order {
		switch ends[i] {
		case Failed, Errored:
			branch[i] = true
		case Omitted:
			for _, need := range g.needs[i] {
				branch[i] = branch[i] || branch[need]
			}
		}
		failed = failed || g.leaf[i] && branch[i]
	}
	return failed
}
