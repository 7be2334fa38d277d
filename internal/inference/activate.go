package inference

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// ChangelogPath is what databasechangelog.filename says.
const ChangelogPath = "insitu/inference"

// Version names a deployed model. The zero Version is none.
type Version struct {
	Name    string
	Version int
}

// Activate makes a deployed version the one that predictions use, in one transaction with its row in the ledger;
// if it is that already, nothing changes. It returns the version that was active before it.
func Activate(ctx context.Context, c *postgres.Conn, schema string, v Version, e Evidence) (previous Version, err error) {
	err = locked(ctx, c, schema, func(tx pgx.Tx) error {
		s, err := readState(ctx, tx, schema)
		if err != nil {
			return err
		}
		if n := len(s.log); s.active() == v {
			if n > 1 {
				previous = s.log[n-2].Version
			}
			return nil
		}
		previous = s.active()
		_, err = switchTo(ctx, tx, schema, activated, v, "", e.details(previous))
		return err
	})
	return previous, err
}

// Challenge enters a deployed version that is not switched to into the ledger: set_route may send it a share of the calls.
// If that stands there already, nothing changes. It returns the version that is active.
func Challenge(ctx context.Context, c *postgres.Conn, schema string, v Version, e Evidence) (active Version, err error) {
	err = locked(ctx, c, schema, func(tx pgx.Tx) error {
		s, err := readState(ctx, tx, schema)
		if err != nil {
			return err
		}
		active = s.active()
		var known bool
		table := postgres.Ident(schema, "deployments")
		if err := tx.QueryRow(ctx, "select coalesce((select action = 'challenge' from "+table+" where action in ('challenge', 'activate', 'rollback', 'prune', 'failed') and name = $1 and version = $2 order by ordinal desc limit 1), false)",
			v.Name, v.Version).Scan(&known); err != nil {
			return postgres.Wrap(err, "read "+table)
		}
		if known || active == v {
			return nil
		}
		_, err = enter(ctx, tx, schema, routable, v, "", e.details(Version{}))
		return err
	})
	return active, err
}

// SwitchBack makes a version active that was active before, in one transaction with its rows in the ledger and in databasechangelog.
// A shadow or canary of the version that is left ends. If it is active already, nothing changes. It returns the version that was active until then.
func SwitchBack(ctx context.Context, c *postgres.Conn, schema string, to Version, reason string) (from Version, err error) {
	err = locked(ctx, c, schema, func(tx pgx.Tx) error {
		s, err := readState(ctx, tx, schema)
		if err != nil {
			return err
		}
		if from = s.active(); from == to {
			return nil
		}
		r := rollback{Version: to, From: from.Version}
		if r.Ordinal, err = switchTo(ctx, tx, schema, rolled, to, reason, map[string]any{"from": from.Version}); err != nil {
			return err
		}
		// A route to the version that is left would go on sending it a share of the calls.
		if err := endRoute(ctx, tx, schema, from); err != nil {
			return err
		}
		set, err := r.changeset()
		if err != nil {
			return err
		}
		return changelog.Record(ctx, tx, schema, ChangelogPath, set)
	})
	return from, err
}

// endRoute ends a shadow or canary of the version.
func endRoute(ctx context.Context, tx pgx.Tx, schema string, v Version) error {
	_, err := tx.Exec(ctx, "delete from "+postgres.Ident(schema, "route")+" where name = $1 and version = $2", v.Name, v.Version)
	return postgres.Wrap(err, fmt.Sprintf("end the route to model %q version %d", v.Name, v.Version))
}

// switchTo adds the version to the ledger and to activations.
func switchTo(ctx context.Context, tx pgx.Tx, schema string, a action, v Version, reason string, details map[string]any) (ordinal int, err error) {
	if ordinal, err = enter(ctx, tx, schema, a, v, reason, details); err != nil {
		return 0, err
	}
	table := postgres.Ident(schema, "activations")
	tag, err := tx.Exec(ctx, "insert into "+table+" (ordinal, name, version) select $1, m.name, m.version from "+postgres.Ident(schema, "models")+" m join "+
		postgres.Ident(schema, "model_blobs")+" b on b.digest = m.digest where m.name = $2 and m.version = $3", ordinal, v.Name, v.Version)
	if err != nil {
		return 0, postgres.Wrap(err, "activate a model in "+table)
	}
	if tag.RowsAffected() == 0 {
		return 0, fmt.Errorf("activate model %q version %d: it is not deployed in schema %q, or was pruned", v.Name, v.Version, schema)
	}
	return ordinal, nil
}

// rollback is a switch back, as the ledger keeps it.
type rollback struct {
	Version
	From    int // the number of the version that was active until then
	Ordinal int
}

// changeset tells the switch in databasechangelog; its undo goes forward again.
func (r rollback) changeset() (changelog.Changeset, error) {
	name, err := changelog.Literal(r.Name)
	if err != nil {
		return changelog.Changeset{}, fmt.Errorf("model name %q: %w", r.Name, err)
	}
	return changelog.Changeset{
		ID:      fmt.Sprintf("rollback-%s-%d-%d", changelog.Slug(r.Name), r.Version.Version, r.Ordinal),
		Comment: fmt.Sprintf("rollback of model %s from version %d to version %d", r.Name, r.From, r.Version.Version),
		SQL: fmt.Sprintf("insert into activations (ordinal, name, version)\nselect %d,\n%s,\n%d\nwhere not exists (select 1 from activations where ordinal = %d);",
			r.Ordinal, name, r.Version.Version, r.Ordinal),
		Rollback: fmt.Sprintf("delete from activations where ordinal = %d;", r.Ordinal),
	}, nil
}
