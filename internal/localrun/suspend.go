package localrun

import (
	"errors"
	"fmt"
	"strings"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

// Waits says which tasks would wait for a person: those that suspend and whose condition the workflow's parameters alone
// do not rule out. A local run asks nobody, and must not find that out after an hour of training.
func (w *Workflow) Waits() error {
	var problems []error
	globals := w.globals("")
	for path, at := range w.roots() {
		problems = append(problems, w.waits(path, at, globals))
	}
	return errors.Join(problems...)
}

func (w *Workflow) waits(path string, at place, globals map[string]any) error {
	if at.template.DAG == nil {
		return nil
	}
	var problems []error
	for i := range at.template.DAG.Tasks {
		t := &at.template.DAG.Tasks[i]
		next, err := w.target(at, t)
		switch {
		case err != nil || never(t.When, globals): // a missing target is found elsewhere
		case next.template.Suspend != nil:
			problem := fmt.Errorf("task %q waits for a person, which insitu run cannot", join(path, t.Name))
			if t.When != "" {
				problem = fmt.Errorf("%w: set the parameters so that its condition does not hold (%s), or submit the workflow to Argo", problem, t.When)
			}
			problems = append(problems, problem)
		default:
			problems = append(problems, w.waits(join(path, t.Name), next, globals))
		}
	}
	return errors.Join(problems...)
}

// never tells whether a task's condition is false before anything has run.
func never(when string, globals map[string]any) bool {
	parts := []string{when}
	if !strings.Contains(when, "||") {
		parts = strings.Split(when, "&&") // one part that is false is enough
	}
	for _, part := range parts {
		known, err := substitute(&wfv1.DAGTask{When: part}, globals)
		if err != nil {
			continue // it needs what a task leaves
		}
		if yes, err := evaluateWhen(strings.TrimSpace(known.When)); err == nil && !yes {
			return true
		}
	}
	return false
}
