package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
)

// madlibURL names a database with Apache MADlib 2 and PL/Python, whose schema named bench is dropped.
const madlibURL = "INSITU_BENCH_MADLIB_URL"

// features of a row that MADlib learns from.
const features = 32

// equalAccuracy is how much less than MADlib's our accuracy may be to count as equal: the error of 10,000 held-out rows.
const equalAccuracy = 0.005

// madlib compares with Apache MADlib, in its own database: the same kind of model to the same held-out accuracy.
func madlib(ctx context.Context, b *bench) error {
	models := []struct {
		model
		goal     goal
		curved   bool   // classes that no line parts
		train    string // MADlib's, on table train_rows
		accuracy string // of it, on table test_rows
	}{
		{model{"logistic regression", softmax().folder, map[string]any{"learning_rate": 0.1}}, atLeast(20), false,
			"select madlib.logregr_train('train_rows', 'peer', 'y = 1', 'x', null, 20, 'irls', 0.0001)",
			"select avg((madlib.logregr_predict(coef, x) = (y = 1))::int)::float8 from test_rows, peer"},
		{model{"network with one hidden layer of 32", digits().folder, map[string]any{"hidden": int64(features), "shift": 0.0, "batch_size": int64(128)}}, atLeast(5), true,
			"select madlib.minibatch_preprocessor('train_rows', 'peer_packed', 'y', 'x', null, null, true); " +
				"select madlib.mlp_classification('peer_packed', 'peer', 'independent_varname', 'dependent_varname', array[32], 'learning_rate_init=0.01, n_iterations=20, tolerance=0, batch_size=8', 'tanh')",
			"select madlib.mlp_predict('peer', 'test_rows', 'id', 'peer_said', 'response'); " +
				// The column's name has changed between versions, but not how it begins.
				"select avg((said.value = t.y::text)::int)::float8 from test_rows t join peer_said s using (id), json_each_text(row_to_json(s)) said where said.key like 'estimated%'"},
	}
	const batch = "logistic regression: madlib.logregr_predict over rows / predict_onnx over packs, a row"
	url := os.Getenv(madlibURL)
	if url == "" {
		for _, m := range models {
			b.missing(madlibWhat(m.name), m.goal, times, "not measured: "+madlibURL+" is not set")
		}
		b.missing(batch, atLeast(1), times, "not measured: "+madlibURL+" is not set")
		return nil
	}
	there, err := b.atMADlib(ctx, url)
	if err != nil {
		return err
	}
	defer there.admin.Close()
	rows := scaled(200_000, b.scale, 5_000)
	for _, m := range models {
		d, err := there.tabular(ctx, rows, m.curved)
		if err != nil {
			return err
		}
		var peer, ours []float64
		var model training.Model
		for round := range max(1, b.rounds/2) {
			if err := exec1(ctx, there.admin, "drop table if exists peer, peer_summary, peer_standardization, peer_packed, peer_packed_summary, peer_packed_standardization, peer_said"); err != nil {
				return err
			}
			taken, err := timed(func() error { return there.statements(ctx, m.train) })
			if err != nil {
				return err
			}
			accuracy, err := there.number(ctx, m.accuracy)
			if err != nil {
				return err
			}
			reached, found, err := there.until(ctx, m.model, d, int64(round), accuracy-equalAccuracy)
			if err != nil {
				return err
			}
			if !found {
				return fmt.Errorf("%s: ours did not reach MADlib's accuracy of %.4f", m.name, accuracy)
			}
			b.say("%s: MADlib %.2f s to accuracy %.4f, ours %.2f s", m.name, taken, accuracy, reached)
			peer, ours = append(peer, taken), append(ours, reached)
		}
		b.add(madlibWhat(m.name), m.goal, times, paired(peer, ours))
		if m.curved {
			continue
		}
		job, err := there.job(ctx, m.model, d, 1, 1, nil)
		if err != nil {
			return err
		}
		if model, err = there.trained(ctx, job, nil); err != nil {
			return err
		}
		var theirs, packed []float64
		for round := range b.rounds + 1 { // the first is to warm up
			var n int64
			t, err := timed(func() error {
				return there.admin.QueryRow(ctx, "select count(madlib.logregr_predict(coef, x)) from train_rows, peer").Scan(&n)
			})
			if err != nil {
				return err
			}
			var size int64
			o, err := timed(func() error {
				return there.admin.QueryRow(ctx, "select sum(length(predict_onnx($1, $2, data, n))) from "+postgres.Ident(d.Table), model.ONNX, model.ONNXDigest).Scan(&size)
			})
			if err != nil {
				return err
			}
			if round > 0 {
				theirs, packed = append(theirs, t/float64(n)), append(packed, o/float64(size/8))
			}
		}
		b.add(batch, atLeast(1), times, paired(theirs, packed))
	}
	return nil
}

func madlibWhat(model string) string {
	return model + ", 200,000 rows of 32 numbers: Apache MADlib / training on two shards to the same held-out accuracy"
}

