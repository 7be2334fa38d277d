package summary

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// node is one element of Argo's {{workflow.failures}}: any node that failed, pods and what contains them.
type node struct {
	DisplayName string    `json:"displayName"`
	Message     string    `json:"message"`
	PodName     string    `json:"podName"`
	FinishedAt  time.Time `json:"finishedAt"`
}

// FromArgo reads what Argo tells an exit handler: the workflow's status, its duration in seconds, and the failed nodes
// as JSON, which Argo puts in quotes. What cannot be read is an error beside the run as far as it is known.
func FromArgo(workflow, namespace, status, seconds, failures string) (Run, error) {
	r := Run{Workflow: workflow, Namespace: namespace, Status: status}
	var problem error
	if s, err := strconv.ParseFloat(strings.TrimSpace(seconds), 64); err == nil {
		r.Took = time.Duration(s * float64(time.Second))
	} else {
		problem = fmt.Errorf("the duration %q is no number of seconds", seconds)
	}
	text := strings.TrimSpace(failures)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	var nodes []node
	if text != "" {
		if err := json.Unmarshal([]byte(text), &nodes); err != nil {
			return r, fmt.Errorf("the failures are not Argo's: %w", err)
		}
	}
	r.Failures = r.fold(nodes)
	return r, problem
}

// exited matches the message of a container that ended: "main: Error (exit code 2): what it said".
var exited = regexp.MustCompile(`(?s)^(?:([a-z0-9-]+): )?(\w+) \(exit code (\d+)\)(?:: (.*))?$`)

// attempted matches the name of an attempt: train-model(2).
var attempted = regexp.MustCompile(`^(.*)\((\d+)\)$`)

// fold makes one failure of a step's attempts, and leaves out the nodes that failed because others in them did.
//
// A step that is tried again is a node of its own name around its attempts; it fails when the last of them has.
// A container of a set is a node of its own name beside that of its pod, with the same message.
func (r Run) fold(nodes []node) []Failure {
	slices.SortStableFunc(nodes, func(a, b node) int {
		return cmp.Or(a.FinishedAt.Compare(b.FinishedAt), cmp.Compare(a.DisplayName, b.DisplayName))
	})
	attempts, around := map[string][]node{}, map[string][]node{}
	var names []string
	containers := map[string]bool{} // messages that a container's own node has
	for _, n := range nodes {
		name, into := n.DisplayName, around
		if m := attempted.FindStringSubmatch(n.DisplayName); m != nil {
			name, into = m[1], attempts
		}
		into[name] = append(into[name], n)
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		if m := exited.FindStringSubmatch(n.Message); m != nil && m[1] == name {
			containers[n.Message] = true
		}
	}
	var out []Failure
	for _, name := range names {
		tries := attempts[name]
		if len(tries) == 0 {
			tries = around[name]
		}
		last := tries[len(tries)-1]
		m := exited.FindStringSubmatch(last.Message)
		container := m != nil && m[1] == name
		group := m == nil && len(attempts[name]) == 0 && (last.Message == "" || strings.HasPrefix(last.Message, "child "))
		waited := container && strings.HasPrefix(m[4], "dependency ") // on another container of its set, which failed
		if name == r.Workflow || group && len(names) > 1 || waited || containers[last.Message] && !container {
			continue
		}
		f := Failure{Step: name, Message: last.Message, Attempts: len(tries), Recovered: len(around[name]) == 0 || r.Status == "Succeeded"}
		if m != nil {
			f.ExitCode, _ = strconv.Atoi(m[3])
			f.Message = m[4]
			if f.Message == "" && m[2] != "Error" {
				f.Message = m[2] // OOMKilled
			}
		}
		switch {
		case r.Namespace == "":
		case container:
			f.Log = fmt.Sprintf("argo logs -n %s %s -c %s", r.Namespace, r.Workflow, name)
		case last.PodName != "":
			f.Log = fmt.Sprintf("argo logs -n %s %s %s", r.Namespace, r.Workflow, last.PodName)
		}
		out = append(out, f)
	}
	return out
}
