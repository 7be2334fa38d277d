package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// sessions are a fixed number of database sessions, each with a goroutine that takes calls from two queues.
type sessions struct {
	config   func() (postgres.Config, error)
	schema   string
	number   int
	probe    []byte // a small picture
	calls    chan *call
	pictures chan *call // those with imgs
	log      *zap.Logger
	finished sync.WaitGroup

	mu         sync.Mutex
	connected  int
	busy       int
	predicting int           // sessions that predict pictures
	predicted  int           // the pictures they predict
	took       time.Duration // what predicting pictures took last
	batches    int           // statements that predicted pictures
	model      *Model        // active when a session last looked; nil for none
	noModel    error         // why there is none
}

// call is one piece of work for a session.
type call struct {
	ctx context.Context
	// run is told to work on conn, or the reason why there is none; it must not block after that.
	run func(conn *postgres.Conn, err error) error
	// imgs are pictures that a session may predict together with those of other calls; answer is then told their rows.
	imgs   [][]byte
	answer func([]row)
}

// result is what a call came to.
type result[T any] struct {
	value T
	err   error
}

// Model is the active model. A role that may only predict sees its name and version.
type Model struct {
	Name       string          `json:"name"`
	Version    int             `json:"version"`
	Takes      string          `json:"takes,omitempty"`      // pictures or rows
	Columns    json.RawMessage `json:"columns,omitempty"`    // their names in order, of a model of rows
	Input      json.RawMessage `json:"input,omitempty"`      // shape, dtype, range
	Report     string          `json:"report,omitempty"`     // where its evaluation report is, relative to the service
	MLflowURL  string          `json:"mlflow_url,omitempty"` // of its page there
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
		calls: make(chan *call, c.Queue+c.Sessions), pictures: make(chan *call, c.Queue+c.Sessions), log: c.Log, noModel: errAway,
	}, nil
}

// ask runs work in a session and returns its result, or sooner the reason why there can be none.
func ask[T any](ctx context.Context, s *sessions, work func(context.Context, *postgres.Conn) (T, error)) (T, error) {
	c, done := newCall(ctx, work)
	return await(s, s.calls, c, done)
}

// predict predicts the pictures of one request in one statement, which never mixes two versions of the model.
func (s *sessions) predict(ctx context.Context, imgs [][]byte) ([]row, error) {
	c, done := newCall(ctx, func(ctx context.Context, conn *postgres.Conn) ([]row, error) {
		return s.predictAll(ctx, conn, imgs)
	})
	c.imgs, c.answer = imgs, func(rows []row) { done <- result[[]row]{value: rows} }
	return await(s, s.pictures, c, done)
}

func newCall[T any](ctx context.Context, work func(context.Context, *postgres.Conn) (T, error)) (*call, chan result[T]) {
	done := make(chan result[T], 1) // the session does not wait for a caller that is gone
	return &call{ctx: ctx, run: func(conn *postgres.Conn, err error) error {
		r := result[T]{err: err}
		if conn != nil {
			r.value, r.err = work(ctx, conn)
			if r.err != nil && conn.IsClosed() && ctx.Err() == nil && err == nil {
				return r.err // the session was lost: the caller has not been told, once more
			}
		}
		done <- r
		return nil
	}}, done
}

