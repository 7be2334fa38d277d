package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// relations counts what is in a schema.
func relations(t *testing.T, c *postgres.Conn, schema string) (n int) {
	t.Helper()
	if err := c.QueryRow(context.Background(), "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relkind = 'r'", schema).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSmallDataHasNoMoreShardsThanPacks(t *testing.T) {
	t.Parallel()
	// 75 of the 100 rows are to train on, in 19 packs of 4.
	p, err := prepare(t, "t.csv", numbered(100), shaped(Float32, 1).with(func(o *Options) { o.Shards = 99 }))
	if err != nil {
		t.Fatal(err)
	}
	if m := p.Manifest; m.Shards != 19 || m.Splits.Train.Packs != 19 {
		t.Errorf("%d shards over %d packs, want 19 over 19", m.Shards, m.Splits.Train.Packs)
	}
}

func TestADatasetIsLoadedOnceAsItIs(t *testing.T) {
	t.Parallel()
	cfg, schema := database(t)
	c, ctx := connect(t, cfg), context.Background()
	p, err := prepare(t, "t.csv", numbered(1000), shaped(Float32, 1).with(func(o *Options) { o.Shards = 2 }))
	if err != nil {
		t.Fatal(err)
	}
	m := p.Manifest
	if found, err := Find(ctx, c, schema, m.Digest); found != nil || err != nil {
		t.Fatal(found, err)
	}
	var last int64
	for i, want := range []int64{1000, 0} {
		n, err := Load(ctx, c, schema, m, p.Packs(), func(rows int64) { last = rows })
		if err != nil || n != want {
			t.Fatalf("load %d: %d rows (%v), want %d", i+1, n, err, want)
		}
	}
	if last != 1000 {
		t.Errorf("%d rows were reported", last)
	}
	found, err := Find(ctx, c, schema, m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m, found); d != "" {
		t.Error(d)
	}
	rows, err := c.Query(ctx, "select split, shard, id, n, labels, data from "+postgres.Ident(schema, m.Table)+" order by id")
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Pack])
	if err != nil {
		t.Fatal(err)
	}
	var want []Pack
	for pack := range p.Packs() {
		copied := *pack
		copied.Labels, copied.Data = append([]byte{}, pack.Labels...), append([]byte{}, pack.Data...)
		want = append(want, copied)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	var storage string
	if err := c.QueryRow(ctx, "select attstorage::text from pg_attribute where attrelid = $1::regclass and attname = 'data'", postgres.Ident(schema, m.Table)).Scan(&storage); err != nil || storage != "e" {
		t.Errorf("storage %q (%v), want external", storage, err)
	}

	if _, err := c.Exec(ctx, "drop table "+postgres.Ident(schema, m.Table)); err != nil {
		t.Fatal(err)
	}
	if n, err := Load(ctx, c, schema, m, p.Packs(), nil); err != nil || n != 1000 {
		t.Errorf("after the table was dropped: %d rows (%v)", n, err)
	}
}

func TestAFailedLoadLeavesNothing(t *testing.T) {
	t.Parallel()
	p, err := prepare(t, "t.csv", numbered(1000), shaped(Float32, 1))
	if err != nil {
		t.Fatal(err)
	}
	admin, _ := database(t)
	killer := connect(t, admin)
	for name, c := range map[string]struct {
		packs func(cancel func()) iter.Seq2[*Pack, error]
		class fault.Class
		want  string
	}{
		"when reading breaks": {func(func()) iter.Seq2[*Pack, error] {
			return func(yield func(*Pack, error) bool) {
				for pack := range p.Packs() {
					if pack.ID == 100 {
						yield(nil, io.ErrUnexpectedEOF)
						return
					}
					if !yield(pack, nil) {
						return
					}
				}
			}
		}, fault.Permanent, "unexpected EOF"},
		"when it is cancelled": {func(cancel func()) iter.Seq2[*Pack, error] {
			return func(yield func(*Pack, error) bool) {
				for pack := range p.Packs() {
					if pack.ID == 100 {
						cancel()
						time.Sleep(300 * time.Millisecond)
					}
					if !yield(pack, nil) {
						return
					}
				}
			}
		}, fault.Permanent, ""},
		"when a pack comes twice": {func(func()) iter.Seq2[*Pack, error] {
			return func(yield func(*Pack, error) bool) {
				for pack := range p.Packs() {
					for range 2 {
						if !yield(pack, nil) {
							return
						}
					}
				}
			}
		}, fault.Permanent, "23505"},
		"when the server ends the session": {func(func()) iter.Seq2[*Pack, error] {
			return func(yield func(*Pack, error) bool) {
				for pack := range p.Packs() {
					if pack.ID == 100 {
						_, err := killer.Exec(context.Background(), "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'to be ended'")
						if err != nil {
							yield(nil, err)
							return
						}
						time.Sleep(300 * time.Millisecond)
					}
					if !yield(pack, nil) {
						return
					}
				}
			}
		}, fault.Temporary, ""},
		"when packs are missing": {func(func()) iter.Seq2[*Pack, error] { return func(func(*Pack, error) bool) {} }, fault.Permanent, "0 packs with 0 rows arrived"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, schema := database(t)
			ended := cfg
			if c.class == fault.Temporary {
				ended.ApplicationName = "to be ended"
			}
			conn := connect(t, ended)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			_, err := Load(ctx, conn, schema, p.Manifest, c.packs(cancel), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if got := fault.Of(err); got != c.class {
				t.Errorf("%v has class %d, want %d", err, got, c.class)
			}
			if ctx.Err() != nil && !errors.Is(err, context.Canceled) && postgres.State(err) != "57014" {
				t.Errorf("got %v after a cancel", err)
			}
			if n := relations(t, connect(t, cfg), schema); n != 1 { // datasets alone
				t.Errorf("%d tables are there", n)
			}
			if found, err := Find(context.Background(), connect(t, cfg), schema, p.Manifest.Digest); found != nil || err != nil {
				t.Error(found, err)
			}
		})
	}
}

func TestLoadsOfTheSameDatasetAtOnceLoadItOnce(t *testing.T) {
	t.Parallel()
	cfg, schema := database(t)
	p, err := prepare(t, "t.csv", numbered(1000), shaped(Float32, 1))
	if err != nil {
		t.Fatal(err)
	}
	var loaded [4]int64
	var all sync.WaitGroup
	for i := range loaded {
		c := connect(t, cfg)
		all.Go(func() {
			var err error
			if loaded[i], err = Load(context.Background(), c, schema, p.Manifest, p.Packs(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if sum := loaded[0] + loaded[1] + loaded[2] + loaded[3]; sum != 1000 {
		t.Errorf("loaded %v", loaded)
	}
}

func TestTheManifestInTheDatabaseIsJSON(t *testing.T) {
	t.Parallel()
	cfg, schema := database(t)
	c := connect(t, cfg)
	p, err := prepare(t, "t.csv", []byte(table24()), plain8(2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(context.Background(), c, schema, p.Manifest, p.Packs(), nil); err != nil {
		t.Fatal(err)
	}
	var classes string
	if err := c.QueryRow(context.Background(), "select manifest->'classes' from "+postgres.Ident(schema, "datasets")).Scan(&classes); err != nil || !json.Valid([]byte(classes)) || classes != `["a","b"]` {
		t.Errorf("classes %q (%v)", classes, err)
	}
}
