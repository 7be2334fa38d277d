package evaluatemodel

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	datasets "github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
)

// errNoDataset marks a dataset that is not in the schema.
var errNoDataset = errors.New("no such dataset")

// database is the tenant's schema in the training database.
type database struct {
	*postgres.Conn
	schema string
}

func (d database) name(object string) string { return postgres.Ident(d.schema, object) }

// wrap says what was being done. A session that was lost, rather than refused a statement, is a temporary fault:
// it says nothing about the model that was being scored. Missing tables and functions are a mistake of configuration.
func (d database) wrap(err error, doing string) error {
	if err != nil && postgres.State(err) == "" && d.IsClosed() {
		return fault.AsTemporary(fmt.Errorf("%s: the session was lost: %w", doing, err))
	}
	switch postgres.State(err) {
	case "42P01", "3F000", "42883": // undefined table, schema, function
		return fault.AsConfiguration(fmt.Errorf("%w; evaluate in the schema the version was trained in, after deploy-training-code and upload-dataset", postgres.Wrap(err, doing)))
	}
	return postgres.Wrap(err, doing)
}

// dataset is a packed dataset.
type dataset struct {
	datasets.Manifest
	packs string // quoted name of the pack table
}

func (d database) dataset(ctx context.Context, digest string) (dataset, error) {
	var table, manifest string
	err := d.QueryRow(ctx, "select pack_table, manifest::text from "+d.name("datasets")+" where digest = $1", digest).Scan(&table, &manifest)
	if errors.Is(err, pgx.ErrNoRows) {
		return dataset{}, fault.AsConfiguration(fmt.Errorf("schema %q of the training database has no dataset %.16s, which the version was trained on; evaluate in the schema it was trained in: %w", d.schema, digest, errNoDataset))
	}
	if err != nil {
		return dataset{}, d.wrap(err, fmt.Sprintf("read dataset %.16s from schema %q", digest, d.schema))
	}
	m, err := datasets.ParseManifest([]byte(manifest))
	if err != nil {
		return dataset{}, fmt.Errorf("dataset %.16s: %w", digest, err)
	}
	m.Digest = digest
	return dataset{Manifest: *m, packs: d.name(table)}, nil
}

// files are the statements that differ between kinds of servers.
//
//go:embed sql/postgresql/*.sql sql/greenplum/*.sql
var files embed.FS

// scoring is the statement that predicts the test split of a pack table.
func (d database) scoring(packs string) string {
	text, err := files.ReadFile("sql/" + d.Dialect.Name + "/score.sql")
	if err != nil { // the files are part of the program
		panic(err)
	}
	return strings.NewReplacer("packs_x", packs, "predict_onnx", d.name("predict_onnx")).Replace(string(text))
}

// score predicts the test split with the model, pack by pack. pass is 0 for the candidate, 1 for the champion.
func (e *evaluator) score(ctx context.Context, m inference.Model, data dataset, pass int64) (*evaluation.Scores, error) {
	keep := worstKept
	if pass > 0 {
		keep = 0
	}
	scores, err := evaluation.New(evaluation.Task(data.Task), data.Classes, keep)
	if err != nil {
		return nil, err
	}
	doing := fmt.Sprintf("score version %d on the test rows of dataset %.16s", m.Version, data.Digest)
	rows, err := e.db.Query(ctx, e.db.scoring(data.packs), m.ONNX, m.Digest)
	if err != nil {
		return nil, e.db.wrap(err, doing)
	}
	defer rows.Close()
	test := data.Splits.Test.Rows
	for rows.Next() {
		var p evaluation.Pack
		if err := rows.Scan(&p.ID, &p.N, &p.Labels, &p.Predictions); err != nil {
			return nil, e.db.wrap(err, doing)
		}
		if err := scores.Add(p); err != nil {
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
		e.progress(pass*test+scores.Rows(), 2*test)
	}
	if err := rows.Err(); err != nil {
		return nil, e.db.wrap(err, doing)
	}
	e.log.Info("scored", zap.Int("version", m.Version), zap.Int64("rows", scores.Rows()))
	return scores, nil
}

// examples reads the examples of the mistakes, and nothing else, as the raw bytes of the input.
func (d database) examples(ctx context.Context, data dataset, mistakes []evaluation.Mistake) ([][]byte, error) {
	size := data.Input.Bytes()
	out := make([][]byte, len(mistakes))
	for i, m := range mistakes {
		err := d.QueryRow(ctx, "select substring(data from $2::int for $3::int) from "+data.packs+" where split = 'test' and id = $1", m.Pack, m.Row*size+1, size).Scan(&out[i])
		if err != nil {
			return nil, d.wrap(err, fmt.Sprintf("read row %d of test pack %d", m.Row, m.Pack))
		}
		if len(out[i]) != size {
			return nil, fmt.Errorf("row %d of test pack %d has %d bytes; expected %d, a %s %v", m.Row, m.Pack, len(out[i]), size, data.Input.DType, data.Input.Shape)
		}
	}
	return out, nil
}

// origin is what the training database knows about how the candidate was made; what is gone is empty.
type origin struct {
	gate   mlapp.Gate
	app    string
	task   string
	spec   map[string]any // of the job
	best   int            // epoch the model is from
	epochs []training.Epoch
}

func (d database) origin(ctx context.Context, m inference.Model) (o origin, err error) {
	read := func(what, query, key string, into ...any) error {
		err := d.QueryRow(ctx, query, key).Scan(into...)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return d.wrap(err, fmt.Sprintf("read %s %.16s from schema %q", what, key, d.schema))
	}
	decode := func(what, text string, into any) error {
		if text == "" {
			return nil
		}
		if err := json.Unmarshal([]byte(text), into); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	var manifest, spec string
	if err := errors.Join(
		read("release", "select app, manifest::text from "+d.name("releases")+" where digest = $1 order by ordinal desc limit 1", m.CodeDigest, &o.app, &manifest),
		read("job", "select spec::text from "+d.name("jobs")+" where id = $1", m.Job, &spec),
		read("model of job", "select epoch from "+d.name("models")+" where job = $1", m.Job, &o.best),
	); err != nil {
		return origin{}, err
	}
	var app struct {
		Gate mlapp.Gate `json:"gate"`
		Task string     `json:"task"`
	}
	if err := errors.Join(decode("manifest of the ML app", manifest, &app), decode("spec of the job", spec, &o.spec)); err != nil {
		return origin{}, err
	}
	o.gate, o.task = app.Gate, app.Task
	o.epochs, err = d.epochs(ctx, m.Job)
	return o, err
}

// epochs reads the learning curve; epoch 0, the initial state, has no metrics.
func (d database) epochs(ctx context.Context, job string) ([]training.Epoch, error) {
	doing := fmt.Sprintf("read checkpoints of job %.16s from schema %q", job, d.schema)
	rows, err := d.Query(ctx, "select epoch, metrics::text from "+d.name("checkpoints")+" where job = $1 and epoch > 0 order by epoch", job)
	if err != nil {
		return nil, d.wrap(err, doing)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e training.Epoch, err error) {
		var n int
		var text string
		if err := row.Scan(&n, &text); err != nil {
			return e, err
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			return e, fmt.Errorf("metrics of epoch %d: %w", n, err)
		}
		e.Epoch = n
		return e, nil
	})
	return list, d.wrap(err, doing)
}
