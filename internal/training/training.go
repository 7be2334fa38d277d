// Package training drives a training that runs inside the database: it starts the
// shards of an epoch side by side on sessions of their own, has one of them merge,
// validate and record the result in one atomic statement, and stops early when the
// validation loss does.
//
// It moves no examples and does no arithmetic on models; that is the work of the SQL
// functions. It knows no model registry.
//
// A training can be killed at any moment: what the next driver of the same job finds
// is the last recorded epoch, and it ends with the same bytes.
package training

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Job is one training.
type Job struct {
	ID        string // see mlapp.JobID
	Release   Release
	Dataset   string // digest
	PackTable string
	TrainRows int64 // of one epoch, for progress
	Spec      Spec
	Epochs    int // at most this many
	Patience  int // stop after so many epochs without a better one; 0: never
}

// Options are how a job is driven; they do not change its result.
type Options struct {
	Schema   string
	LockWait time.Duration // how long to wait for another driver of the same job
	// Epoch is told every recorded epoch in order; resumed ones were recorded by an earlier driver. May be nil.
	Epoch func(e Epoch, resumed bool)
	// Progress is told the rows trained on so far, of all epochs. May be nil. Calls do not overlap with each other.
	Progress func(done, total int64)
}

// Model is the result of a job.
type Model struct {
	Job        string
	Epoch      int // the best one
	ONNX       []byte
	ONNXDigest string // SHA-256 in hex
	Created    time.Time
}

// Driver holds the sessions of one job and its lock.
type Driver struct {
	config  postgres.Config
	options Options
	job     Job
	lead    *postgres.Conn   // holds the lock and is the only one that writes; the first shard's session too
	conns   []*postgres.Conn // lead and the other shards' sessions
	done    atomic.Int64     // rows of recorded epochs
	rows    []atomic.Int64   // rows of the running epoch, by shard
	telling sync.Mutex       // held while Progress is called
}

// Open connects and takes the job's lock, so that no second driver works on the job until Close.
// A lock that another driver keeps longer than LockWait is a temporary fault.
func Open(ctx context.Context, config postgres.Config, job Job, o Options) (*Driver, error) {
	d := &Driver{config: config, options: o, job: job, rows: make([]atomic.Int64, job.Spec.Shards)}
	lead, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	d.lead, d.conns = lead, []*postgres.Conn{lead}
	if err := postgres.TryLock(ctx, lead, lockName(o.Schema, job.ID), o.LockWait); err != nil {
		d.Close()
		return nil, fmt.Errorf("job %.12s is being trained by another driver: %w", job.ID, err)
	}
	return d, nil
}

// lockName is the name of a job's advisory lock for postgres.TryLock.
func lockName(schema, job string) string { return "train:" + schema + ":" + job }

// Close ends the sessions and with them the lock.
func (d *Driver) Close() {
	for _, c := range d.conns {
		c.Close()
	}
	d.conns = nil
}

// connect opens a session whose unqualified names are the schema's.
func (d *Driver) connect(ctx context.Context) (*postgres.Conn, error) {
	c, err := postgres.Connect(ctx, d.config, postgres.Options{OnNotice: d.notice})
	if err != nil {
		return nil, err
	}
	if err := useSchema(ctx, c, d.options.Schema); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// useSchema makes the session's unqualified names those of the schema.
func useSchema(ctx context.Context, c *postgres.Conn, schema string) error {
	_, err := c.Exec(ctx, "select set_config('search_path', $1, false)", postgres.Ident(schema)+", pg_temp")
	return postgres.Wrap(err, "use schema "+strconv.Quote(schema))
}

// Model returns the job's result, if the job has ended.
func (d *Driver) Model(ctx context.Context) (m Model, found bool, err error) {
	m.Job = d.job.ID
	err = d.lead.QueryRow(ctx, "select epoch, onnx, onnx_digest, created_at from models where job = $1", d.job.ID).Scan(&m.Epoch, &m.ONNX, &m.ONNXDigest, &m.Created)
	if errors.Is(err, pgx.ErrNoRows) {
		return Model{}, false, nil
	}
	return m, err == nil, wrap(d.lead, err, "look for the model of job "+d.job.ID)
}

// Epochs returns the recorded epochs in order, without epoch 0.
func (d *Driver) Epochs(ctx context.Context) ([]Epoch, error) {
	doing := "read the checkpoints of job " + d.job.ID
	rows, err := d.lead.Query(ctx, "select epoch, metrics::text, created_at from checkpoints where job = $1 and epoch > 0 order by epoch", d.job.ID)
	if err != nil {
		return nil, wrap(d.lead, err, doing)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Epoch, error) {
		var n int
		var text string
		var at time.Time
		if err := row.Scan(&n, &text, &at); err != nil {
			return Epoch{}, err
		}
		return parseEpoch(n, text, at)
	})
	return list, wrap(d.lead, err, doing)
}

