// Package promotemodeltostaging is the step that moves the registry's alias to the evaluated model version, if it passed.
package promotemodeltostaging

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/lineage"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
)

// Tags of a promoted version. Those with an alias in their name come after a dot: insitu.promoted-at.staging.
const (
	tagPromotedAt = "insitu.promoted-at."
	tagPrevious   = registry.TagPrevious
	tagReason     = "insitu.promoted-because."
	tagLive       = registry.TagLive
)

// Spec declares the step.
func Spec() step.Spec {
	zero, one := 0.0, 1.0
	flags := []step.Flag{
		{Name: "model-name", Usage: "registered model", Required: true},
		{Name: "model-version", Usage: "version to promote: the evaluated one", Kind: step.Int, Min: &one, Required: true},
		{Name: "passed", Usage: "whether the version passed the evaluation", Kind: step.Bool, Required: true},
		{Name: "reason", Usage: "why it passed or not, as evaluate-model said"},
		{Name: "alias", Usage: "alias to move", Default: "staging"},
		{Name: "activate", Usage: "whether the version is to become the active one; false: it is to be deployed as a challenger, and the alias stays where it is", Kind: step.Bool, Default: "true"},
		{Name: "tolerance", Usage: "with --live-evidence: how far the accuracy on live calls may lie below the holder's", Kind: step.Float, Default: "0.01", Min: &zero, Max: &one},
		{Name: "champion-version", Usage: "version it was compared with, as evaluate-model said; when set, another one must not hold the alias by now", Kind: step.Int, Min: &one},
		{Name: "approval", Usage: "what a person decided who was asked; when unset, nobody was", Enum: []string{approved, rejected}},
		{Name: "approver", Usage: "who decided, as that person typed it"},
		{Name: "approval-labels", Usage: "labels of the Argo workflow, of which those about the actor say who resumed it", Kind: step.JSON},
	}
	flags = append(flags, services.MLflowFlags()...)
	flags = append(flags, services.LiveEvidenceFlags()...)
	return step.Spec{
		Name:    "promote-model-to-staging",
		Summary: "Moves the registry alias to exactly the evaluated version, if it passed",
		Description: "The alias moves in one call to the version that was evaluated, never to a guessed one; the holder until then is the output `previous-version`. " +
			"The version is tagged before: `insitu.promoted-at.<alias>`, `insitu.previous-version.<alias>` and `insitu.promoted-because.<alias>`; " +
			"digests, metrics and `git_sha` are its tags since train-model and evaluate-model. " +
			"The aliases staging and production also set the stage of that name where the server still has stages.\n\n" +
			"Where a person was asked, `--approval` is the answer, and the version gets the tags `insitu.approval.<alias>` (`approve` or `reject`), `insitu.approved-by.<alias>` and `insitu.approved-at.<alias>`. " +
			"Who decided is taken from the workflow's labels, which Argo's server sets for whoever resumes it (`workflows.argoproj.io/actor-preferred-username`, `-email` or `actor`), with the name from `--approver` after it in parentheses; that name alone where there are no such labels. " +
			"A rejected version is not promoted: `promoted` is `false`, the alias stays where it is, and the step ends with exit code 0. " +
			"Nobody can approve a version that did not pass.\n\n" +
			"With `--live-evidence` the calls count, too, that a shadow or canary sent to both the version and the holder of the alias, as for evaluate-model: too few of them, an error, or less accuracy refuse the version. " +
			"So a version that was evaluated and deployed as a challenger is promoted once there is evidence, with nothing evaluated anew; the verdict becomes the tag `insitu.live-evidence`.\n\n" +
			"With `--activate=false` nothing is promoted: `accepted` says whether the version may be deployed as a challenger, and the decision of a person is recorded.\n\n" +
			"A version that did not pass is refused: nothing changes, `promoted` is `false`, the log says why, and the step ends with exit code 0, because that is a result and no failure. " +
			"A version that was compared with one champion while another pipeline promoted another one was never compared with that: the step fails, nothing changes, and the pipeline must run again. " +
			"Running the step again changes nothing.",
		Flags: flags,
		Outputs: []step.Output{
			{Name: "accepted", Usage: "true if the version passed and was not rejected: it may be deployed"},
			{Name: "promoted", Usage: "true if the version passed, was not rejected and holds the alias now, else false"},
			{Name: "model-version", Usage: "version that holds the alias now; empty if none does"},
			{Name: "previous-version", Usage: "version that held the alias before this one; empty if none did"},
		},
		Examples: []step.Example{{
			Text:    "Promote version 4 of cifar_cnn",
			Command: "promote-model-to-staging --model-name=cifar_cnn --model-version=4 --passed=true",
		}, {
			Text:    "Promote version 4 if 500 live calls speak for it",
			Command: "promote-model-to-staging --model-name=cifar_cnn --model-version=4 --passed=true --live-evidence=500 --inference-schema=team-a",
		}, {
			Text:    "Record that Jane rejected it",
			Command: "promote-model-to-staging --model-name=cifar_cnn --model-version=4 --passed=true --approval=reject --approver=Jane",
		}},
		Run: run,
	}
}

