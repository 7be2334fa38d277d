package deploytrainingcode

import (
	"context"
	"fmt"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// grant lets the roles train: on what is there, and on the pack tables that upload-dataset makes later with the same credentials.
func grant(ctx context.Context, c *postgres.Conn, schema string, roles []string) error {
	for _, role := range roles {
		doing := fmt.Sprintf("grant training in schema %q to role %q", schema, role)
		var exists bool
		if err := c.QueryRow(ctx, "select exists (select 1 from pg_roles where rolname = $1)", role).Scan(&exists); err != nil {
			return postgres.Wrap(err, doing)
		}
		if !exists {
			return fault.AsConfiguration(fmt.Errorf("%s: there is no such role; create it first", doing))
		}
		if _, err := c.Exec(ctx, "select "+postgres.Ident(schema, "grant_training")+"($1)", role); err != nil {
			return postgres.Wrap(err, doing)
		}
		if _, err := c.Exec(ctx, "alter default privileges in schema "+postgres.Ident(schema)+" grant select on tables to "+postgres.Ident(role)); err != nil {
			return postgres.Wrap(err, doing)
		}
	}
	return nil
}
