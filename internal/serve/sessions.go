package serve

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

const (
	// probeEvery is how old the state that /readyz tells may be, and how soon idle sessions load a new model.
	probeEvery = 5 * time.Second
	// probeTimeout bounds loading a model.
	probeTimeout = time.Minute
	// connectTimeout bounds opening a session, with what the new session is asked first: longer than postgres.Connect
	// waits for one address, for a server that accepts connections and says nothing.
	connectTimeout = 20 * time.Second
	// retryAfter is between two attempts to open a session.
	retryAfter = time.Second
)

var (
	errAway = errors.New("the inference database does not answer")
	errBusy = errors.New("all sessions are taken and the queue is full")
)

// sessions are a fixed number of database sessions, each with a goroutine that takes calls from one queue.
type sessions struct {
	config   func() (postgres.Config, error)
	schema   string
	number   int
	probe    []byte // a small picture
	calls    chan *call
	log      *zap.Logger
	finished sync.WaitGroup

	mu        sync.Mutex
	connected int
	busy      int
	model     *Model // active when a session last looked; nil for none
	noModel   error  // why there is none
}

// call is one piece of work for a session.
type call struct {
	ctx context.Context
	// run is told to work on conn, or the reason why there is none; it must not block after that.
	run func(conn *postgres.Conn, err error) error
}

// Model is the active model. A role that may only predict sees its name and version.
type Model struct {
	Name       string          `json:"name"`
	Version    int             `json:"version"`
	Digest     string          `json:"digest,omitempty"`
	Metrics    json.RawMessage `json:"metrics,omitempty"`
	DeployedAt *time.Time      `json:"deployed_at,omitempty"`
	DeployedBy string          `json:"deployed_by,omitempty"`
}

func newSessions(c Config) (*sessions, error) {
	probe, err := probePicture()
	if err != nil {
		return nil, err
	}
	return &sessions{
		config: c.Database, schema: c.Schema, number: c.Sessions, probe: probe,
		calls: make(chan *call, c.Queue+c.Sessions), log: c.Log, noModel: errAway,
	}, nil
}

// ask runs work in a session and returns its result, or sooner the reason why there can be none.
func ask[T any](ctx context.Context, s *sessions, work func(context.Context, *postgres.Conn) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1) // the session does not wait for a caller that is gone
	var zero T
	if !s.reachable() {
		return zero, errAway
	}
	c := &call{ctx: ctx, run: func(conn *postgres.Conn, err error) error {
		r := result{err: err}
		if conn != nil {
			r.value, r.err = work(ctx, conn)
			if r.err != nil && conn.IsClosed() && ctx.Err() == nil && err == nil {
				return r.err // the session was lost: the caller has not been told, once more
			}
		}
		done <- r
		return nil
	}}
	select {
	case s.calls <- c:
	default:
		return zero, errBusy
	}
	select {
	case r := <-done:
		if r.err != nil && ctx.Err() != nil { // the server says that the statement was cancelled
			return zero, ctx.Err()
		}
		return r.value, r.err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

// start opens the first session, unless until ends before, and lets the others follow; all of them last as long as ctx.
// Only a refusal that no waiting mends is an error.
func (s *sessions) start(ctx, until context.Context) error {
	first, err := s.open(until)
	if fault.Of(err) == fault.Configuration {
		return err
	}
	if err != nil {
		s.log.Warn("database away; still trying", zap.Error(err))
	}
	for range s.number {
		s.finished.Add(1)
		go func(conn *postgres.Conn) {
			defer s.finished.Done()
			s.work(ctx, conn)
		}(first)
		first = nil
	}
	return nil
}

func (s *sessions) wait() { s.finished.Wait() }

// work is one session's life: calls, a probe now and then, and a new connection when it was lost.
func (s *sessions) work(ctx context.Context, conn *postgres.Conn) {
	defer func() { s.close(conn) }()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		if conn == nil {
			if conn = s.reopen(ctx); conn == nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case c := <-s.calls:
			conn = s.serve(c, conn)
		case <-tick.C:
			s.look(ctx, conn)
		}
		if conn != nil && conn.IsClosed() {
			s.close(conn)
			conn = nil
		}
	}
}

// serve runs one call, on a new connection if the present one turns out to be lost: predictions change nothing,
// so a restart of the database between two requests costs none of them.
func (s *sessions) serve(c *call, conn *postgres.Conn) *postgres.Conn {
	if c.ctx.Err() != nil {
		return conn // nobody waits for it any more
	}
	s.count(0, 1)
	defer s.count(0, -1)
	lost := c.run(conn, nil)
	if lost == nil {
		return conn
	}
	s.close(conn)
	fresh, err := s.connect(c.ctx)
	if err != nil {
		_ = c.run(nil, err)
		return nil
	}
	s.count(1, 0)
	_ = c.run(fresh, lost)
	return fresh
}

// reopen tries until it has a session; nil when ctx ended.
// While no session of all is there, it turns away what waits in the queue.
func (s *sessions) reopen(ctx context.Context) *postgres.Conn {
	for {
		conn, err := s.open(ctx)
		if err == nil {
			return conn
		}
		s.log.Debug("no session", zap.Error(err))
		timer := time.NewTimer(retryAfter)
		for waiting := true; waiting; {
			queue := s.calls
			if s.reachable() {
				queue = nil // others serve it
			}
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case c := <-queue:
				s.turnAway(c)
			case <-timer.C:
				waiting = false
			}
		}
	}
}

