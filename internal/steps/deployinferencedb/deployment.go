package deployinferencedb

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

// modules are what the deployed functions import.
func modules() []string { return []string{"numpy", "onnxruntime", "PIL"} }

// deployment brings one version into service as a whole, or not at all.
type deployment struct {
	log       *zap.Logger
	models    *registry.Client
	session   *changelog.Session
	target    changelog.Schema
	training  postgres.Config
	schema    string // in the training database
	version   inference.Version
	activate  bool // false: the version becomes a challenger, and nothing is switched
	alias     string
	keep      int
	rows      int
	tolerance inference.Tolerance
}

// done is what a deployment did.
type done struct {
	active    inference.Version
	previous  inference.Version // that was active before; none when nothing was to be switched
	added     []string
	changelog []byte
	parity    inference.Parity
}

// run deploys, and takes back what it did when it fails for good.
// After a temporary failure, or when it is stopped, it leaves what is done: the next run goes on from there.
func (d deployment) run(ctx context.Context) (done, error) {
	active, err := inference.Active(ctx, d.session.Conn, d.target.Name)
	if err != nil {
		return done{}, err
	}
	out, err := d.deploy(ctx)
	if err == nil || fault.Of(err) == fault.Temporary || ctx.Err() != nil {
		return out, err
	}
	note, failed := inference.TakeBack(ctx, d.session.Conn, d.target.Name, d.models, d.alias, d.version, active == d.version, err)
	if failed != nil {
		both := fmt.Errorf("%w; %w", err, failed)
		if fault.Of(failed) == fault.Temporary {
			both = fault.AsTemporary(both)
		}
		return done{}, both
	}
	return done{}, fmt.Errorf("%w; %s", err, note)
}

func (d deployment) deploy(ctx context.Context) (out done, err error) {
	name, number, schema, conn := d.version.Name, d.version.Version, d.target.Name, d.session.Conn
	model, err := inference.Fetch(ctx, d.models, name, number)
	if err != nil {
		return out, err
	}
	d.log.Info("fetched model", zap.String("name", name), zap.Int("version", number), zap.String("digest", model.Digest), zap.Int("bytes", len(model.ONNX)))
	base, err := changelog.Load(database.Inference, conn.Dialect)
	if err != nil {
		return out, err
	}
	if err := d.session.CheckServer(ctx, base, modules()); err != nil {
		return out, err
	}
	if out.added, out.changelog, err = inference.Deploy(ctx, d.session, schema, base, model); err != nil {
		return out, err
	}
	profile, err := inference.FetchProfile(ctx, d.models, d.version)
	if err != nil {
		return out, err
	}
	if profile == nil {
		d.log.Warn("the version has no profile, so its drift cannot be measured: it was trained or evaluated by an older release")
	} else if err := inference.StoreProfile(ctx, conn, schema, d.version, profile); err != nil {
		return out, err
	}
	if err := d.keepReport(ctx); err != nil {
		return out, err
	}
	tag := model.GitSHA
	if tag == "" {
		tag = model.Digest[:12]
	}
	if _, err := d.session.Tag(ctx, tag); err != nil {
		return out, err
	}
	if out.parity, err = d.compare(ctx, model); err != nil {
		return out, err
	}
	evidence, err := inference.Show(ctx, inference.Place{Conn: conn, Schema: schema}, d.version, out.parity)
	if err != nil {
		return out, err
	}
	if d.activate {
		err = d.switchOver(ctx, &out, evidence)
	} else {
		err = d.challenge(ctx, &out, evidence)
	}
	if err != nil {
		return out, err
	}
	// Old bytes harm nobody, and the next deployment tries again: a version in service is not taken back for them.
	gone, err := inference.Prune(ctx, conn, schema, d.keep)
	if err != nil {
		d.log.Warn("old versions are not pruned", zap.Error(err))
	}
	for _, v := range gone {
		d.log.Info("pruned the bytes of an old version", zap.String("name", v.Name), zap.Int("version", v.Version))
	}
	return out, nil
}