// Train runs what is left of the job and returns its result. It may be called again after an error, by a new driver.
// When ctx ends, the statements on the server are cancelled, and Train returns once they have stopped.
func (d *Driver) Train(ctx context.Context) (Model, error) {
	model, err := d.train(ctx)
	if err != nil && ctx.Err() != nil {
		return Model{}, fmt.Errorf("train job %.12s: stopped: %w", d.job.ID, ctx.Err())
	}
	return model, err
}

func (d *Driver) train(ctx context.Context) (Model, error) {
	if m, found, err := d.Model(ctx); err != nil || found {
		return m, err
	}
	if err := d.begin(ctx); err != nil {
		return Model{}, err
	}
	curve, err := d.Epochs(ctx)
	if err != nil {
		return Model{}, err
	}
	for _, e := range curve {
		d.recorded(e, true)
	}
	best, stop := choose(curve, d.job.Patience)
	for len(curve) < d.job.Epochs && !stop {
		e, err := d.epoch(ctx, len(curve)+1)
		if err != nil {
			return Model{}, err
		}
		curve = append(curve, e)
		d.recorded(e, false)
		best, stop = choose(curve, d.job.Patience)
	}
	if err := d.finish(ctx, best); err != nil {
		return Model{}, err
	}
	m, _, err := d.Model(ctx)
	return m, err
}

func (d *Driver) recorded(e Epoch, resumed bool) {
	for k := range d.rows {
		d.rows[k].Store(0)
	}
	d.done.Add(e.Train().Rows)
	d.progress()
	if d.options.Epoch != nil {
		d.options.Epoch(e, resumed)
	}
}

// begin records the job and its initial state, each unless it is there.
func (d *Driver) begin(ctx context.Context) error {
	_, err := d.lead.Exec(ctx, statement("job.sql", d.job), d.job.ID, d.job.Release.Digest, d.job.Dataset, d.job.Spec.text())
	if err != nil {
		return wrap(d.lead, err, "record job "+d.job.ID)
	}
	_, err = d.lead.Exec(ctx, statement("init.sql", d.job), d.job.Release.Digest, d.job.Release.Ordinal, d.job.Spec.text(), d.job.ID)
	return wrap(d.lead, err, "make the initial state of job "+d.job.ID)
}

// finish exports the best epoch and records it as the job's model.
func (d *Driver) finish(ctx context.Context, best int) error {
	var onnx []byte
	err := d.lead.QueryRow(ctx, statement("export.sql", d.job), d.job.Release.Digest, d.job.Release.Ordinal, d.job.Spec.text(), d.job.ID, best).Scan(&onnx)
	if err != nil {
		return wrap(d.lead, err, fmt.Sprintf("export epoch %d of job %s", best, d.job.ID))
	}
	sum := sha256.Sum256(onnx)
	_, err = d.lead.Exec(ctx, statement("finish.sql", d.job), d.job.ID, best, onnx, hex.EncodeToString(sum[:]))
	return wrap(d.lead, err, "record the model of job "+d.job.ID)
}

// learned is what a shard brings back from an epoch.
type learned struct {
	state   []byte
	rows    int64
	metrics string // JSON
}

// epoch trains all shards from the epoch before, then merges, validates and records.
func (d *Driver) epoch(ctx context.Context, n int) (Epoch, error) {
	started := time.Now()
	shards, err := d.fit(ctx, n)
	if err != nil {
		return Epoch{}, err
	}
	var states [][]byte
	var rows []int64
	metrics := `{"shards":[`
	for i, s := range shards {
		states, rows = append(states, s.state), append(rows, s.rows)
		if i > 0 {
			metrics += ","
		}
		metrics += s.metrics
	}
	metrics += `],"seconds":` + strconv.FormatFloat(time.Since(started).Seconds(), 'f', 6, 64)

	doing := fmt.Sprintf("merge, validate and record epoch %d of job %s", n, d.job.ID)
	var text string
	var at time.Time
	err = d.together(ctx, 1, func(ctx context.Context, _ int) error {
		err := d.lead.QueryRow(ctx, statement("record.sql", d.job), d.job.Release.Digest, d.job.Release.Ordinal,
			d.job.Spec.text(), d.job.ID, n, states, rows, metrics).Scan(&text, &at)
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.AsTemporary(fmt.Errorf("%s: another driver recorded it meanwhile", doing))
		}
		return wrap(d.lead, err, doing)
	})
	if err != nil {
		return Epoch{}, err
	}
	return parseEpoch(n, text, at)
}

