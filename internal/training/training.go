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
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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

// DefaultCache is what Options.Cache is unless someone decides otherwise.
const DefaultCache = 256 << 20

// Options are how a job is driven; they do not change its result.
type Options struct {
	Schema   string
	LockWait time.Duration // how long to wait for another driver of the same job
	// Cache is how many bytes of packs the session of a shard may keep in memory from one epoch to the next.
	// A shard with more is read from its table in every epoch.
	Cache int64
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
	*sessions
	options Options
	job     Job
	cache   cache
	done    atomic.Int64   // rows of recorded epochs
	rows    []atomic.Int64 // rows of the running epoch, by shard
	telling sync.Mutex     // held while Progress is called
}

// Open connects and takes the job's lock, so that no second driver works on the job until Close.
// A lock that another driver keeps longer than LockWait is a temporary fault.
func Open(ctx context.Context, config postgres.Config, job Job, o Options) (*Driver, error) {
	d := &Driver{options: o, job: job, rows: make([]atomic.Int64, job.Spec.Shards)}
	if job.Spec.bytes(job.TrainRows) <= o.Cache {
		d.cache = fillCache
	}
	var err error
	if d.sessions, err = dial(ctx, config, o.Schema, job.PackTable, d.notice); err != nil {
		return nil, err
	}
	if err := postgres.TryLock(ctx, d.lead, lockName(o.Schema, job.ID), o.LockWait); err != nil {
		d.close()
		return nil, fmt.Errorf("job %.12s is being trained by another driver: %w", job.ID, err)
	}
	return d, nil
}

// lockName is the name of a job's advisory lock for postgres.TryLock.
func lockName(schema, job string) string { return "train:" + schema + ":" + job }

// Close ends the sessions and with them the lock.
func (d *Driver) Close() { d.close() }

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
	if _, err := d.lead.Exec(ctx, d.text("job.sql"), d.job.ID, d.job.Release.Digest, d.job.Dataset, d.job.Spec.text()); err != nil {
		return wrap(d.lead, err, "record job "+d.job.ID)
	}
	file, args := "init.sql", append(d.code(), d.job.ID)
	if d.job.Spec.Start != "" {
		file, args = "warm.sql", append(args, d.job.Spec.Start)
	}
	doing := "make the initial state of job " + d.job.ID
	conns := d.conns[:1]
	if !d.lead.Dialect.Distributed { // where it is, segments import the learner with their first pack
		var err error
		if conns, err = d.open(ctx, d.job.Spec.Shards); err != nil {
			return err
		}
	}
	return together(ctx, conns, func(ctx context.Context, k int) error {
		if k == 0 {
			_, err := d.lead.Exec(ctx, d.text(file), args...)
			return wrap(d.lead, err, doing)
		}
		// Importing a learner's libraries may take a second: the other sessions do it at the same time.
		_, err := conns[k].Exec(ctx, d.text("import.sql"), d.code()...)
		return wrap(conns[k], err, doing)
	})
}

// text is a statement of the job.
func (d *Driver) text(file string) string { return statement(d.lead.Dialect, file, d.job.PackTable) }

// code are the first three arguments of most statements: release, its ordinal, spec.
func (d *Driver) code() []any {
	return []any{d.job.Release.Digest, d.job.Release.Ordinal, d.job.Spec.text()}
}

// finish exports the best epoch and records it as the job's model.
func (d *Driver) finish(ctx context.Context, best int) error {
	var onnx []byte
	err := d.lead.QueryRow(ctx, d.text("export.sql"), append(d.code(), d.job.ID, best)...).Scan(&onnx)
	if err != nil {
		return wrap(d.lead, err, fmt.Sprintf("export epoch %d of job %s", best, d.job.ID))
	}
	sum := sha256.Sum256(onnx)
	_, err = d.lead.Exec(ctx, d.text("finish.sql"), d.job.ID, best, onnx, hex.EncodeToString(sum[:]))
	return wrap(d.lead, err, "record the model of job "+d.job.ID)
}

// learned is what a shard brings back from an epoch.
type learned struct {
	state   []byte
	rows    int64
	metrics string // JSON
}