func run(ctx context.Context, in *step.Input) error {
	mlflow := services.MLflow(in)
	p := promotion{
		model: in.String("model-name"), version: in.Int("model-version"), alias: in.String("alias"), reason: in.String("reason"), champion: in.Int("champion-version"),
		approval: newApproval(in.String("approval"), in.String("approver"), in.JSON("approval-labels")), log: in.Log, now: time.Now,
	}
	passed := in.Bool("passed")
	if err := in.Validate(mlflow.Check(), registry.CheckAlias(p.alias), services.CheckLiveEvidence(in)); err != nil {
		return err
	}
	models, err := registry.New(mlflow.Registry())
	if err != nil {
		return err
	}
	p.models = models
	in.Reads(lineage.Model{Registry: models.Address(), Name: p.model, Version: p.version})
	promoted, accepted, holder, previous := false, false, 0, 0
	if passed && in.IsSet("live-evidence") {
		if passed, err = p.weighLive(ctx, services.Inference(in), in.String("inference-schema"), in.Int("live-evidence"), in.Float("tolerance")); err != nil {
			return err
		}
	}
	switch {
	case !passed:
		holder, err = p.refuse(ctx)
	case p.approval.decision == rejected:
		holder, err = p.reject(ctx)
	case !in.Bool("activate"):
		accepted = true
		holder, err = p.accept(ctx)
	default:
		promoted, accepted, holder = true, true, p.version
		previous, err = p.promote(ctx)
	}
	if err != nil {
		return err
	}
	in.Output("accepted", strconv.FormatBool(accepted))
	in.Output("promoted", strconv.FormatBool(promoted))
	in.Output("model-version", number(holder))
	in.Output("previous-version", number(previous))
	return nil
}

// promotion moves an alias.
type promotion struct {
	models *registry.Client
	model  string
	// version is the evaluated one.
	version       int
	alias, reason string
	champion      int // version it was compared with, 0 if that is not known or there was none
	approval      approval
	log           *zap.Logger
	now           func() time.Time
}

// promote gives the alias to the version and returns who held it before, 0 for nobody.
// It tags first and moves last: a version that holds the alias has its tags, whenever the step is killed.
func (p promotion) promote(ctx context.Context) (previous int, err error) {
	version, err := p.models.ModelVersion(ctx, p.model, p.version)
	if err != nil {
		return 0, err
	}
	holder, err := p.holder(ctx)
	if err != nil {
		return 0, err
	}
	if holder.Version == p.version {
		if err := p.record(ctx, version); err != nil {
			return 0, err
		}
		previous, _ = strconv.Atoi(version.Tags[tagPrevious+p.alias]) // empty: nobody
		p.log.Info("the version holds the alias already", zap.String("model", p.model), zap.Int("version", p.version), zap.String("alias", p.alias))
		return previous, p.stage(ctx, version)
	}
	if p.champion != 0 && holder.Version != 0 && holder.Version != p.champion {
		return 0, fault.AsPermanent(fmt.Errorf("promote model %q version %d: it was compared with version %d, but version %d holds the alias %q by now; run the pipeline again, which compares with that",
			p.model, p.version, p.champion, holder.Version, p.alias))
	}
	if err := p.record(ctx, version); err != nil {
		return 0, err
	}
	if err := p.tag(ctx, []tag{
		{tagPrevious + p.alias, number(holder.Version)},
		{tagReason + p.alias, p.reason},
		{tagPromotedAt + p.alias, p.now().UTC().Format(time.RFC3339)},
	}); err != nil {
		return 0, err
	}
	if err := p.models.SetAlias(ctx, p.model, p.alias, p.version); err != nil {
		return 0, err
	}
	p.log.Info("the alias moved", zap.String("model", p.model), zap.String("alias", p.alias), zap.Int("version", p.version), zap.String("previous", number(holder.Version)))
	return holder.Version, p.stage(ctx, version)
}

