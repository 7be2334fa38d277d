package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
)

// endToEnd compares all of the work, from the data to an ONNX model and its test accuracy, with exporting the rows and training outside.
func endToEnd(ctx context.Context, b *bench) error {
	for _, t := range []struct {
		model
		epochs int
		goal   goal
	}{
		{cnn(), 3, atLeast(2.2)},
		{softmax(), 5, atLeast(7)},
	} {
		images, rounds := scaled(50_000, b.scale, 1000), max(1, b.rounds/2)
		e := &course{bench: b, model: t.model, images: images, epochs: t.epochs}
		for _, table := range [][2]string{{"export_array", "int[]"}, {"export_hex", "bytea"}} {
			if err := b.rowTable(ctx, b.admin, table[0], table[1], images); err != nil {
				return err
			}
		}
		if err := e.prepare(ctx); err != nil {
			return err
		}
		ways := []func(context.Context) (float64, error){
			e.inside,
			func(ctx context.Context) (float64, error) { return e.outside(ctx, "array") },
			func(ctx context.Context) (float64, error) { return e.outside(ctx, "hex") },
		}
		taken, accuracy := make([][]float64, len(ways)), make([][]float64, len(ways))
		for range rounds { // nothing is warm on either side, as for a user
			for i, way := range ways {
				var right float64
				s, err := timed(func() (err error) { right, err = way(ctx); return err })
				if err != nil {
					return err
				}
				taken[i], accuracy[i] = append(taken[i], s), append(accuracy[i], right)
			}
		}
		side := fmt.Sprintf("%s, %d images, %d epochs: ", t.name, images, t.epochs)
		b.add(side+"export of int[] as CSV, then plain training / upload, training on two shards, evaluation", t.goal, times, paired(taken[1], taken[0]))
		b.add(side+"export of bytea as hex, then plain training / the same", goal{}, times, paired(taken[2], taken[0]))
		b.add(side+"seconds in the database until the packs are loaded", goal{}, seconds, summarize(e.uploads))
		b.add(side+"seconds in the database from then until the ONNX model", goal{}, seconds, summarize(e.trainings))
		for i, name := range []string{"in the database", "after export of int[]", "after export of bytea"} {
			b.add(side+"seconds "+name, goal{}, seconds, summarize(taken[i]))
		}
		b.add(side+"test accuracy in the database", goal{}, percent, summarize(accuracy[0]))
		b.add(side+"test accuracy after export", goal{}, percent, summarize(accuracy[1]))
	}
	return execAll(ctx, b.admin, "drop table export_array", "drop table export_hex")
}

// course is the way from data to a tested model.
type course struct {
	*bench
	model
	images, epochs int
	spec           []byte    // JSON, for the plain side
	split          string    // rows of train and validation
	raw            string    // tar file
	uploads        []float64 // seconds
	trainings      []float64 // seconds
}

// prepare makes the raw file, deploys the app and learns what both sides must know; none of it is timed.
func (e *course) prepare(ctx context.Context) error {
	key := dataKey{e.images, 2, ordinary()}
	prepared, raw, err := e.prepared(ctx, key)
	if err != nil {
		return err
	}
	defer func() { _ = prepared.Close() }()
	m := prepared.Manifest
	e.raw, e.split = raw, fmt.Sprintf("%d,%d", m.Splits.Train.Rows, m.Splits.Validation.Rows)
	job, err := e.job(ctx, e.model, &data{m, raw}, e.epochs, 1, nil)
	if err != nil {
		return err
	}
	e.spec, err = json.Marshal(job.Spec)
	return err
}

// inside does what the steps upload-dataset, train-model and evaluate-model do, without object store and registry.
func (e *course) inside(ctx context.Context) (accuracy float64, err error) {
	began := time.Now()
	c, err := e.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	file, err := dataset.Fetch(ctx, e.raw, dataset.FetchOptions{MaxBytes: maxBytes})
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	plan, err := dataset.NewPlan(ctx, file, imageOptions(2, ordinary()), nil)
	if err != nil {
		return 0, err
	}
	prepared, err := plan.Prepare(ctx, e.dir)
	if err != nil {
		return 0, err
	}
	defer func() { _ = prepared.Close() }()
	m := prepared.Manifest
	delete(e.data, dataKey{e.images, 2, ordinary()})
	if err := execAll(ctx, c, "drop table if exists "+postgres.Ident(m.Table), "delete from datasets where digest = '"+m.Digest+"'"); err != nil {
		return 0, err
	}
	if _, err := dataset.Load(ctx, c, schema, m, prepared.Packs(), nil); err != nil {
		return 0, err
	}
	uploaded := time.Now()
	e.uploads = append(e.uploads, uploaded.Sub(began).Seconds())
	job, err := e.job(ctx, e.model, &data{m, e.raw}, e.epochs, 1, nil)
	if err != nil {
		return 0, err
	}
	if job.Spec.Rows, err = training.Fingerprint(ctx, e.training, schema, m); err != nil { // as train-model does
		return 0, err
	}
	model, err := e.trained(ctx, job, nil)
	if err != nil {
		return 0, err
	}
	e.trainings = append(e.trainings, time.Since(uploaded).Seconds())
	return score(ctx, c, m, model)
}

// score predicts the test split with the statement of evaluate-model.
func score(ctx context.Context, c *postgres.Conn, m *dataset.Manifest, model training.Model) (float64, error) {
	scores, err := evaluation.New(evaluation.Task(m.Task), m.Classes, 0)
	if err != nil {
		return 0, err
	}
	rows, err := c.Query(ctx, "select id, n, labels, predict_onnx($1::bytea, $2::text, data, n) from (select id, n, labels, data from "+
		postgres.Ident(m.Table)+" where split = 'test' order by id) packs order by id", model.ONNX, model.ONNXDigest)
	if err != nil {
		return 0, postgres.Wrap(err, "score")
	}
	defer rows.Close()
	for rows.Next() {
		var p evaluation.Pack
		if err := rows.Scan(&p.ID, &p.N, &p.Labels, &p.Predictions); err != nil {
			return 0, postgres.Wrap(err, "score")
		}
		if err := scores.Add(p); err != nil {
			return 0, err
		}
	}
	if err := rows.Err(); err != nil {
		return 0, postgres.Wrap(err, "score")
	}
	return scores.Metrics().Accuracy, nil
}

// outside exports the rows with psql and trains on them in one plain process.
func (e *course) outside(ctx context.Context, kind string) (accuracy float64, err error) {
	csv := filepath.Join(e.dir, "export-"+kind+".csv")
	if err := e.psql(ctx, "\\copy (select label, pixels from export_"+kind+") to '"+csv+"' (format csv)\n"); err != nil {
		return 0, err
	}
	out, err := e.script(ctx, "exported.py", "--app", e.folder, "--csv", csv, "--kind", kind, "--spec", string(e.spec), "--split", e.split).Output()
	if err != nil {
		return 0, fmt.Errorf("exported.py: %w", err)
	}
	var result struct {
		Rows     int     `json:"rows"`
		Accuracy float64 `json:"accuracy"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return 0, fmt.Errorf("exported.py: %w", err)
	}
	if result.Rows != e.images {
		return 0, errors.New("exported.py: it did not read all rows")
	}
	return result.Accuracy, nil
}
