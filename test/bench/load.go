package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// load compares ways to bring images into a table. All tables are logged; those of packs are equal in columns, storage and key.
func load(ctx context.Context, b *bench) error {
	images := scaled(50_000, b.scale, 2*pack)
	arrays, inserts := scaled(images, 0.1, 200), scaled(images, 0.04, 200) // the slow ways get fewer rows
	d, err := b.images(ctx, dataKey{images, 1, ordinary()})
	if err != nil {
		return err
	}
	prepared, _, err := b.prepared(ctx, dataKey{images, 1, ordinary()})
	if err != nil {
		return err
	}
	defer func() { _ = prepared.Close() }()
	table := postgres.Ident(d.Table)
	file, err := b.packFile(ctx, d)
	if err != nil {
		return err
	}
	hex, csv, sql, err := b.textFiles(ctx, table, arrays, inserts)
	if err != nil {
		return err
	}
	conn, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	packsLike := "create table other_packs" + dataset.PackTable(conn.Dialect)
	const (
		external = "alter table other_packs alter column data set storage external"
		rows     = "create table other_rows (id int primary key, label int not null, pixels int[] not null)"
	)
	session := []int{int(conn.PgConn().PID())}
	packed := func() error {
		loaded, err := dataset.Load(ctx, conn, schema, d.Manifest, prepared.Packs(), nil)
		if err == nil && loaded != int64(images) {
			err = fmt.Errorf("%d images were loaded, expected %d", loaded, images)
		}
		return err
	}
	insert := func() error { return b.psql(ctx, "\\i '"+sql+"'\n") }
	ways := []struct {
		what    string // "": what the next ones are compared with
		goal    goal
		unit    unit
		images  int
		before  []string
		run     func() error
		durable bool
	}{
		{images: images, run: packed},
		{"server-side COPY of the same packs from a binary file / packed load", atLeast(0.95), ratio, images, nil, func() error {
			return execAll(ctx, conn, "begin", packsLike, external, "copy other_packs from '"+file+"' (format binary)", "commit")
		}, false},
		{"packed load as it is where the server logs parameters, by COPY / packed load", goal{}, ratio, images, nil, func() error {
			return errors.Join(exec1(ctx, conn, "set log_min_duration_sample = '1h'"), packed(), exec1(ctx, conn, "reset log_min_duration_sample"))
		}, false},
		{`psql \copy of the same packs as text (hex) / packed load`, atLeast(3.5), times, images, nil, func() error {
			return b.psql(ctx, "begin;\n"+packsLike+";\n"+external+";\n\\copy other_packs from '"+hex+"'\ncommit;\n")
		}, false},
		{fmt.Sprintf(`psql \copy of CSV, one image a row as int[], an image (of %d) / packed load, an image`, arrays), atLeast(25), times, arrays, nil, func() error {
			return b.psql(ctx, "begin;\n"+rows+";\n\\copy other_rows from '"+csv+"' (format csv)\ncommit;\n")
		}, false},
		{fmt.Sprintf("INSERT of one image a statement and transaction, int[], by psql -f, an image (of %d) / packed load, an image", inserts), goal{}, times, inserts, []string{rows}, insert, false},
		{images: images, run: packed, durable: true},
		{"the same two on a server with fsync, as it is used", atLeast(80), times, inserts, []string{rows}, insert, true},
	}
	taken := make([][]float64, len(ways))
	var busy []float64 // share of the first way's time

	for round := range b.rounds + 1 { // the first is to warm up
		for i, w := range ways {
			if round > 2 && i > 3 {
				continue // the slowest ways are far from their goals: two rounds will do
			}
			if err := b.durable(ctx, w.durable); err != nil {
				return err
			}
			empty := []string{"drop table if exists other_packs", "drop table if exists other_rows", "drop table if exists " + table, "delete from datasets where digest = '" + d.Digest + "'"}
			if err := execAll(ctx, conn, append(append(empty, w.before...), "checkpoint")...); err != nil {
				return err
			}
			before, err := usedProcessor(session)
			if err != nil {
				return err
			}
			s, err := timed(w.run)
			if err != nil {
				return err
			}
			after, err := usedProcessor(session)
			if err != nil {
				return err
			}
			if round > 0 && i == 0 {
				busy = append(busy, (after-before)/s)
			}
			if round > 0 {
				taken[i] = append(taken[i], s/float64(w.images))
			}
		}
	}
	if err := b.durable(ctx, false); err != nil {
		return err
	}
	delete(b.data, dataKey{images, 1, ordinary()})
	var peer []float64
	for i, w := range ways {
		if w.what == "" {
			peer = taken[i]
			continue
		}
		b.add(w.what, w.goal, w.unit, paired(taken[i], peer))
	}
	rate := make([]float64, len(taken[0]))
	for i, s := range taken[0] {
		rate[i] = float64(pixels) / s
	}
	b.add("packed load: share of the time that the server's session computes; what a quicker client could gain is the rest", goal{}, ratio, summarize(busy))
	b.add(fmt.Sprintf("packed load of %d images: bytes", images), goal{}, func(v float64) string { return mebibytes(v) + "/s" }, summarize(rate))
	return errors.Join(execAll(ctx, conn, "drop table if exists other_packs", "drop table if exists other_rows", "drop table if exists "+table, "delete from datasets where digest = '"+d.Digest+"'"))
}

// durable switches the server between keeping what it commits whatever happens to the machine, and not.
func (b *bench) durable(ctx context.Context, on bool) error {
	var statements []string
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		statements = append(statements, fmt.Sprintf("alter system set %s = %t", name, on))
	}
	return execAll(ctx, b.admin, append(statements, "select pg_reload_conf()", "select pg_sleep(0.1)")...) // until the sessions have heard of it
}

// textFiles writes the packs as psql's \copy text, and images as CSV with int[] and as INSERT statements, as pg_dump --inserts writes them.
func (b *bench) textFiles(ctx context.Context, packs string, arrays, inserts int) (hex, csv, sql string, err error) {
	hex, csv, sql = filepath.Join(b.dir, "packs.txt"), filepath.Join(b.dir, "rows.csv"), filepath.Join(b.dir, "rows.sql")
	if err := b.psql(ctx, "\\copy (select split, shard, id, n, labels, data from "+packs+" order by id) to '"+hex+"'\n"); err != nil {
		return "", "", "", err
	}
	rows, err := os.Create(csv)
	if err != nil {
		return "", "", "", err
	}
	defer rows.Close()
	statements, err := os.Create(sql)
	if err != nil {
		return "", "", "", err
	}
	defer statements.Close()
	g := newGenerator()
	for i := range max(arrays, inserts) {
		label, image := g.next()
		array := arrayText(image)
		if i < arrays {
			if _, err := fmt.Fprintf(rows, "%d,%d,\"%s\"\n", i, label, array); err != nil {
				return "", "", "", err
			}
		}
		if i < inserts {
			if _, err := fmt.Fprintf(statements, "insert into other_rows values (%d, %d, '%s');\n", i, label, array); err != nil {
				return "", "", "", err
			}
		}
	}
	return hex, csv, sql, nil
}

// arrayText is an image as an array literal.
func arrayText(image []byte) []byte {
	out := append(make([]byte, 0, 4*len(image)+2), '{')
	for i, v := range image {
		if i > 0 {
			out = append(out, ',')
		}
		out = fmt.Appendf(out, "%d", v)
	}
	return append(out, '}')
}