// keepReport stores the evaluation report with the version; a version without one is served all the same.
func (d deployment) keepReport(ctx context.Context) error {
	html, err := inference.FetchReport(ctx, d.models, d.version)
	if errors.Is(err, inference.ErrNoReport) {
		d.log.Warn("the version is served without its evaluation report", zap.Error(err))
		return nil
	}
	if err != nil {
		return err
	}
	return inference.KeepReport(ctx, d.session.Conn, d.target.Name, d.version, html)
}

// switchOver makes the version the active one, and the alias's.
func (d deployment) switchOver(ctx context.Context, out *done, evidence inference.Evidence) (err error) {
	name, number, schema, conn := d.version.Name, d.version.Version, d.target.Name, d.session.Conn
	if out.previous, err = inference.Activate(ctx, conn, schema, d.version, evidence); err != nil {
		return err
	}
	out.active = d.version
	d.log.Info("model is active", zap.String("name", name), zap.Int("version", number), zap.Any("previous", out.previous))
	moved, err := inference.MoveAlias(ctx, conn, schema, d.models, d.alias, d.version)
	if err != nil {
		return fmt.Errorf("model %q version %d is active, but the alias %q does not name it: %w", name, number, d.alias, err)
	}
	if moved {
		d.log.Info("the alias moved", zap.String("alias", d.alias), zap.Int("version", number))
	}
	return nil
}

// challenge leaves everything as it is: set_route may send the version a share of the calls from now on.
func (d deployment) challenge(ctx context.Context, out *done, evidence inference.Evidence) (err error) {
	if err := d.noticeStray(ctx); err != nil {
		return err
	}
	if out.active, err = inference.Challenge(ctx, d.session.Conn, d.target.Name, d.version, evidence); err != nil {
		return err
	}
	if out.active == d.version {
		d.log.Warn("the version is active and stays so: it cannot be its own challenger", zap.String("name", d.version.Name), zap.Int("version", d.version.Version))
		return nil
	}
	d.log.Info("model is a challenger: set_route sends it a share of the calls", zap.String("name", d.version.Name), zap.Int("version", d.version.Version), zap.Any("active", out.active))
	return nil
}

// noticeStray says so when the alias names neither the active version nor the one that is deployed, which a switch would mend:
// Liquibase, which does not know the registry, may have rolled back, or somebody moved the alias by hand.
func (d deployment) noticeStray(ctx context.Context) error {
	active, err := inference.Active(ctx, d.session.Conn, d.target.Name)
	if err != nil || active.Name != d.version.Name {
		return err
	}
	holder, err := inference.Holder(ctx, d.models, d.version.Name, d.alias)
	if err != nil {
		return err
	}
	if holder != 0 && holder != active.Version && holder != d.version.Version {
		d.log.Warn("the alias does not name the active version", zap.String("alias", d.alias), zap.Int("names", holder), zap.Int("active", active.Version),
			zap.String("to move it", fmt.Sprintf("insitu rollback --inference-schema %s --to %d", d.target.Name, active.Version)))
	}
	return nil
}

// compare predicts by the model in both databases and refuses one that is further apart than the tolerance.
func (d deployment) compare(ctx context.Context, model inference.Model) (inference.Parity, error) {
	learner, err := postgres.Connect(ctx, d.training, postgres.Options{})
	if err != nil {
		return inference.Parity{}, err
	}
	defer learner.Close()
	parity, err := inference.CheckParity(ctx, inference.Place{Conn: learner, Schema: d.schema}, inference.Place{Conn: d.session.Conn, Schema: d.target.Name}, model, d.rows, d.tolerance)
	if err != nil {
		return parity, err
	}
	for _, p := range parity.Pairs {
		d.log.Info("compared predictions", zap.String("a", p.A), zap.String("b", p.B), zap.Int("rows", parity.Rows),
			zap.Float64("max_abs_diff", p.MaxAbsDiff), zap.Int("disagreements", p.Disagreements))
	}
	if err := parity.Check(d.tolerance); err != nil {
		return parity, fmt.Errorf("model %q version %d was not %s: %w", d.version.Name, d.version.Version, map[bool]string{true: "activated", false: "accepted as a challenger"}[d.activate], err)
	}
	return parity, nil
}
