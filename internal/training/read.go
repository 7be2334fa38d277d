package training

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Release is a deployed ML app; its code stays in the database.
type Release struct {
	Ordinal             int
	App, Digest, GitSHA string
	Manifest            []byte // JSON of mlapp.Manifest
}

// ReadRelease returns the newest release with that code digest.
// One that was not deployed is a configuration fault.
func ReadRelease(ctx context.Context, c *postgres.Conn, schema, digest string) (Release, error) {
	r := Release{Digest: digest}
	err := c.QueryRow(ctx, "select ordinal, app, git_sha, manifest::text from "+postgres.Ident(schema, "releases")+" where digest = $1 order by ordinal desc limit 1", digest).
		Scan(&r.Ordinal, &r.App, &r.GitSHA, &r.Manifest)
	return r, absent(err, fmt.Sprintf("read release %q from schema %q", digest, schema), "deploy-training-code")
}

// ReadDataset returns the manifest of a loaded dataset.
// One that was not uploaded is a configuration fault.
func ReadDataset(ctx context.Context, c *postgres.Conn, schema, digest string) (*dataset.Manifest, error) {
	doing := fmt.Sprintf("read dataset %q from schema %q", digest, schema)
	var table string
	var text []byte
	err := c.QueryRow(ctx, "select pack_table, manifest::text from "+postgres.Ident(schema, "datasets")+" where digest = $1", digest).Scan(&table, &text)
	if err != nil {
		return nil, absent(err, doing, "upload-dataset")
	}
	m, err := dataset.ParseManifest(text)
	if err != nil {
		return nil, fault.AsPermanent(fmt.Errorf("%s: %w", doing, err))
	}
	if m.Table = table; m.Shards < 1 {
		return nil, fault.AsPermanent(fmt.Errorf("%s: manifest has %d shards; expected at least 1", doing, m.Shards))
	}
	return m, nil
}

// Fingerprint is the digest of the rows that a training reads, those of the train and validation splits,
// whatever their order in the table: SHA-256 in hex over one digest a shard, each made in the database where the rows lie.
// It changes when one byte of a row does.
func Fingerprint(ctx context.Context, config postgres.Config, schema string, m *dataset.Manifest) (string, error) {
	s, err := dial(ctx, config, schema, m.Table, nil)
	if err != nil {
		return "", err
	}
	defer s.close()
	doing := fmt.Sprintf("take the fingerprint of dataset %.16s in schema %q", m.Digest, schema)
	shards, err := onShards(ctx, s, m.Shards, "fingerprint.sql", doing, nil, pgx.RowTo[*string])
	if missing(err) {
		return "", absent(err, doing, "deploy-training-code and upload-dataset")
	}
	if err != nil {
		return "", err
	}
	shards = slices.DeleteFunc(shards, func(digest *string) bool { return digest == nil })
	if len(shards) != m.Shards {
		return "", fault.AsPermanent(fmt.Errorf("%s: %d of %d shards have rows: some were deleted; drop the table and its row of datasets, then run upload-dataset again", doing, len(shards), m.Shards))
	}
	sum := sha256.New()
	for _, digest := range shards {
		sum.Write([]byte(*digest + "\n"))
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// StartOf returns the job that a finished job started from, "" if from its learner's own initial state.
// A job that did not end in this schema is a configuration fault.
func StartOf(ctx context.Context, c *postgres.Conn, schema, job string) (start string, err error) {
	doing := fmt.Sprintf("look for the model of job %.12s in schema %q", job, schema)
	err = c.QueryRow(ctx, "select coalesce(j.spec ->> 'start', '') from "+postgres.Ident(schema, "jobs")+" j join "+postgres.Ident(schema, "models")+" m on m.job = j.id where j.id = $1", job).Scan(&start)
	return start, absent(err, doing, "train-model")
}

// absent turns a missing row, table, schema or function into a hint at the step that makes it.
func absent(err error, doing, step string) error {
	if errors.Is(err, pgx.ErrNoRows) || missing(err) {
		return fault.AsConfiguration(fmt.Errorf("%s: it is not there; run %s first, with the same schema", doing, step))
	}
	return postgres.Wrap(err, doing)
}

// missing tells whether a table, schema or function is not there.
func missing(err error) bool {
	return slices.Contains([]string{"42P01", "3F000", "42883"}, postgres.State(err))
}

// Tenant says which schema this is, whatever the address of its server: database/schema@identifier, where the
// identifier is the one the server's data has had since it was made, and every copy of its disk has.
// Servers that have no such identifier or do not tell it (Greenplum 6, PostgreSQL before 9.6) leave it out.
func Tenant(ctx context.Context, c *postgres.Conn, schema string) (string, error) {
	var tenant, identifier string
	if err := c.QueryRow(ctx, "select current_database()").Scan(&tenant); err != nil {
		return "", postgres.Wrap(err, "ask for the name of the database")
	}
	tenant += "/" + schema
	switch err := c.QueryRow(ctx, "select system_identifier::text from pg_control_system()").Scan(&identifier); postgres.State(err) {
	case "42883", "42501": // undefined function, insufficient privilege
		return tenant, nil
	default:
		return tenant + "@" + identifier, postgres.Wrap(err, "ask for the system identifier of the database")
	}
}

// Libraries are the versions of Python and of the packages that models are made with, by name,
// as the schema's function library_versions tells them; none if the schema was deployed without it.
func Libraries(ctx context.Context, c *postgres.Conn, schema string) (map[string]string, error) {
	doing := fmt.Sprintf("ask schema %q for its library versions", schema)
	var known bool
	err := c.QueryRow(ctx, "select exists (select 1 from pg_proc p join pg_namespace n on n.oid = p.pronamespace where p.proname = 'library_versions' and n.nspname = $1)", schema).Scan(&known)
	if err != nil || !known {
		return nil, postgres.Wrap(err, doing)
	}
	var text []byte
	if err := c.QueryRow(ctx, "select "+postgres.Ident(schema, "library_versions")+"()::text").Scan(&text); err != nil {
		return nil, postgres.Wrap(err, doing)
	}
	versions := map[string]string{}
	if err := json.Unmarshal(text, &versions); err != nil {
		return nil, fmt.Errorf("%s: expected a JSON object of texts: %w", doing, err)
	}
	return versions, nil
}