// fit runs the epoch's training statements side by side and returns what the shards learned, in their order.
func (d *Driver) fit(ctx context.Context, n int) ([]learned, error) {
	dialect := dialectOf(d.lead.Dialect)
	sessions := 1
	if dialect.sessionPerShard {
		sessions = d.job.Spec.Shards
	}
	for len(d.conns) < sessions {
		c, err := d.connect(ctx)
		if err != nil {
			return nil, err
		}
		d.conns = append(d.conns, c)
	}
	parts := make([][]learned, sessions)
	err := d.together(ctx, sessions, func(ctx context.Context, k int) error {
		args := []any{d.job.Release.Digest, d.job.Release.Ordinal, d.job.Spec.open(n), d.job.ID, n - 1}
		doing := fmt.Sprintf("train epoch %d of job %s", n, d.job.ID)
		if dialect.sessionPerShard {
			args = append(args, k)
			doing += fmt.Sprintf(", shard %d", k)
		}
		rows, err := d.conns[k].Query(ctx, statement(dialect.fit, d.job), args...)
		if err != nil {
			return wrap(d.conns[k], err, doing)
		}
		parts[k], err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (l learned, err error) {
			return l, row.Scan(&l.state, &l.rows, &l.metrics)
		})
		return wrap(d.conns[k], err, doing)
	})
	if err != nil {
		return nil, err
	}
	var all []learned
	for _, p := range parts {
		all = append(all, p...)
	}
	if len(all) == 0 {
		return nil, fault.AsPermanent(fmt.Errorf("train epoch %d: table %q has no packs of the train split", n, d.job.PackTable))
	}
	return all, nil
}

// together runs statements on the first n sessions side by side and returns the first error once all have ended.
// When one fails or ctx ends, it asks the server to cancel the others until they have stopped:
// pgx asks once, and a request that arrives before its statement is lost.
func (d *Driver) together(ctx context.Context, n int, run func(ctx context.Context, session int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	stopped, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-stopped:
			return
		case <-ctx.Done():
		}
		for {
			select {
			case <-stopped:
				return
			case <-time.After(cancelEvery):
			}
			for _, c := range d.conns[:n] {
				ask, cancel := context.WithTimeout(context.Background(), cancelEvery)
				_ = c.PgConn().CancelRequest(ask)
				cancel()
			}
		}
	}()
	for k := range n {
		group.Go(func() error { return run(ctx, k) })
	}
	err := group.Wait()
	close(stopped)
	<-watched
	return err
}

// cancelEvery is the pause between two requests to cancel.
const cancelEvery = 200 * time.Millisecond

// wrap says what was being done; a session that was lost, rather than refused a statement, is a temporary fault.
func wrap(c *postgres.Conn, err error, doing string) error {
	if err != nil && postgres.State(err) == "" && c.IsClosed() {
		return fault.AsTemporary(fmt.Errorf("%s: the session was lost: %w", doing, err))
	}
	return postgres.Wrap(err, doing)
}

// notice takes the progress reports of the SQL functions; other notices are none of ours.
func (d *Driver) notice(n *pgconn.Notice) {
	var report struct {
		Insitu string `json:"insitu"`
		Shard  int    `json:"shard"`
		Rows   int64  `json:"rows"`
	}
	// A Greenplum segment adds its address after the text: decode the first value only.
	if json.NewDecoder(strings.NewReader(n.Message)).Decode(&report) != nil || report.Insitu != "progress" || report.Shard < 0 || report.Shard >= len(d.rows) {
		return
	}
	d.rows[report.Shard].Store(report.Rows)
	d.progress()
}

func (d *Driver) progress() {
	if d.options.Progress == nil {
		return
	}
	d.telling.Lock()
	defer d.telling.Unlock()
	done := d.done.Load()
	for k := range d.rows {
		done += d.rows[k].Load()
	}
	d.options.Progress(done, max(done, int64(d.job.Epochs)*d.job.TrainRows))
}
