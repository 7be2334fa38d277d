package deploytrainingcode

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// release is one row of releases: an ML app with one code digest, deployed by one changeset.
type release struct {
	ordinal  int
	app      string
	digest   string // code digest, 64 hexadecimal digits
	gitSHA   string
	manifest string // JSON
	bundle   string // JSON object from path to Python source
}

// name is the changeset's id.
func (r release) name() string { return fmt.Sprintf("release-%d-%.12s", r.ordinal, r.digest) }

// changeset inserts the row; its undo makes the app's release before it the current one.
func (r release) changeset() (changelog.Changeset, error) {
	var literals []any
	for _, text := range []string{r.app, r.digest, r.gitSHA, r.manifest, r.bundle} {
		literal, err := changelog.Literal(text)
		if err != nil {
			return changelog.Changeset{}, fmt.Errorf("release %d of app %q: %w", r.ordinal, r.app, err)
		}
		literals = append(literals, literal)
	}
	return changelog.Changeset{
		ID:      r.name(),
		Comment: fmt.Sprintf("app %s, code digest %s, git %s", r.app, r.digest, r.gitSHA),
		SQL: "insert into releases (ordinal, app, digest, git_sha, manifest, bundle)\n" +
			fmt.Sprintf("select %d,\n%s,\n%s,\n%s,\ncast(%s\nas json),\n%s\n", append([]any{r.ordinal}, literals...)...) +
			fmt.Sprintf("where not exists (select 1 from releases where ordinal = %d);", r.ordinal),
		Rollback: fmt.Sprintf("delete from releases where ordinal = %d;", r.ordinal),
	}, nil
}

// history reads the deployed releases in their order; none before the first deployment.
func history(ctx context.Context, s *changelog.Session, schema string) ([]release, error) {
	if known, err := s.Has(ctx, "releases"); err != nil || !known {
		return nil, err
	}
	table := postgres.Ident(schema, "releases")
	rows, err := s.Conn.Query(ctx, "select ordinal, app, digest, git_sha, manifest::text, bundle from "+table+" order by ordinal")
	if err != nil {
		return nil, postgres.Wrap(err, "read "+table)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r release, err error) {
		err = row.Scan(&r.ordinal, &r.app, &r.digest, &r.gitSHA, &r.manifest, &r.bundle)
		return r, err
	})
	return list, postgres.Wrap(err, "read "+table)
}

// next appends the wanted code to the history, unless it is what the app has now.
// Code that was deployed once and replaced is deployed again as a new release.
func next(past []release, want release) (all []release, current release) {
	last := 0
	for _, r := range past {
		last = r.ordinal
		if r.app == want.app {
			current = r
		}
	}
	if current.digest == want.digest {
		return past, current
	}
	want.ordinal = last + 1
	return append(past, want), want
}

// deploy brings the schema up to date with base, the changesets that make up an empty training schema, and the wanted code.
func deploy(ctx context.Context, s *changelog.Session, schema string, base []changelog.Changeset, want release) (current release, added []string, text []byte, err error) {
	past, err := history(ctx, s, schema)
	if err != nil {
		return release{}, nil, nil, err
	}
	all, current := next(past, want)
	sets := slices.Clone(base)
	for _, r := range all {
		c, err := r.changeset()
		if err != nil {
			return release{}, nil, nil, err
		}
		sets = append(sets, c)
	}
	added, text, err = s.Update(ctx, sets)
	return current, added, text, err
}
