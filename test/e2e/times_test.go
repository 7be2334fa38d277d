package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

// steps are those of the pipeline in their order, the smoke test last; the first two run side by side.
func steps() []string {
	return []string{"upload-dataset", "deploy-training-code", "train-model", "evaluate-model", "promote-model-to-staging", "deploy-inference-db", "smoke"}
}

// logLines are the steps' log lines, by step.
type logLines map[string][]map[string]any

// logged is what the run's steps logged. It asks for the containers' logs because argo shows no other than main's,
// and has to be called while the pods are still there.
func (r *run) logged(t *testing.T) logLines {
	t.Helper()
	got := r.kubectl("logs", "-l", "workflows.argoproj.io/workflow="+r.name, "--all-containers", "--tail=-1", "--max-log-requests=50")
	if got.err != nil {
		t.Fatal(got.err)
	}
	out := logLines{}
	for line := range strings.Lines(got.stdout) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) != nil {
			continue
		}
		step, _ := fields["step"].(string)
		out[step] = append(out[step], fields)
	}
	return out
}

// find is the last line of a step with that message; nil when there is none.
func (l logLines) find(step, message string) map[string]any {
	for _, line := range slices.Backward(l[step]) {
		if line["msg"] == message {
			return line
		}
	}
	return nil
}

// timing is how long one run took.
type timing struct {
	pipeline, what string
	wall           time.Duration // of the workflow, as Argo has it, to the second
	released       time.Duration // of it, until the last step ended: the exit handler comes after
	pods           int
	inside         map[string]time.Duration // by step, as the step's own log says
}

// times are all runs that were timed.
var times struct {
	sync.Mutex
	list []timing
}

// timed remembers how long a run took, from the workflow and from what its steps logged.
func timed(t *testing.T, pipeline, what string, wf *wfv1.Workflow, lines logLines) {
	t.Helper()
	out := timing{pipeline: pipeline, what: what, wall: wf.Status.FinishedAt.Sub(wf.Status.StartedAt.Time), inside: map[string]time.Duration{}}
	for _, n := range wf.Status.Nodes {
		if n.Type == wfv1.NodeTypePod {
			out.pods++
		}
		if n.Name == wf.Name {
			out.released = n.FinishedAt.Sub(n.StartedAt.Time)
		}
	}
	for _, step := range steps() {
		line := lines.find(step, "step done")
		seconds, ok := line["seconds"].(float64)
		if !ok {
			t.Errorf("%s has not logged that it is done", step)
		}
		out.inside[step] = time.Duration(seconds * float64(time.Second))
	}
	times.Lock()
	defer times.Unlock()
	times.list = append(times.list, out)
}

// path is the time inside steps on the longest way through the pipeline.
func (x timing) path() (sum, longest time.Duration) {
	for _, d := range x.inside {
		sum += d
	}
	return sum, sum - min(x.inside["upload-dataset"], x.inside["deploy-training-code"])
}

// stepsInARow are on the longest way.
const stepsInARow = 5

// writeTimes writes a Markdown table of all timed runs to the file INSITU_E2E_TIMES, or to standard error.
func writeTimes() error {
	if len(times.list) == 0 {
		return nil
	}
	slices.SortFunc(times.list, func(a, b timing) int { return strings.Compare(a.pipeline+a.what, b.pipeline+b.what) })
	var b strings.Builder
	b.WriteString("| pipeline | run | wall time | of it until the last step's end | pods | in steps, sum | in steps, one after the other | overhead a step |\n|---|---|---|---|---|---|---|---|\n")
	for _, x := range times.list {
		sum, longest := x.path()
		fmt.Fprintf(&b, "| %s | %s | %.0f s | %.0f s | %d | %.1f s | %.1f s | %.1f s |\n", x.pipeline, x.what, x.wall.Seconds(), x.released.Seconds(), x.pods,
			sum.Seconds(), longest.Seconds(), (x.released-longest).Seconds()/stepsInARow)
	}
	b.WriteString("\n| pipeline | run | " + strings.Join(steps(), " | ") + " |\n|---|---" + strings.Repeat("|---", len(steps())) + "|\n")
	for _, x := range times.list {
		fmt.Fprintf(&b, "| %s | %s |", x.pipeline, x.what)
		for _, step := range steps() {
			fmt.Fprintf(&b, " %.2f s |", x.inside[step].Seconds())
		}
		b.WriteString("\n")
	}
	if file := os.Getenv("INSITU_E2E_TIMES"); file != "" {
		return os.WriteFile(file, []byte(b.String()), 0o644)
	}
	_, err := fmt.Fprint(os.Stderr, b.String())
	return err
}