// atMADlib is a benchmark whose training database is MADlib's.
func (b *bench) atMADlib(ctx context.Context, url string) (*bench, error) {
	parsed, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", madlibURL, err)
	}
	there := *b
	there.training = postgres.Config{Host: parsed.Host, Port: int(parsed.Port), Database: parsed.Database, Username: parsed.User, Password: parsed.Password}
	there.apps, there.data = map[string]training.Release{}, map[dataKey]*data{}
	there.admin, err = there.deployed(ctx, there.training, "training")
	return &there, err
}

// statements runs statements in the simple protocol, one after the other.
func (b *bench) statements(ctx context.Context, sql string) error {
	_, err := b.admin.PgConn().Exec(ctx, sql).ReadAll()
	return postgres.Wrap(err, sql)
}

// number is what the last of some statements returns.
func (b *bench) number(ctx context.Context, sql string) (float64, error) {
	results, err := b.admin.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return 0, postgres.Wrap(err, sql)
	}
	last := results[len(results)-1].Rows
	if len(last) != 1 || len(last[0]) != 1 {
		return 0, fmt.Errorf("%s: expected one number", sql)
	}
	return strconv.ParseFloat(string(last[0][0]), 64)
}

// until trains, cold, and returns the seconds until an epoch reached a validation accuracy.
func (b *bench) until(ctx context.Context, m model, d *data, seed int64, accuracy float64) (reached float64, found bool, err error) {
	job, err := b.job(ctx, m, d, 50, seed, nil)
	if err != nil {
		return 0, false, err
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	_, err = b.trained(running, job, func(e training.Epoch) {
		if !found && e.Validation.Accuracy() >= accuracy {
			reached, found = time.Since(began).Seconds(), true
			cancel()
		}
	})
	if found && errors.Is(err, context.Canceled) {
		err = nil
	}
	return reached, found, err
}

// tabular makes rows of two classes: tables train_rows and test_rows for MADlib, and packs of rows that are equal in number and kind.
// A pack table has a tenth more rows, on half of which our accuracy is measured.
func (b *bench) tabular(ctx context.Context, rows int, curved bool) (*data, error) {
	random := rand.New(rand.NewPCG(3, 4))
	var weights [features]float64
	for i := range weights {
		weights[i] = random.NormFloat64() / math.Sqrt(features)
	}
	next := func() (x [features]float64, y int) {
		var score float64
		for i := range x {
			x[i] = max(-4, min(4, random.NormFloat64()))
			score += weights[i] * x[i]
		}
		if curved {
			score = math.Abs(score) - 0.67 + 0.2*x[0]
		}
		if score+0.2*random.NormFloat64() > 0 {
			y = 1
		}
		return x, y
	}
	for _, table := range []struct {
		name string
		rows int
	}{{"train_rows", rows}, {"test_rows", max(1000, rows/20)}} {
		var lines bytes.Buffer
		for i := range table.rows {
			x, y := next()
			fmt.Fprintf(&lines, "%d\t%d\t{1", i, y) // the 1 is the intercept, as MADlib's manual has it
			for _, v := range x {
				lines.WriteByte(',')
				lines.Write(strconv.AppendFloat(nil, v, 'g', 7, 64))
			}
			lines.WriteString("}\n")
		}
		if err := execAll(ctx, b.admin, "drop table if exists "+table.name, "create table "+table.name+" (id int, y int, x float8[])"); err != nil {
			return nil, err
		}
		if _, err := b.admin.PgConn().CopyFrom(ctx, &lines, "copy "+table.name+" from stdin"); err != nil {
			return nil, postgres.Wrap(err, "fill "+table.name)
		}
		if err := exec1(ctx, b.admin, "vacuum analyze "+table.name); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(b.dir, "tabular.csv")
	if err := writeTabular(path, rows*10/9, next); err != nil {
		return nil, err
	}
	file, err := dataset.Fetch(ctx, path, dataset.FetchOptions{MaxBytes: maxBytes})
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	plan, err := dataset.NewPlan(ctx, file, dataset.Options{
		Task: dataset.Classification, Format: "csv", Label: "y", Labels: []string{"no", "yes"},
		Input: dataset.Input{Shape: []int{features}, DType: dataset.Float32, Range: &[2]float64{-4, 4}},
		Split: dataset.SplitOptions{Fractions: [3]float64{0.9, 0.05, 0.05}, Seed: 1}, PackSize: 4096, Shards: 2, MaxBytes: maxBytes,
	}, nil)
	if err != nil {
		return nil, err
	}
	prepared, err := plan.Prepare(ctx, b.dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = prepared.Close() }()
	_, err = dataset.Load(ctx, b.admin, schema, prepared.Manifest, prepared.Packs(), nil)
	return &data{prepared.Manifest, path}, err
}

func writeTabular(path string, rows int, next func() ([features]float64, int)) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	for i := range features {
		fmt.Fprintf(out, "x%d,", i)
	}
	fmt.Fprintln(out, "y")
	for range rows {
		x, y := next()
		for _, v := range x {
			_, _ = out.Write(append(strconv.AppendFloat(nil, v, 'g', 7, 64), ','))
		}
		fmt.Fprintln(out, []string{"no", "yes"}[y])
	}
	return errors.Join(out.Flush(), f.Close())
}
