package inference

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// Prune deletes the bytes of old versions and returns which these were.
// The last keep versions that were switched to or deployed as challengers stay, and always the active one, the one before it and a route's challenger.
// The rows of the others stay too: they are the history, and the version can be deployed again.
func Prune(ctx context.Context, c *postgres.Conn, schema string, keep int) (gone []Version, err error) {
	models, blobs := postgres.Ident(schema, "models"), postgres.Ident(schema, "model_blobs")
	err = locked(ctx, c, schema, func(tx pgx.Tx) error {
		s, err := readState(ctx, tx, schema)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "select m.name, m.version, m.digest, exists (select 1 from "+postgres.Ident(schema, "route")+" r where r.name = m.name and r.version = m.version) from "+models+" m join "+blobs+" b on b.digest = m.digest left join (select ordinal, name, version from "+postgres.Ident(schema, "activations")+" union all select ordinal, name, version from "+postgres.Ident(schema, "deployments")+
			" where action = 'challenge') a on a.name = m.name and a.version = m.version group by m.name, m.version, m.digest order by max(a.ordinal) desc nulls last, m.deployed_at desc, m.version desc")
		if err != nil {
			return postgres.Wrap(err, "read "+models)
		}
		type stored struct {
			Version
			digest string
			routed bool
		}
		all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d stored, err error) {
			err = row.Scan(&d.Name, &d.Version.Version, &d.digest, &d.routed)
			return d, err
		})
		if err != nil {
			return postgres.Wrap(err, "read "+models)
		}
		needed := map[string]bool{}
		for i, d := range all {
			if i < keep || d.routed || d.Version == s.active() || d.Version == s.before() {
				needed[d.digest] = true
			}
		}
		for _, d := range all {
			if needed[d.digest] {
				continue
			}
			if _, err := tx.Exec(ctx, "delete from "+blobs+" where digest = $1", d.digest); err != nil {
				return postgres.Wrap(err, "prune "+blobs)
			}
			if _, err := enter(ctx, tx, schema, pruned, d.Version, "", map[string]any{"digest": d.digest}); err != nil {
				return err
			}
			gone = append(gone, d.Version)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}
