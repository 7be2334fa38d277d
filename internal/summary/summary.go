// Package summary says to a person how a run of the pipeline ended: what failed, what that means and what to do about it.
//
// It is the text of the exit handler on a cluster and of insitu run. It asks no service: it knows what it is told.
package summary

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Run is a run that has ended.
type Run struct {
	Workflow  string
	Namespace string // "" for a run on this machine
	Status    string // Argo's words: Succeeded, Failed, Error
	Took      time.Duration
	Failures  []Failure
}

// Failure is a step that failed, in all its attempts or in some.
type Failure struct {
	Step      string
	ExitCode  int    // 0 if there is none: the step did not run to its end
	Message   string // of the last attempt
	Attempts  int    // that failed
	Recovered bool   // a later attempt succeeded
	Log       string // what shows the step's log; "" if nothing does
}

// Headline says in one line how the run ended.
func (r Run) Headline() string {
	switch r.Status {
	case "Succeeded":
		return fmt.Sprintf("%s succeeded in %s", r.Workflow, duration(r.Took))
	case "Error":
		return fmt.Sprintf("%s ended in an error after %s", r.Workflow, duration(r.Took))
	}
	return fmt.Sprintf("%s failed after %s", r.Workflow, duration(r.Took))
}

func duration(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// Write tells all there is to tell.
func (r Run) Write(w io.Writer) error {
	var b strings.Builder
	b.WriteString(r.Headline() + "\n")
	failures := slices.Clone(r.Failures)
	slices.SortStableFunc(failures, func(a, b Failure) int { return compareBool(a.Recovered, b.Recovered) })
	for _, f := range failures {
		if f.Recovered {
			fmt.Fprintf(&b, "\n%s failed %s and was tried again with success: %s\n", f.Step, times(f.Attempts), f.Message)
			continue
		}
		m := meaning(f)
		b.WriteString("\n" + f.Step + " failed")
		if f.ExitCode != 0 {
			fmt.Fprintf(&b, " with exit code %d", f.ExitCode)
		}
		if f.Attempts > 1 {
			b.WriteString(" " + times(f.Attempts))
		}
		b.WriteString(": " + m.what + "\n")
		if f.Message != "" {
			b.WriteString("  " + strings.ReplaceAll(f.Message, "\n", "\n  ") + "\n")
		}
		b.WriteString("  What to do: " + m.do + "\n")
		if f.Log != "" {
			b.WriteString("  Log: " + f.Log + "\n")
		}
	}
	if r.Status != "Succeeded" && len(r.Failures) == 0 {
		b.WriteString("\nNo step failed: the workflow was stopped, or Argo could not start a step.\n")
		if r.Namespace != "" {
			fmt.Fprintf(&b, "  What to do: argo get -n %s %s\n", r.Namespace, r.Workflow)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

// advice is what a way to fail means and what helps.
type advice struct{ what, do string }

// meaning follows docs/container-contract.md and points at docs/troubleshooting.md.
func meaning(f Failure) advice {
	const overview = "; see docs/troubleshooting.md"
	see := func(section string) string { return fmt.Sprintf("%s, %q", overview, section) }
	switch f.ExitCode {
	case 1:
		return advice{"the input or the program", "correct what the message names; trying again does not help" + see("Exit code 1: the input or the program")}
	case 2:
		return advice{"a setting, a credential, a grant or a missing part of an installation", "set what the message names, then run it again" + see("Exit code 2: settings, credentials, grants")}
	case 64:
		return advice{"Argo's executor", "kubectl describe the pod, and read the log of its container wait" + overview}
	case 75:
		return advice{"something temporary did not pass", "when the service in the message answers, run it again: it goes on where it was" + see("Exit code 75: temporary")}
	case 130, 143:
		return advice{"it was stopped", "run it again: its work in the database was cancelled, nothing is half done" + overview}
	case 137:
		return advice{"it was killed, most likely for want of memory", "raise the step's memory limit, then run it again" + overview}
	case 0:
		switch {
		case strings.Contains(f.Message, "shutdown with strategy"), strings.Contains(f.Message, "topped with strategy"):
			return advice{"the workflow was stopped", "run it again: its work in the database was cancelled, nothing is half done" + overview}
		case strings.Contains(f.Message, "deadline"):
			return advice{"it took longer than it may", "if the work is that long, raise activeDeadlineSeconds" + see("Nothing happens for a long time")}
		}
		return advice{"its pod did not run to its end", "if the message names a cause in the cluster, remove it; then run it again: it goes on where it was" + overview}
	}
	return advice{"an unknown cause", "read its log" + overview}
}
