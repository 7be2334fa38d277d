package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// asArray makes a numpy array of a value and looks at both its ends. The statements sum what it returns:
// the server would not even call it if nobody wanted the result.
const asArray = `create or replace function as_array(data bytea) returns bigint language plpython3u as $python$
array = GD.get("numpy", None)
if array is None:
    import numpy
    array = GD["numpy"] = numpy
values = array.frombuffer(data, array.uint8)
return int(values[0]) + int(values[-1])
$python$`

// read compares ways to get stored images into numpy.
func read(ctx context.Context, b *bench) error {
	images := scaled(many, b.scale, 2*pack)
	d, err := b.images(ctx, dataKey{images, 1, ordinary()})
	if err != nil {
		return err
	}
	conn, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, _, err := b.release(ctx, b.admin, softmax().folder); err != nil {
		return err
	}
	// Loading a release tunes malloc in the session, as in every session that trains; the plain side is tuned, too.
	if err := execAll(ctx, conn, asArray, "select load_release(digest, bundle) from releases where app = 'softmax'"); err != nil {
		return err
	}
	if err := b.rowTable(ctx, conn, "image_rows", "bytea", images); err != nil {
		return err
	}
	var sizes []int
	if err := conn.QueryRow(ctx, "select array_agg(length(data) order by id) from "+postgres.Ident(d.Table)).Scan(&sizes); err != nil {
		return err
	}
	file, err := b.rawFile(ctx, "read.raw", "select data from "+postgres.Ident(d.Table)+" order by id")
	if err != nil {
		return err
	}
	w, err := b.worker(ctx, "", "")
	if err != nil {
		return err
	}
	defer w.close()
	var packed, plain, cached, rows []float64
	var inside, outside int64
	for round := range 2*b.rounds + 2 { // the first is to warm up
		p, err := timed(func() error {
			return conn.QueryRow(ctx, "select sum(as_array(data)) from "+postgres.Ident(d.Table)).Scan(&inside)
		})
		if err != nil {
			return err
		}
		var whole, single answer
		for _, side := range []struct {
			whole bool
			into  *answer
		}{{true, &whole}, {false, &single}} {
			if *side.into, err = w.do(map[string]any{"do": "read", "path": file, "sizes": sizes, "whole": side.whole}); err != nil {
				return err
			}
		}
		outside = whole.Total
		var sum int64
		r, err := timed(func() error {
			return conn.QueryRow(ctx, "select sum(as_array(pixels)) from image_rows").Scan(&sum)
		})
		if err != nil {
			return err
		}
		if round > 0 {
			packed, plain, cached, rows = append(packed, p), append(plain, whole.Seconds), append(cached, single.Seconds), append(rows, r)
		}
	}
	if inside != outside {
		return fmt.Errorf("the two sides read different bytes: sums %d and %d", inside, outside)
	}
	b.add("plain read of a file of the same bytes to one numpy array (limit) / packs to numpy in the database", atLeast(0.45), ratio, paired(plain, packed))
	b.add("the same file in pieces of a pack, each into the memory of the last, which stays in the processor's cache / packs", goal{}, ratio, paired(cached, packed))
	b.add("one TOASTed image a row to numpy in the database / packs", atLeast(4), times, paired(rows, packed))
	return exec1(ctx, conn, "drop table image_rows")
}

// rawFile writes the bytea values of a query one after the other.
func (b *bench) rawFile(ctx context.Context, name, query string) (string, error) {
	path := filepath.Join(b.dir, name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	rows, err := b.admin.Query(ctx, query)
	if err != nil {
		return "", errors.Join(err, f.Close())
	}
	defer rows.Close()
	for rows.Next() {
		var value []byte
		if err := rows.Scan(&value); err != nil {
			return "", errors.Join(err, f.Close())
		}
		if _, err := f.Write(value); err != nil {
			return "", errors.Join(err, f.Close())
		}
	}
	return path, errors.Join(rows.Err(), f.Close())
}
