package inference

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// action is what a row of the ledger (table deployments) says was done.
type action string

const (
	deployed  action = "deploy"
	activated action = "activate"
	routable  action = "challenge" // deployed without being switched to, and predicts what it should
	followed  action = "alias"     // the registry's alias went where the database had gone
	rolled    action = "rollback"
	pruned    action = "prune"
	failed    action = "failed"
)

// maxReason bounds a reason, in bytes.
const maxReason = 2000

// locked runs do in a transaction that no other change of the schema's versions overlaps.
func locked(ctx context.Context, c *postgres.Conn, schema string, do func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", postgres.LockKey("activate:"+schema)); err != nil {
			return postgres.Wrap(err, fmt.Sprintf("lock the versions of schema %q", schema))
		}
		return do(tx)
	})
}

// enter adds a row to the ledger and returns its ordinal.
// No ordinal comes twice, also where a rollback by Liquibase took activations away.
func enter(ctx context.Context, tx pgx.Tx, schema string, a action, v Version, reason string, details map[string]any) (ordinal int, err error) {
	text, err := json.Marshal(details)
	if err != nil {
		return 0, fmt.Errorf("ledger of schema %q: %w", schema, err)
	}
	if details == nil {
		text = []byte("{}")
	}
	table := postgres.Ident(schema, "deployments")
	err = tx.QueryRow(ctx, "insert into "+table+` (ordinal, action, name, version, reason, details)
		select 1 + greatest((select coalesce(max(ordinal), 0) from `+table+"), (select coalesce(max(ordinal), 0) from "+postgres.Ident(schema, "activations")+`)), $1, $2, $3, $4, $5::json
		returning ordinal`, string(a), v.Name, v.Version, reason[:min(len(reason), maxReason)], string(text)).Scan(&ordinal)
	return ordinal, postgres.Wrap(err, "add to "+table)
}

// state is which versions a schema serves and served.
type state struct {
	log      []switching
	trail    []Version
	followed bool // the registry's alias is known to name the active version
	undone   bool // Liquibase, which does not know the registry, took the newest switch back
}

// switching is one row of activations.
type switching struct {
	Version
	ordinal  int
	rollback bool
}

// active is the version that predictions use, the zero Version if there is none.
func (s state) active() Version { return s.back(0) }

// before is the version that a rollback goes back to, the zero Version if there is none.
func (s state) before() Version { return s.back(1) }

func (s state) back(n int) Version {
	if n >= len(s.trail) {
		return Version{}
	}
	return s.trail[len(s.trail)-1-n]
}

// rolledBack tells whether the newest switch was a rollback.
func (s state) rolledBack() bool { return len(s.log) > 0 && s.log[len(s.log)-1].rollback }

// wasActive tells whether the version has ever been switched to.
func (s state) wasActive(v Version) bool {
	for _, l := range s.log {
		if l.Version == v {
			return true
		}
	}
	return false
}

// readState reads activations and ledger; q is a connection or a transaction.
func readState(ctx context.Context, q querier, schema string) (s state, err error) {
	activations, deployments := postgres.Ident(schema, "activations"), postgres.Ident(schema, "deployments")
	rows, err := q.Query(ctx, "select a.name, a.version, a.ordinal, coalesce(d.action = 'rollback', false) from "+activations+" a left join "+deployments+" d on d.ordinal = a.ordinal order by a.ordinal")
	if err != nil {
		return s, postgres.Wrap(err, "read "+activations)
	}
	s.log, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (l switching, err error) {
		err = row.Scan(&l.Name, &l.Version.Version, &l.ordinal, &l.rollback)
		return l, err
	})
	if err != nil {
		return s, postgres.Wrap(err, "read "+activations)
	}
	s.trail = trail(s.log)
	if err := q.QueryRow(ctx, "select coalesce((select max(ordinal) from "+deployments+" where action in ('activate', 'rollback')) > (select max(ordinal) from "+activations+"), false)").Scan(&s.undone); err != nil {
		return s, postgres.Wrap(err, "read "+deployments)
	}
	if active := s.active(); active != (Version{}) {
		err = q.QueryRow(ctx, "select coalesce((select name = $1 and version = $2 and ordinal > $3 from "+deployments+" where action = 'alias' order by ordinal desc limit 1), false)",
			active.Name, active.Version, s.log[len(s.log)-1].ordinal).Scan(&s.followed)
	}
	return s, postgres.Wrap(err, "read "+deployments)
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// trail is the way to the active version without its detours: going back to an earlier version takes the steps since then off it.
// A deployment of the version before counts as going back, too.
func trail(log []switching) []Version {
	var out []Version
	for _, l := range log {
		at := -1
		for i, v := range out {
			if v == l.Version && (l.rollback || i >= len(out)-2) {
				at = i
			}
		}
		if at >= 0 {
			out = out[:at+1]
		} else {
			out = append(out, l.Version)
		}
	}
	return out
}

// hasLedger tells whether this release, or a later one, has deployed to the schema.
func hasLedger(ctx context.Context, q querier, schema string) (has bool, err error) {
	err = q.QueryRow(ctx, "select to_regclass($1) is not null", postgres.Ident(schema, "deployments")).Scan(&has)
	return has, postgres.Wrap(err, fmt.Sprintf("look for the ledger of schema %q", schema))
}