func await[T any](s *sessions, queue chan<- *call, c *call, done <-chan result[T]) (T, error) {
	var zero T
	if !s.reachable() {
		return zero, errAway
	}
	select {
	case queue <- c:
	default:
		return zero, errBusy
	}
	select {
	case r := <-done:
		if r.err != nil && c.ctx.Err() != nil { // the server says that the statement was cancelled
			return zero, c.ctx.Err()
		}
		return r.value, r.err
	case <-c.ctx.Done():
		return zero, c.ctx.Err()
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
		case c := <-s.pictures:
			conn = s.serveTogether(s.gather(c), conn)
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

// Bounds of a batch, above what one request may bring: nothing is gathered to a batch that has reached one of them.
const (
	batchPictures = 64
	batchBytes    = 16 << 20
)

// batchWait is the longest that a session waits for company, see gather.
const batchWait = 2 * time.Millisecond

// gather adds other calls to the first: a session's share of those that wait at this moment, as taking all would leave
// the others idle. If that is less than what the other sessions predict now, it waits for more, for half the time that a
// statement takes and at most batchWait: callers who have just been answered come back a little apart, and a statement
// for each of them would cost more than it gives. While no other session predicts, it waits for none.
func (s *sessions) gather(first *call) []*call {
	var batch []*call
	pictures, size := 0, 0
	add := func(c *call) {
		if c.ctx.Err() != nil {
			return // nobody waits for it any more
		}
		batch = append(batch, c)
		pictures += len(c.imgs)
		for _, img := range c.imgs {
			size += len(img)
		}
	}
	add(first)
	full := func() bool { return pictures >= batchPictures || size >= batchBytes }
	for share := (len(s.pictures) + s.number - 1) / s.number; share > 0 && !full(); share-- {
		select {
		case c := <-s.pictures:
			add(c)
		default:
			share = 0
		}
	}
	others, wait := s.others()
	if full() || pictures >= others {
		return batch
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for !full() && pictures < others {
		select {
		case c := <-s.pictures:
			add(c)
			others, _ = s.others()
		case <-timer.C:
			return batch
		}
	}
	return batch
}

// others is how many pictures a session that predicts has, if any does, and how long it is worth waiting for as many.
func (s *sessions) others() (pictures int, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.predicting == 0 {
		return 0, 0
	}
	return s.predicted / s.predicting, min(s.took/2, batchWait)
}

// together counts a session that predicts some pictures until done.
func (s *sessions) together(pictures int) (done func()) {
	began := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches++
	s.predicting, s.predicted = s.predicting+1, s.predicted+pictures
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.predicting, s.predicted = s.predicting-1, s.predicted-pictures
		s.took = time.Since(began)
	}
}

// serveTogether predicts the pictures of several calls in one statement. If that fails, each call is served alone:
// a file that is refused is the business of the call that brought it.
func (s *sessions) serveTogether(batch []*call, conn *postgres.Conn) *postgres.Conn {
	if len(batch) > 1 && s.tryTogether(batch, conn) {
		return conn
	}
	for _, c := range batch {
		if conn != nil && conn.IsClosed() {
			s.close(conn)
			conn = nil
		}
		if conn == nil {
			var err error
			if conn, err = s.connect(c.ctx); err != nil {
				_ = c.run(nil, err)
				continue
			}
			s.count(1, 0)
		}
		conn = s.serve(c, conn)
	}
	return conn
}

func (s *sessions) tryTogether(batch []*call, conn *postgres.Conn) bool {
	s.count(0, 1)
	defer s.count(0, -1)
	ctx, cancel := untilAllAreGone(batch)
	defer cancel()
	var imgs [][]byte
	for _, c := range batch {
		imgs = append(imgs, c.imgs...)
	}
	rows, err := s.predictAll(ctx, conn, imgs)
	if err != nil {
		return false
	}
	for _, c := range batch {
		c.answer(rows[:len(c.imgs):len(c.imgs)])
		rows = rows[len(c.imgs):]
	}
	return true
}

// untilAllAreGone is done when nobody waits for any of the calls any more.
func untilAllAreGone(batch []*call) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		for _, c := range batch {
			select {
			case <-c.ctx.Done():
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, cancel
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
			calls, pictures := s.calls, s.pictures
			if s.reachable() {
				calls, pictures = nil, nil // others serve them
			}
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case c := <-calls:
				s.turnAway(c, s.calls)
			case c := <-pictures:
				s.turnAway(c, s.pictures)
			case <-timer.C:
				waiting = false
			}
		}
	}
}

