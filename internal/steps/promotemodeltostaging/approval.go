package promotemodeltostaging

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/registry"
)

// Decisions of a person who was asked.
const (
	approved = "approve"
	rejected = "reject"
)

// Tags that keep the decision; the alias comes after the dot, as in insitu.approval.staging.
const (
	tagApproval   = "insitu.approval."
	tagApprovedBy = "insitu.approved-by."
	tagApprovedAt = "insitu.approved-at."
)

// maxTag is how many bytes of a name are kept; MLflow takes 5000 of a tag.
const maxTag = 1000

// approval is what a person decided about promoting a version.
type approval struct {
	decision string // approved, rejected; "" if nobody was asked
	by       string // "" if nobody can tell
}

// newApproval names who decided: the person whom Argo's server saw resume the workflow, and whom the person typed.
func newApproval(decision, typed string, labels map[string]any) approval {
	if decision == "" {
		return approval{}
	}
	by := actor(labels)
	switch {
	case by == "":
		by = typed
	case typed != "" && typed != by:
		by = fmt.Sprintf("%s (%s)", by, typed)
	}
	return approval{decision, strings.ToValidUTF8(by[:min(len(by), maxTag)], "")}
}

// actor is who last did something to the workflow, if that was to let it go on; "" if the labels do not say so.
// Argo's server and its command set them; a workflow that is patched with kubectl has none. They are labels: whoever may update workflows can write them.
func actor(labels map[string]any) string {
	label := func(name string) string {
		text, _ := labels["workflows.argoproj.io/"+name].(string)
		return text
	}
	// Setting a node's outputs leaves no action. Whoever stopped or retried the workflow later did not decide.
	if !slices.Contains([]string{"", "Resume", "Update"}, label("action")) {
		return ""
	}
	for _, name := range []string{"actor-preferred-username", "actor-email", "actor"} {
		if who := label(name); who != "" {
			return who
		}
	}
	return ""
}

// record writes who decided what and when, unless the version's tags say so already.
func (p promotion) record(ctx context.Context, version registry.ModelVersion) error {
	a := p.approval
	if a.decision == "" {
		return nil
	}
	if a.by == "" && version.Tags[tagApproval+p.alias] == a.decision {
		a.by = version.Tags[tagApprovedBy+p.alias] // a later attempt of the step may know less than the first
	}
	// The time comes last: with it, the others are there, whenever the step is killed.
	decided := version.Tags[tagApprovedAt+p.alias]
	if decided != "" && version.Tags[tagApproval+p.alias] == a.decision && version.Tags[tagApprovedBy+p.alias] == a.by {
		return nil
	}
	p.log.Info("a person decided", zap.String("model", p.model), zap.Int("version", p.version), zap.String("decision", a.decision), zap.String("by", a.by))
	tags := []tag{{tagApproval + p.alias, a.decision}, {tagApprovedBy + p.alias, a.by}, {tagApprovedAt + p.alias, p.now().UTC().Format(time.RFC3339)}}
	if decided != "" { // by somebody else, or the other way: that time must not stand beside the new decision
		tags = append([]tag{{tagApprovedAt + p.alias, ""}}, tags...)
	}
	return p.tag(ctx, tags)
}
