package inference

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// Version names a deployed model. The zero Version is none.
type Version struct {
	Name    string
	Version int
}

// Activate makes a deployed version the one that predictions use, in one transaction;
// if it is that already, nothing changes. It returns the version that was active before it.
func Activate(ctx context.Context, c *postgres.Conn, schema string, v Version) (previous Version, err error) {
	_, previous, err = change(ctx, c, schema, func([]Version) (Version, error) { return v, nil })
	return previous, err
}

// Rollback makes the version active that was active before the present one came, and returns both.
// Doing it again goes one further back.
func Rollback(ctx context.Context, c *postgres.Conn, schema string) (from, to Version, err error) {
	to, _, err = change(ctx, c, schema, func(log []Version) (Version, error) {
		past := trail(log)
		if len(past) < 2 {
			return Version{}, fmt.Errorf("roll back schema %q: no other model was active before", schema)
		}
		from = past[len(past)-1]
		return past[len(past)-2], nil
	})
	return from, to, err
}

// trail is the way to the active version without its detours: going back to the version before takes a step off it.
func trail(log []Version) []Version {
	var out []Version
	for _, v := range log {
		switch {
		case len(out) > 1 && out[len(out)-2] == v:
			out = out[:len(out)-1]
		case len(out) == 0 || out[len(out)-1] != v:
			out = append(out, v)
		}
	}
	return out
}

// change appends the version that choose picks to the log, unless it is the last one.
// It returns the active version and the one before it in the log.
func change(ctx context.Context, c *postgres.Conn, schema string, choose func(log []Version) (Version, error)) (active, previous Version, err error) {
	table := postgres.Ident(schema, "activations")
	err = pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", postgres.LockKey("activate:"+schema)); err != nil {
			return postgres.Wrap(err, "lock "+table)
		}
		rows, err := tx.Query(ctx, "select name, version from "+table+" order by ordinal")
		if err != nil {
			return postgres.Wrap(err, "read "+table)
		}
		log, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Version])
		if err != nil {
			return postgres.Wrap(err, "read "+table)
		}
		if active, err = choose(log); err != nil {
			return err
		}
		if n := len(log); n > 0 && log[n-1] == active {
			if n > 1 {
				previous = log[n-2]
			}
			return nil
		}
		if n := len(log); n > 0 {
			previous = log[n-1]
		}
		// Ordinals have gaps where a rollback by Liquibase took rows away.
		var last int
		if err := tx.QueryRow(ctx, "select coalesce(max(ordinal), 0) from "+table).Scan(&last); err != nil {
			return postgres.Wrap(err, "read "+table)
		}
		tag, err := tx.Exec(ctx, "insert into "+table+" (ordinal, name, version) select $1, name, version from "+postgres.Ident(schema, "models")+" where name = $2 and version = $3",
			last+1, active.Name, active.Version)
		if err != nil {
			return postgres.Wrap(err, "activate a model in "+table)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("activate model %q version %d: it is not deployed in schema %q", active.Name, active.Version, schema)
		}
		return nil
	})
	return active, previous, err
}