// turnAway is for calls taken while no session is there; if one has come in between, the call is its.
func (s *sessions) turnAway(c *call, queue chan<- *call) {
	if s.reachable() {
		select {
		case queue <- c:
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
	batches                  int
	model                    *Model
	noModel                  error
}

func (s *sessions) state() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return state{connected: s.connected, busy: s.busy, waiting: len(s.calls) + len(s.pictures), batches: s.batches, model: s.model, noModel: s.noModel}
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

// Prediction is the answer for one file or row.
type Prediction struct {
	Label         string        `json:"label"`
	Probabilities []Probability `json:"probabilities"`   // the likeliest first; none for a regression
	Model         *Model        `json:"model,omitempty"` // where a canary answered in another's place
}

// Probability is that of one class.
type Probability struct {
	Label       string  `json:"label"`
	Probability float64 `json:"probability"`
}

// row is a row of predict or predict_batch.
type row struct {
	Label         string
	Probabilities []byte // a JSON object by class, which not every route reads; nil for a regression
	ModelName     string
	ModelVersion  int
}

func predictOne(ctx context.Context, conn *postgres.Conn, schema string, img []byte) (r row, err error) {
	err = conn.QueryRow(ctx, "select label, probabilities, model_name, model_version from "+postgres.Ident(schema, "predict")+"($1)", img).
		Scan(&r.Label, &r.Probabilities, &r.ModelName, &r.ModelVersion)
	return r, postgres.Wrap(err, "predict")
}

// predictAll predicts all pictures in one statement.
func (s *sessions) predictAll(ctx context.Context, conn *postgres.Conn, imgs [][]byte) ([]row, error) {
	defer s.together(len(imgs))()
	rows, err := conn.Query(ctx, "select label, probabilities, model_name, model_version from "+postgres.Ident(s.schema, "predict_batch")+"($1) order by index", imgs)
	if err != nil {
		return nil, postgres.Wrap(err, "predict_batch")
	}
	return collect(rows, "predict_batch", len(imgs))
}

// predictRows predicts n rows of columns, given as a JSON array, in one statement.
func predictRows(ctx context.Context, conn *postgres.Conn, schema string, all json.RawMessage, n int) ([]row, error) {
	rows, err := conn.Query(ctx, "select label, probabilities, model_name, model_version from "+postgres.Ident(schema, "predict_rows")+"($1) order by index", string(all))
	if err != nil {
		return nil, postgres.Wrap(err, "predict_rows")
	}
	return collect(rows, "predict_rows", n)
}

func collect(rows pgx.Rows, function string, n int) ([]row, error) {
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err == nil && len(all) != n {
		err = fmt.Errorf("%d rows for %d examples", len(all), n)
	}
	return all, postgres.Wrap(err, function)
}

// active asks model_versions for the active model, and the model itself what it takes; a role that may not read that view
// learns from a prediction which model it is.
func active(ctx context.Context, conn *postgres.Conn, schema string, probe []byte) (*Model, error) {
	var m Model
	read := func(takes string) error {
		return conn.QueryRow(ctx, "select name, version, digest, metrics::text, deployed_at, deployed_by, "+takes+" from "+postgres.Ident(schema, "model_versions")+" where active").
			Scan(&m.Name, &m.Version, &m.Digest, (*[]byte)(&m.Metrics), &m.DeployedAt, &m.DeployedBy, (*[]byte)(&m.Columns), (*[]byte)(&m.Input))
	}
	err := read("nullif(columns::text, 'null'), input::text")
	if postgres.State(err) == noColumn { // a schema of an older release
		err = read("null::text, null::text")
	}
	hidden := postgres.State(err) == insufficientPrivilege
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, errNoModel
	case err != nil && !hidden:
		return nil, postgres.Wrap(err, "read model_versions")
	}
	r, err := predictOne(ctx, conn, schema, probe)
	switch {
	case err == nil:
		m.Columns = nil // of a picture, they are its pixels
		if m.Takes = "pictures"; hidden {
			m.Name, m.Version = r.ModelName, r.ModelVersion
		}
	case postgres.State(err) == wrongShape:
		m.Takes = "rows" // the model's input is no picture
	case hidden && !badInput(err):
		return nil, err
	}
	return &m, nil
}
