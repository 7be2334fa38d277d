package localrun

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

// outcome is what an exit handler learns of the run.
type outcome struct {
	status   Status // Succeeded, Failed or Errored
	seconds  float64
	failures []failure
}

// failure is one element of {{workflow.failures}}.
type failure struct {
	DisplayName  string    `json:"displayName"`
	Message      string    `json:"message"`
	TemplateName string    `json:"templateName"`
	Phase        string    `json:"phase"`
	PodName      string    `json:"podName"`
	FinishedAt   time.Time `json:"finishedAt"`
}

// globals are the variables that only the exit handler has, written as Argo does: the failures are JSON within quotes.
func (o outcome) globals() map[string]any {
	text, err := json.Marshal(o.failures)
	if err != nil { // texts and times have JSON
		panic(err)
	}
	return map[string]any{
		"workflow.status": string(o.status), "workflow.duration": fmt.Sprintf("%f", o.seconds), "workflow.failures": strconv.Quote(string(text)),
	}
}

// exit runs the exit handler, if there is one, also when the run was stopped. Its own failure is told by its step alone:
// it comes too late to be the run's result, which Argo makes it when nothing else failed.
func (r *run) exit(ctx context.Context, o outcome) {
	at, found, err := r.w.exit()
	if !found || err != nil {
		return
	}
	r.mu.Lock()
	for _, s := range r.steps {
		if s.Status == Failed || s.Status == Errored {
			message := failedText(s.ExitCode, s.Message)
			if s.Items > 0 { // it failed because an item did
				message = ""
			}
			o.failures = append(o.failures, failure{
				DisplayName: s.Name, Message: message,
				TemplateName: s.Command, Phase: string(s.Status), FinishedAt: time.Now().UTC(),
			})
		}
	}
	r.mu.Unlock()
	slices.SortFunc(o.failures, func(a, b failure) int { return cmp.Compare(a.DisplayName, b.DisplayName) })
	for name, value := range o.globals() {
		r.globals[name] = value
	}
	r.template(context.WithoutCancel(ctx), ExitTask, at, wfv1.Arguments{}, nil)
}