// epoch trains all shards from the epoch before, merges them, validates the result and records it.
func (d *Driver) epoch(ctx context.Context, n int) (Epoch, error) {
	started := time.Now()
	shards, err := d.fit(ctx, n)
	if err != nil {
		return Epoch{}, err
	}
	var states [][]byte
	var rows []int64
	var metrics struct {
		Shards     []json.RawMessage `json:"shards"`
		Seconds    float64           `json:"seconds"`
		Validation *Sums             `json:"validation"`
	}
	metrics.Seconds = math.Round(time.Since(started).Seconds()*1e6) / 1e6
	for _, s := range shards {
		states, rows = append(states, s.state), append(rows, s.rows)
		metrics.Shards = append(metrics.Shards, json.RawMessage(s.metrics))
	}
	var state []byte
	err = d.once(ctx, fmt.Sprintf("merge the shards of epoch %d of job %s", n, d.job.ID), "merge.sql", append(d.code(), states, rows), &state)
	if err != nil {
		return Epoch{}, err
	}
	if metrics.Validation, err = d.validate(ctx, n, state); err != nil {
		return Epoch{}, err
	}
	text, err := json.Marshal(metrics)
	if err != nil {
		return Epoch{}, fmt.Errorf("metrics of epoch %d of job %s: %w", n, d.job.ID, err)
	}
	var recorded string
	var at time.Time
	doing := fmt.Sprintf("record epoch %d of job %s", n, d.job.ID)
	if err := d.once(ctx, doing, "record.sql", []any{d.job.ID, n, state, string(text)}, &recorded, &at); err != nil {
		if errors.Is(err, pgx.ErrNoRows) {
			err = fault.AsTemporary(fmt.Errorf("%s: another driver recorded it meanwhile", doing))
		}
		return Epoch{}, err
	}
	return parseEpoch(n, recorded, at)
}

// once runs a statement on the lead session alone and reads its one row; when ctx ends it stops on the server, too.
func (d *Driver) once(ctx context.Context, doing, file string, args []any, into ...any) error {
	return together(ctx, d.conns[:1], func(ctx context.Context, _ int) error {
		return wrap(d.lead, d.lead.QueryRow(ctx, d.text(file), args...).Scan(into...), doing)
	})
}

// fit runs the epoch's training statements and returns what the shards learned, in their order.
func (d *Driver) fit(ctx context.Context, n int) ([]learned, error) {
	doing := fmt.Sprintf("train epoch %d of job %s", n, d.job.ID)
	var before []byte
	err := d.once(ctx, doing, "state.sql", []any{d.job.ID, n - 1}, &before)
	if err != nil {
		return nil, err
	}
	args := []any{d.job.Release.Digest, d.job.Release.Ordinal, d.job.Spec.open(n, d.cache), before, d.cache == useCache}
	all, err := onShards(ctx, d.sessions, d.job.Spec.Shards, "fit.sql", doing, args, func(row pgx.CollectableRow) (l learned, err error) {
		err = row.Scan(&l.state, &l.rows, &l.metrics)
		return l, err
	})
	if err != nil && d.cache == useCache && strings.Contains(err.Error(), notCached) {
		d.cache = noCache // a segment may give a session's work to another process: it does not do so once
		return d.fit(ctx, n)
	}
	if err != nil {
		return nil, err
	}
	if d.cache == fillCache {
		d.cache = useCache
	}
	if len(all) == 0 {
		return nil, fault.AsPermanent(fmt.Errorf("%s: table %q has no packs of the train split", doing, d.job.PackTable))
	}
	return all, d.placed(doing, all)
}

// notCached begins what a session says that was to use its cache and has none.
const notCached = "the cache has no packs of this shard"

// placed makes sure that the work was done where the rows lie: a planner may have sent them all to the coordinator.
func (d *Driver) placed(doing string, all []learned) error {
	if !d.lead.Dialect.Distributed {
		return nil
	}
	for _, l := range all {
		var s Shard
		if err := json.Unmarshal([]byte(l.metrics), &s); err != nil {
			return fmt.Errorf("%s: what a shard says of itself: %w", doing, err)
		}
		if s.Segment == nil || *s.Segment < 0 {
			return fault.AsPermanent(fmt.Errorf("%s: shard %d was trained on the coordinator, where none of its rows lie; expected each on its segment: "+
				"analyze table %q, and look at the plan of the statement in internal/training/sql/greenplum/fit.sql", doing, s.Shard, d.job.PackTable))
		}
	}
	return nil
}

// validate scores a state on the validation split, each shard's packs where its rows lie; nil when there are none.
func (d *Driver) validate(ctx context.Context, n int, state []byte) (*Sums, error) {
	doing := fmt.Sprintf("validate epoch %d of job %s", n, d.job.ID)
	parts, err := onShards(ctx, d.sessions, d.job.Spec.Shards, "score.sql", doing, append(d.code(), state), func(row pgx.CollectableRow) (s Sums, err error) {
		var text []byte
		if err := row.Scan(&text); err != nil {
			return s, err
		}
		err = json.Unmarshal(text, &s)
		return s, err
	})
	if err != nil || len(parts) == 0 {
		return nil, err
	}
	sum := new(Sums)
	for _, s := range parts {
		sum.add(s)
	}
	return sum, nil
}

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
