package inference

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Plan is what a rollback is to do.
type Plan struct {
	From, To Version
	Pruned   bool // the bytes of To must come from the registry
	// Finish says that the newest switch was this rollback, or one by Liquibase, and that the registry's alias did not follow it yet.
	Finish bool
}

// PlanRollback finds out what a rollback to that version is, or with 0 to the version that was active before the present one.
// A rollback that did not get to its end is finished before another one begins. One by Liquibase never does: it does not know the registry.
func PlanRollback(ctx context.Context, c *postgres.Conn, schema string, to int) (p Plan, err error) {
	has, err := hasLedger(ctx, c, schema)
	if err != nil {
		return p, err
	}
	if !has {
		return p, fault.AsConfiguration(fmt.Errorf("schema %q has no ledger of deployments; expected a schema that this release's deploy-inference-db deployed to", schema))
	}
	s, err := readState(ctx, c, schema)
	if err != nil {
		return p, err
	}
	p.From = s.active()
	if p.From == (Version{}) {
		return p, fmt.Errorf("no model is active in schema %q: there is nothing to roll back", schema)
	}
	switch {
	case to != 0:
		p.To = Version{p.From.Name, to}
		p.Finish = p.To == p.From && !s.followed
	case (s.rolledBack() || s.undone) && !s.followed:
		p.To, p.Finish = p.From, true
	default:
		p.To = s.before()
		if p.To == (Version{}) {
			return p, fmt.Errorf("model %q version %d is the first one in schema %q: no other was active before", p.From.Name, p.From.Version, schema)
		}
	}
	err = c.QueryRow(ctx, "select pruned from "+postgres.Ident(schema, "model_versions")+" where name = $1 and version = $2", p.To.Name, p.To.Version).Scan(&p.Pruned)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !s.wasActive(p.To) {
		return p, fmt.Errorf("version %d of model %q was never active in schema %q; there were %s; deploy-inference-db deploys others", p.To.Version, p.To.Name, schema, s.numbers(p.To.Name))
	}
	return p, postgres.Wrap(err, "read "+postgres.Ident(schema, "model_versions"))
}

// numbers lists the versions that were active, in order.
func (s state) numbers(name string) string {
	var out []string
	seen := map[Version]bool{}
	for _, l := range s.log {
		if l.Name == name && !seen[l.Version] {
			seen[l.Version] = true
			out = append(out, strconv.Itoa(l.Version.Version))
		}
	}
	return strings.Join(out, ", ")
}

// Restore brings back the bytes of a pruned version from the registry.
func Restore(ctx context.Context, c *postgres.Conn, schema string, r Registry, v Version) error {
	var digest string
	if err := c.QueryRow(ctx, "select digest from "+postgres.Ident(schema, "models")+" where name = $1 and version = $2", v.Name, v.Version).Scan(&digest); err != nil {
		return postgres.Wrap(err, "read "+postgres.Ident(schema, "models"))
	}
	m, err := Fetch(ctx, r, v.Name, v.Version)
	if err != nil {
		return err
	}
	if m.Digest != digest {
		return fmt.Errorf("model %q version %d: the registry has SHA-256 %s, expected %s as it was deployed", v.Name, v.Version, m.Digest, digest)
	}
	return store(ctx, c, schema, m, false)
}
