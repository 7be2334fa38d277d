package inference

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Deploy brings the schema up to date and adds the model to it, without making it active.
// base are the changesets that make up an empty inference schema.
// It returns the ids of the changesets it added and the changelog with the whole history.
// Deploying the same model again adds nothing.
func Deploy(ctx context.Context, s *changelog.Session, schema string, base []changelog.Changeset, m Model) (added []string, text []byte, err error) {
	applied, err := s.Applied(ctx)
	if err != nil {
		return nil, nil, err
	}
	if slices.ContainsFunc(base, func(c changelog.Changeset) bool { return !slices.Contains(applied, c.ID) }) {
		// The bytes need their table before the model's own changeset needs the bytes.
		if added, _, err = s.Update(ctx, base); err != nil {
			return nil, nil, err
		}
	}
	models, err := history(ctx, s.Conn, schema)
	if err != nil {
		return nil, nil, err
	}
	known := slices.IndexFunc(models, func(o Model) bool { return o.Name == m.Name && o.Version == m.Version })
	if known >= 0 && models[known].Digest != m.Digest {
		return nil, nil, fmt.Errorf("model %q version %d is deployed in schema %q with SHA-256 %s, the registry now has %s under that number; "+
			"versions never change: register the model as a new version, or roll the old one back first", m.Name, m.Version, schema, models[known].Digest, m.Digest)
	}
	if known < 0 {
		models = append(models, m)
	}
	if err := storeBlob(ctx, s.Conn, schema, m); err != nil {
		return nil, nil, err
	}
	rollbacks, err := rollbacks(ctx, s.Conn, schema)
	if err != nil {
		return nil, nil, err
	}
	sets := slices.Clone(base)
	var own string
	for _, o := range models {
		c, err := o.changeset()
		if err != nil {
			return nil, nil, err
		}
		sets = append(sets, c)
		if o.Name == m.Name && o.Version == m.Version {
			own = c.ID
		}
	}
	for _, r := range rollbacks {
		c, err := r.changeset()
		if err != nil {
			return nil, nil, err
		}
		sets = append(sets, c)
	}
	more, text, err := s.Update(ctx, sets)
	if err != nil {
		return nil, nil, err
	}
	added = append(added, more...)
	return added, text, store(ctx, s.Conn, schema, m, slices.Contains(more, own))
}

// history reads the deployed models, the oldest first, as their changesets were rendered.
func history(ctx context.Context, c *postgres.Conn, schema string) ([]Model, error) {
	table := postgres.Ident(schema, "models")
	rows, err := c.Query(ctx, "select name, version, digest, manifest::text, metrics::text from "+table+" order by deployed_at, name, version")
	if err != nil {
		return nil, postgres.Wrap(err, "read "+table)
	}
	models, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Model, err error) {
		err = row.Scan(&m.Name, &m.Version, &m.Digest, &m.Manifest, &m.Metrics)
		return m, err
	})
	return models, postgres.Wrap(err, "read "+table)
}

// rollbacks reads the switches back that Liquibase has not undone, the oldest first.
func rollbacks(ctx context.Context, c *postgres.Conn, schema string) ([]rollback, error) {
	table := postgres.Ident(schema, "deployments")
	rows, err := c.Query(ctx, "select d.name, d.version, (d.details ->> 'from')::int, d.ordinal from "+table+" d join "+postgres.Ident(schema, "activations")+
		" a on a.ordinal = d.ordinal where d.action = 'rollback' order by d.ordinal")
	if err != nil {
		return nil, postgres.Wrap(err, "read "+table)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r rollback, err error) {
		err = row.Scan(&r.Name, &r.Version.Version, &r.From, &r.Ordinal)
		return r, err
	})
	return out, postgres.Wrap(err, "read "+table)
}

// store writes the model's bytes unless they are there, and enters the deployment into the ledger unless it stands there,
// which it does not when the version is new to the schema or was pruned.
func store(ctx context.Context, c *postgres.Conn, schema string, m Model, isNew bool) error {
	return locked(ctx, c, schema, func(tx pgx.Tx) error {
		if err := storeBlob(ctx, tx, schema, m); err != nil {
			return err
		}
		var known bool
		table := postgres.Ident(schema, "deployments")
		if err := tx.QueryRow(ctx, "select coalesce((select action = 'deploy' from "+table+" where action in ('deploy', 'prune') and name = $1 and version = $2 order by ordinal desc limit 1), false)",
			m.Name, m.Version).Scan(&known); err != nil {
			return postgres.Wrap(err, "read "+table)
		}
		if known && !isNew {
			return nil
		}
		_, err := enter(ctx, tx, schema, deployed, Version{m.Name, m.Version}, "", map[string]any{"digest": m.Digest, "bytes": len(m.ONNX)})
		return err
	})
}

// storeBlob writes the model's bytes unless they are there: the digest is their name.
func storeBlob(ctx context.Context, c execer, schema string, m Model) error {
	table := postgres.Ident(schema, "model_blobs")
	var there bool
	if err := c.QueryRow(ctx, "select exists (select 1 from "+table+" where digest = $1)", m.Digest).Scan(&there); err != nil {
		return postgres.Wrap(err, "read "+table)
	}
	if there {
		return nil
	}
	_, err := c.Exec(ctx, "insert into "+table+" (digest, onnx) values ($1, $2)", m.Digest, m.ONNX)
	return postgres.Wrap(err, fmt.Sprintf("store %d bytes of model %q version %d in %s", len(m.ONNX), m.Name, m.Version, table))
}

// execer is a connection or a transaction.
type execer interface {
	querier
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}
