package dataset

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// Lock keeps others from uploading the same raw file to the same schema until the session ends, waiting at most wait.
// A lock that stays held is a temporary fault.
func (p *Plan) Lock(ctx context.Context, c *postgres.Conn, schema string, wait time.Duration) error {
	return postgres.TryLock(ctx, c, "dataset:"+schema+":"+p.file.SHA256, wait)
}

// Find returns the manifest of a loaded dataset, nil if it is not loaded in full.
func Find(ctx context.Context, c *postgres.Conn, schema, digest string) (*Manifest, error) {
	doing := "look for dataset " + digest
	exists, err := tableExists(ctx, c, schema, "datasets")
	if err != nil || !exists {
		return nil, postgres.Wrap(err, doing)
	}
	var table, text string
	err = c.QueryRow(ctx, "select pack_table, manifest::text from "+postgres.Ident(schema, "datasets")+" where digest = $1", digest).Scan(&table, &text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, postgres.Wrap(err, doing)
	}
	// Somebody may have dropped the table by hand: load it again.
	if exists, err = tableExists(ctx, c, schema, table); err != nil || !exists {
		return nil, postgres.Wrap(err, doing)
	}
	return ParseManifest([]byte(text))
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func tableExists(ctx context.Context, q querier, schema, table string) (exists bool, err error) {
	err = q.QueryRow(ctx, "select exists (select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2)", schema, table).Scan(&exists)
	return exists, err
}

// Load stores the packs in their table and enters the dataset, in one transaction:
// a kill or an error leaves all or nothing. It returns the examples loaded, 0 if the dataset was there.
// Report, unless nil, is told the examples sent so far, maybe on another goroutine.
func Load(ctx context.Context, c *postgres.Conn, schema string, m *Manifest, packs iter.Seq2[*Pack, error], report func(rows int64)) (int64, error) {
	if err := postgres.EnsureSchema(ctx, c, schema); err != nil {
		return 0, err
	}
	if err := ensureDatasets(ctx, c, schema); err != nil {
		return 0, err
	}
	doing := "load dataset " + m.Digest
	tx, err := c.Begin(ctx)
	if err != nil {
		return 0, postgres.Wrap(err, doing)
	}
	// After a commit this does nothing.
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", postgres.LockKey("dataset:"+schema+":"+m.Digest)); err != nil {
		return 0, postgres.Wrap(err, doing)
	}
	found, err := Find(ctx, c, schema, m.Digest)
	if err != nil || found != nil {
		return 0, err
	}
	rows, err := load(ctx, c, tx, schema, m, packs, report)
	if err != nil {
		return 0, err
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, postgres.Wrap(err, doing)
	}
	return rows, nil
}

// ensureDatasets creates the list of datasets.
func ensureDatasets(ctx context.Context, c *postgres.Conn, schema string) error {
	doing := "create table " + strconv.Quote(schema+".datasets")
	err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", postgres.LockKey("datasets:"+schema)); err != nil {
			return err
		}
		exists, err := tableExists(ctx, tx, schema, "datasets")
		if err != nil || exists {
			return err
		}
		_, err = tx.Exec(ctx, "create table "+postgres.Ident(schema, "datasets")+
			" (digest text primary key, pack_table text not null, manifest json not null, created_at timestamptz not null default now())"+
			c.Dialect.DistributedBy("digest"))
		return err
	})
	return postgres.Wrap(err, doing)
}

func load(ctx context.Context, c *postgres.Conn, tx pgx.Tx, schema string, m *Manifest, packs iter.Seq2[*Pack, error], report func(int64)) (int64, error) {
	text, err := m.JSON()
	if err != nil {
		return 0, err
	}
	table := postgres.Ident(schema, m.Table)
	for _, sql := range []string{
		"drop table if exists " + table,
		"create table " + table + PackTable(c.Dialect),
		// Numbers hardly compress, and uncompressed they are read without a copy.
		"alter table " + table + " alter column data set storage external",
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return 0, postgres.Wrap(err, "create table "+strconv.Quote(schema+"."+m.Table))
		}
	}
	places, err := Places(ctx, tx, c.Dialect, m.Shards)
	if err != nil {
		return 0, err
	}
	columns := packColumns(c.Dialect)
	var rows, count int64
	row := make([]any, len(columns))
	stored, err := c.StoreRows(ctx, []string{schema, m.Table}, columns, m.PackSize*(labelBytes+m.Input.Bytes()), func(yield func([]any, error) bool) {
		for p, err := range packs {
			if err != nil {
				yield(nil, err)
				return
			}
			row[0], row[1], row[2], row[3], row[4], row[5] = p.Split, p.Shard, p.ID, p.Rows, p.Labels, p.Data
			if places != nil {
				row[6] = places[p.Shard]
			}
			if !yield(row, nil) {
				return
			}
			count++
			rows += int64(p.Rows)
			if report != nil {
				report(rows)
			}
		}
	})
	if err != nil {
		return 0, err
	}
	if stored != count || rows != m.Rows {
		return 0, fmt.Errorf("load dataset %s: %d packs with %d rows arrived, expected %d with %d", m.Digest, stored, rows, count, m.Rows)
	}
	datasets := postgres.Ident(schema, "datasets")
	if _, err := tx.Exec(ctx, "delete from "+datasets+" where digest = $1", m.Digest); err != nil {
		return 0, postgres.Wrap(err, "enter dataset "+m.Digest)
	}
	if _, err := tx.Exec(ctx, "insert into "+datasets+" (digest, pack_table, manifest) values ($1, $2, $3)", m.Digest, m.Table, string(text)); err != nil {
		return 0, postgres.Wrap(err, "enter dataset "+m.Digest)
	}
	return rows, nil
}