// turnAway is for calls taken while no session is there; if one has come in between, the call is its.
func (s *sessions) turnAway(c *call) {
	if s.reachable() {
		select {
		case s.calls <- c:
			return
		default:
		}
	}
	_ = c.run(nil, errAway)
}

// open connects and loads the model: the session counts when it is warm.
func (s *sessions) open(ctx context.Context) (*postgres.Conn, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	s.look(ctx, conn)
	if conn.IsClosed() {
		return nil, errAway
	}
	s.count(1, 0)
	return conn, nil
}

func (s *sessions) connect(ctx context.Context) (*postgres.Conn, error) {
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	config.ApplicationName = "insitu-serve"
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return postgres.Connect(ctx, config, postgres.Options{})
}

func (s *sessions) close(conn *postgres.Conn) {
	if conn == nil {
		return
	}
	conn.Close()
	s.count(-1, 0)
}

func (s *sessions) count(connected, busy int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.connected
	s.connected += connected
	s.busy += busy
	switch {
	case before == 0 && s.connected > 0:
		s.log.Info("database connected")
	case before > 0 && s.connected == 0:
		s.model, s.noModel = nil, errAway
		s.log.Info("no session with the database")
	}
}

func (s *sessions) reachable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connected > 0
}

// state is what /readyz and /metrics tell.
type state struct {
	connected, busy, waiting int
	model                    *Model
	noModel                  error
}

func (s *sessions) state() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return state{connected: s.connected, busy: s.busy, waiting: len(s.calls), model: s.model, noModel: s.noModel}
}

// look predicts a small picture, which makes the session load the active model if it has not yet, and notes which one that is.
func (s *sessions) look(ctx context.Context, conn *postgres.Conn) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := predictOne(ctx, conn, s.schema, s.probe)
	var m *Model
	if err == nil || badInput(err) { // a model of something else than pictures refuses this one, and is loaded all the same
		m, err = active(ctx, conn, s.schema, s.probe)
	}
	if conn.IsClosed() || ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	before := s.model
	s.model, s.noModel = m, err
	s.mu.Unlock()
	switch {
	case m != nil && (before == nil || before.Name != m.Name || before.Version != m.Version):
		s.log.Info("active model", zap.String("model", m.Name), zap.Int("version", m.Version))
	case m == nil && before != nil:
		s.log.Warn("no active model", zap.Error(err))
	}
}

// Prediction is the answer for one file.
type Prediction struct {
	Label         string        `json:"label"`
	Probabilities []Probability `json:"probabilities"` // the likeliest first; none for a regression
}

// Probability is that of one class.
type Probability struct {
	Label       string  `json:"label"`
	Probability float64 `json:"probability"`
}

// row is a row of predict or predict_batch.
type row struct {
	Label         string
	Probabilities map[string]float64
	ModelName     string
	ModelVersion  int
}

func predictOne(ctx context.Context, conn *postgres.Conn, schema string, img []byte) (r row, err error) {
	err = conn.QueryRow(ctx, "select label, probabilities, model_name, model_version from "+postgres.Ident(schema, "predict")+"($1)", img).
		Scan(&r.Label, &r.Probabilities, &r.ModelName, &r.ModelVersion)
	return r, postgres.Wrap(err, "predict")
}

// predictAll predicts all files in one statement, which never mixes two versions of the model.
func predictAll(ctx context.Context, conn *postgres.Conn, schema string, imgs [][]byte) ([]row, error) {
	rows, err := conn.Query(ctx, "select label, probabilities, model_name, model_version from "+postgres.Ident(schema, "predict_batch")+"($1) order by index", imgs)
	if err != nil {
		return nil, postgres.Wrap(err, "predict_batch")
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	return all, postgres.Wrap(err, "predict_batch")
}

func runInferenceTask(ctx context.Context, conn *postgres.Conn, schema string, img []byte) (label string, err error) {
	err = conn.QueryRow(ctx, "select "+postgres.Ident(schema, "run_inference_task")+"($1)", img).Scan(&label)
	return label, postgres.Wrap(err, "run_inference_task")
}

// active asks model_versions for the active model, or a prediction if the role may not read that view.
func active(ctx context.Context, conn *postgres.Conn, schema string, probe []byte) (*Model, error) {
	var m Model
	err := conn.QueryRow(ctx, "select name, version, digest, metrics::text, deployed_at, deployed_by from "+postgres.Ident(schema, "model_versions")+" where active").
		Scan(&m.Name, &m.Version, &m.Digest, (*[]byte)(&m.Metrics), &m.DeployedAt, &m.DeployedBy)
	switch {
	case err == nil:
		return &m, nil
	case errors.Is(err, pgx.ErrNoRows):
		return nil, errNoModel
	case postgres.State(err) != insufficientPrivilege:
		return nil, postgres.Wrap(err, "read model_versions")
	}
	r, err := predictOne(ctx, conn, schema, probe)
	if badInput(err) {
		return &Model{}, nil // some model, and the role may not see which
	}
	if err != nil {
		return nil, err
	}
	return &Model{Name: r.ModelName, Version: r.ModelVersion}, nil
}