// refuse leaves everything as it is and returns the version that holds the alias, 0 if none does.
func (p promotion) refuse(ctx context.Context) (int, error) {
	p.log.Warn("refused: the version did not pass", zap.String("model", p.model), zap.Int("version", p.version), zap.String("reason", p.reason))
	v, err := p.holder(ctx)
	return v.Version, err
}

// accept records that the version may be deployed as a challenger and returns the version that holds the alias, 0 if none does.
func (p promotion) accept(ctx context.Context) (int, error) {
	version, err := p.models.ModelVersion(ctx, p.model, p.version)
	if err != nil {
		return 0, err
	}
	if err := p.record(ctx, version); err != nil {
		return 0, err
	}
	p.log.Info("accepted as a challenger: the alias stays where it is", zap.String("model", p.model), zap.Int("version", p.version), zap.String("alias", p.alias))
	holder, err := p.holder(ctx)
	return holder.Version, err
}

// weighLive says whether live calls speak for the version; if not, it becomes the reason to refuse it.
func (p *promotion) weighLive(ctx context.Context, database postgres.Config, schema string, least int, tolerance float64) (bool, error) {
	holder, err := p.holder(ctx)
	if err != nil || holder.Version == p.version { // promoted before: it has no champion to be compared with any more
		return err == nil, err
	}
	l := evaluation.Live{Candidate: p.version}
	if holder.Version != 0 {
		if l, err = inference.AskLive(ctx, database, schema, p.model, p.version, holder.Version); err != nil {
			return false, err
		}
	}
	d := l.Decide(least, tolerance)
	p.log.Info("live evidence", zap.Bool("passed", d.Passed), zap.String("reason", d.Reason), zap.Any("calls", l))
	if err := p.tag(ctx, []tag{{tagLive, d.Reason}}); err != nil {
		return false, err
	}
	if !d.Passed {
		p.reason = "live evidence: " + d.Reason
	} else {
		p.reason = strings.TrimPrefix(p.reason+"; live evidence: "+d.Reason, "; ")
	}
	return d.Passed, nil
}

// reject records that a person rejected the version and returns the version that holds the alias, 0 if none does.
func (p promotion) reject(ctx context.Context) (int, error) {
	version, err := p.models.ModelVersion(ctx, p.model, p.version)
	if err != nil {
		return 0, err
	}
	holder, err := p.holder(ctx)
	if err != nil {
		return 0, err
	}
	if err := p.record(ctx, version); err != nil {
		return 0, err
	}
	message := "rejected: the alias stays where it is"
	if holder.Version == p.version {
		message = "rejected, but the version holds the alias since an earlier promotion and keeps it"
	}
	p.log.Warn(message, zap.String("model", p.model), zap.Int("version", p.version), zap.String("alias", p.alias), zap.String("by", p.approval.by))
	return holder.Version, nil
}

// tag is one of a version.
type tag struct{ name, value string }

func (p promotion) tag(ctx context.Context, tags []tag) error {
	for _, t := range tags {
		if err := p.models.SetVersionTag(ctx, p.model, p.version, t.name, t.value); err != nil {
			return err
		}
	}
	return nil
}

// holder is the version that holds the alias, version 0 if none does.
func (p promotion) holder(ctx context.Context) (registry.ModelVersion, error) {
	v, err := p.models.Alias(ctx, p.model, p.alias)
	if errors.Is(err, registry.ErrNotFound) {
		return registry.ModelVersion{}, nil
	}
	return v, err
}

// stage sets the legacy stage that has the alias's name, if there is one and the server still has stages.
func (p promotion) stage(ctx context.Context, version registry.ModelVersion) error {
	supported, err := p.models.FollowAlias(ctx, version, p.alias)
	if err == nil && !supported {
		p.log.Info("the registry has no stages; the alias alone says what is promoted", zap.String("alias", p.alias))
	}
	return err
}

// number prints a version; nobody's is empty.
func number(version int) string {
	if version == 0 {
		return ""
	}
	return strconv.Itoa(version)
}
