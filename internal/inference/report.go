package inference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

// MaxReport is the largest report that is kept with a version, in bytes. Those that evaluate-model writes have some hundred kilobytes at most.
const MaxReport = 4 << 20

// ErrNoReport says why no report is kept with a version, which is no reason not to deploy it.
var ErrNoReport = errors.New("no report to keep")

// FetchReport reads the evaluation report of a version from the registry; ErrNoReport if there is none that can be kept.
func FetchReport(ctx context.Context, r Registry, v Version) ([]byte, error) {
	version, err := r.ModelVersion(ctx, v.Name, v.Version)
	if err != nil {
		return nil, err
	}
	run, err := r.GetRun(ctx, version.RunID)
	if err != nil {
		return nil, err
	}
	html, err := r.DownloadArtifact(ctx, run, registry.ArtifactReport, MaxReport)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return nil, fmt.Errorf("%w: model %q version %d was not evaluated", ErrNoReport, v.Name, v.Version)
	case err != nil && fault.Of(err) == fault.Permanent: // too large
		return nil, fmt.Errorf("%w: %w", ErrNoReport, err)
	case err != nil:
		return nil, err
	case !utf8.Valid(html) || !bytes.Contains(html[:min(len(html), 1024)], []byte("<html")):
		return nil, fmt.Errorf("%w: the artifact %s is no HTML page in UTF-8", ErrNoReport, registry.ArtifactReport)
	}
	return html, nil
}

// KeepReport stores the report with the deployed version, so that those who serve it need no registry.
// A version that was evaluated again has the newest one.
func KeepReport(ctx context.Context, c *postgres.Conn, schema string, v Version, html []byte) error {
	table := postgres.Ident(schema, "model_reports")
	return locked(ctx, c, schema, func(tx pgx.Tx) error {
		var same bool
		if err := tx.QueryRow(ctx, "select coalesce((select html = $3 from "+table+" where name = $1 and version = $2), false)", v.Name, v.Version, html).Scan(&same); err != nil || same {
			return postgres.Wrap(err, "read "+table)
		}
		if _, err := tx.Exec(ctx, "delete from "+table+" where name = $1 and version = $2", v.Name, v.Version); err != nil {
			return postgres.Wrap(err, "replace the report in "+table)
		}
		_, err := tx.Exec(ctx, "insert into "+table+" (name, version, html) values ($1, $2, $3)", v.Name, v.Version, html)
		return postgres.Wrap(err, fmt.Sprintf("store the report of model %q version %d in %s", v.Name, v.Version, table))
	})
}
