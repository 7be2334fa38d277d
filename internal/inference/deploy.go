package inference

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

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
	sets := slices.Clone(base)
	for _, o := range models {
		c, err := o.changeset()
		if err != nil {
			return nil, nil, err
		}
		sets = append(sets, c)
	}
	more, text, err := s.Update(ctx, sets)
	return append(added, more...), text, err
}

// history reads the deployed models, the oldest first, as their changesets were rendered.
func history(ctx context.Context, c *postgres.Conn, schema string) ([]Model, error) {
	table := postgres.Ident(schema, "models")
	rows, err := c.Query(ctx, "select name, version, digest, manifest::text, metrics::text from "+table+" order by deployed_at, name, version")
	if err != nil {
		return nil, postgres.Wrap(err, "read "+table)
	}
	models, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Model, err error) {
		return m, row.Scan(&m.Name, &m.Version, &m.Digest, &m.Manifest, &m.Metrics)
	})
	return models, postgres.Wrap(err, "read "+table)
}

// storeBlob writes the model's bytes unless they are there: the digest is their name.
func storeBlob(ctx context.Context, c *postgres.Conn, schema string, m Model) error {
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
