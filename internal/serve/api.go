package serve

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// api answers HTTP requests.
type api struct {
	config   Config
	sessions *sessions
	metrics  *metrics
	docs     page
	start    page
	routes   []route
	// uploads has room for the requests whose bodies may be in memory at the same time.
	uploads  chan struct{}
	draining atomic.Bool
}

// route is one path; each has one method.
type route struct {
	method, path string
	predicts     bool // asks the database: needs the token, and is logged at level info
	answer       func(w http.ResponseWriter, r *http.Request) *problem
}

func newAPI(c Config) (*api, error) {
	s, err := newSessions(c)
	if err != nil {
		return nil, err
	}
	docs, err := render(c.Token != "")
	if err != nil {
		return nil, err
	}
	a := &api{config: c, sessions: s, docs: docs, start: startPage(), uploads: make(chan struct{}, c.Sessions+c.Queue)}
	a.metrics = newMetrics(s)
	a.routes = []route{
		{http.MethodPost, "/inference", true, a.inference},
		{http.MethodPost, "/v1/predict", true, a.predict},
		{http.MethodGet, "/v1/model", true, a.model},
		{http.MethodGet, reportPath, true, a.report},
		{http.MethodGet, "/healthz", false, a.healthz},
		{http.MethodGet, "/readyz", false, a.readyz},
		{http.MethodGet, "/metrics", false, a.metrics.answer},
		{http.MethodGet, "/openapi.json", false, a.openAPI},
		{http.MethodGet, "/docs", false, a.docs.answer},
		{http.MethodGet, "/", false, a.start.answer},
	}
	return a, nil
}

// inference is the original's route: a picture in, a bare JSON string out.
func (a *api) inference(w http.ResponseWriter, r *http.Request) *problem {
	done, p := a.room()
	if p != nil {
		return p
	}
	defer done()
	imgs, p := files(w, r, a.config.MaxRequestBytes, 1)
	if p != nil {
		return p
	}
	rows, err := a.sessions.predict(r.Context(), imgs)
	if err != nil {
		p := refusal(err)
		p.loc = p.loc[:min(2, len(p.loc))] // the only file has no number
		return p
	}
	a.count(rows)
	return write(w, http.StatusOK, rows[0].Label)
}

// predicted is the answer of /v1/predict.
type predicted struct {
	Predictions  []Prediction `json:"predictions"`  // in the order of the files or rows
	Model        Model        `json:"model"`        // of the predictions that name no other
	Milliseconds float64      `json:"milliseconds"` // waiting for a session and predicting
}

const defaultTop = 5

func (a *api) predict(w http.ResponseWriter, r *http.Request) *problem {
	top := defaultTop
	if text := r.URL.Query().Get("top"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return &problem{status: http.StatusUnprocessableEntity, loc: []any{"query", "top"}, msg: "expected a whole number of at least 1", kind: "value_error"}
		}
		top = n
	}
	done, p := a.room()
	if p != nil {
		return p
	}
	defer done()
	var ask func() ([]row, error)
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/json" {
		t, p := readTable(w, r, a.config.MaxRequestBytes)
		if p != nil {
			return p
		}
		top = cmp.Or(t.top, top)
		ask = func() ([]row, error) { return a.sessions.predictTable(r.Context(), t) }
	} else {
		imgs, p := files(w, r, a.config.MaxRequestBytes, maxFiles)
		if p != nil {
			return p
		}
		ask = func() ([]row, error) { return a.sessions.predict(r.Context(), imgs) }
	}
	began := time.Now()
	rows, err := ask()
	if err != nil {
		return refusal(err)
	}
	out := predicted{Model: Model{Name: rows[0].ModelName, Version: rows[0].ModelVersion}, Milliseconds: milliseconds(began)}
	for _, row := range rows {
		p := Prediction{Label: row.Label}
		if p.Probabilities, err = likeliest(row.Probabilities, top); err != nil {
			return refusal(err)
		}
		if row.ModelName != out.Model.Name || row.ModelVersion != out.Model.Version {
			p.Model = &Model{Name: row.ModelName, Version: row.ModelVersion}
		}
		out.Predictions = append(out.Predictions, p)
	}
	a.count(rows)
	return write(w, http.StatusOK, out)
}

func (a *api) count(rows []row) {
	for _, row := range rows {
		a.metrics.predictions.WithLabelValues(row.ModelName, strconv.Itoa(row.ModelVersion)).Inc()
	}
}

// likeliest are the first n of a JSON object of probabilities, equal ones by name.
func likeliest(object []byte, n int) ([]Probability, error) {
	var all map[string]float64
	if object != nil {
		if err := json.Unmarshal(object, &all); err != nil {
			return nil, fmt.Errorf("read the probabilities: %w", err)
		}
	}
	out := make([]Probability, 0, len(all))
	for label, p := range all {
		out = append(out, Probability{label, p})
	}
	slices.SortFunc(out, func(x, y Probability) int {
		return cmp.Or(cmp.Compare(y.Probability, x.Probability), cmp.Compare(x.Label, y.Label))
	})
	return out[:min(n, len(out))], nil
}

// room is taken by a request whose body is read into memory; done gives it back.
func (a *api) room() (done func(), p *problem) {
	select {
	case a.uploads <- struct{}{}:
		return func() { <-a.uploads }, nil
	default:
		return nil, refusal(errBusy)
	}
}

func (a *api) model(w http.ResponseWriter, r *http.Request) *problem {
	m, err := ask(r.Context(), a.sessions, func(ctx context.Context, c *postgres.Conn) (*Model, error) {
		return active(ctx, c, a.config.Schema, a.sessions.probe)
	})
	if err != nil {
		return refusal(err)
	}
	if a.config.MLflowURL != "" && m.Name != "" {
		m.MLflowURL = strings.TrimSuffix(a.config.MLflowURL, "/") + "/#/models/" + url.PathEscape(m.Name) + "/versions/" + strconv.Itoa(m.Version)
	}
	if m.Report, err = a.reportLink(r.Context()); err != nil {
		return refusal(err)
	}
	return write(w, http.StatusOK, m)
}

// healthz says that the process works: a restart would not mend what is wrong with the database.
func (a *api) healthz(w http.ResponseWriter, _ *http.Request) *problem {
	return write(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readiness is the answer of /readyz.
type readiness struct {
	Status   string  `json:"status"` // ready, draining, database_away
	Sessions int     `json:"sessions"`
	Model    *Model  `json:"model"`
	Reason   *string `json:"reason"` // why there is no model
}

// readyz is about the database only. Without a model the API is ready as well: it says so to those who ask,
// and an installation must not wait for the first training.
func (a *api) readyz(w http.ResponseWriter, _ *http.Request) *problem {
	s := a.sessions.state()
	out, status := readiness{Status: "ready", Sessions: s.connected}, http.StatusOK
	if s.model != nil { // without its metrics: this route takes no token
		out.Model = &Model{Name: s.model.Name, Version: s.model.Version}
	}
	if s.noModel != nil && s.model == nil {
		reason := refusal(s.noModel).msg
		out.Reason = &reason
	}
	switch {
	case a.draining.Load():
		out.Status, status = "draining", http.StatusServiceUnavailable
	case s.connected == 0:
		out.Status, status = "database_away", http.StatusServiceUnavailable
	}
	return write(w, status, out)
}

func (a *api) openAPI(w http.ResponseWriter, _ *http.Request) *problem {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI)
	return nil
}

// answer sends a page with what its browser may do.
func (p page) answer(w http.ResponseWriter, _ *http.Request) *problem {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", p.policy)
	w.Header().Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(p.html)
	return nil
}

// write sends JSON as the original does: no newline, no HTML escapes.
func write(w http.ResponseWriter, status int, value any) *problem {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return refusal(fmt.Errorf("encode the answer: %w", err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	return nil
}

// ServeHTTP finds the route, lets it answer within its time, and logs and counts what came of it.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	id := requestID(r.Header.Get("X-Request-Id"))
	out := &recorder{ResponseWriter: w}
	out.Header().Set("X-Request-Id", id)
	out.Header().Set("X-Content-Type-Options", "nosniff")
	out.Header().Set("Cache-Control", "no-store")
	ctx, cancel := context.WithTimeout(r.Context(), a.config.RequestTimeout)
	defer cancel()
	body := &counter{ReadCloser: r.Body}
	r = r.WithContext(ctx)
	r.Body = body

	preflight := a.shareWith(out.Header(), r)
	to, p := a.find(out, r)
	switch {
	case preflight:
		p = nil
		out.WriteHeader(http.StatusNoContent)
	case p == nil:
		p = a.try(to, out, r)
	}
	if p != nil && p.status != clientGone && out.status == 0 {
		p.headers(out.Header())
		write(out, p.status, p.body())
	}
	status := out.status
	if p != nil {
		status = p.status
	}
	a.metrics.seen(to.path, r.Method, status, began)
	level := zapcore.DebugLevel
	if to.predicts || p != nil {
		level = zapcore.InfoLevel
	}
	if status == http.StatusInternalServerError {
		level = zapcore.ErrorLevel
	}
	entry := a.config.Log.Check(level, "request")
	if entry == nil {
		return
	}
	fields := []zap.Field{
		zap.String("id", id), zap.String("method", r.Method), zap.String("route", to.path), zap.Int("status", status),
		zap.Float64("milliseconds", milliseconds(began)), zap.Int64("bytes_received", body.n.Load()), zap.Int64("bytes_sent", out.n), zap.String("client", clientOf(r)),
	}
	if p != nil {
		fields = append(fields, zap.String("problem", p.kind))
		if p.cause != nil {
			fields = append(fields, zap.NamedError("cause", p.cause))
		}
	}
	entry.Write(fields...)
}

// find returns the request's route if it exists, takes the method and the caller may use it.
func (a *api) find(w http.ResponseWriter, r *http.Request) (route, *problem) {
	i := slices.IndexFunc(a.routes, func(to route) bool { return to.path == r.URL.Path })
	if i < 0 {
		return route{path: "other"}, &problem{status: http.StatusNotFound, msg: "no such path; /docs lists them", kind: "not_found"}
	}
	to := a.routes[i]
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if method != to.method {
		w.Header().Set("Allow", to.method)
		return to, &problem{status: http.StatusMethodNotAllowed, msg: "expected the method " + to.method, kind: "method_not_allowed"}
	}
	if to.predicts && !a.allowed(r) && !a.admits(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return to, &problem{status: http.StatusUnauthorized, loc: []any{"header", "Authorization"}, msg: "expected the service's bearer token", kind: "unauthorized"}
	}
	return to, nil
}

// shareWith lets pages of the origins that the configuration lists read the answer, and says whether r only asks for that.
// Credentials of a browser, such as cookies, are never allowed: a token is sent by the page itself.
func (a *api) shareWith(h http.Header, r *http.Request) (preflight bool) {
	if len(a.config.Origins) == 0 {
		return false
	}
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	i := slices.IndexFunc(a.routes, func(to route) bool { return to.predicts && to.path == r.URL.Path })
	if i < 0 || !slices.Contains(a.config.Origins, origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "Retry-After, X-Request-Id")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", a.routes[i].method)
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id")
	h.Set("Access-Control-Max-Age", "600")
	return true
}

func (a *api) allowed(r *http.Request) bool {
	if a.config.Token == "" {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	given, want := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(a.config.Token))
	return subtle.ConstantTimeCompare(given[:], want[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}

// try turns a panic into an answer.
func (a *api) try(to route, w http.ResponseWriter, r *http.Request) (p *problem) {
	defer func() {
		if v := recover(); v != nil {
			p = refusal(fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
		}
	}()
	return to.answer(w, r)
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	n      int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.n += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController find the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// counter counts the bytes of a request's body; the server may still read it when the answer is being logged.
type counter struct {
	io.ReadCloser
	n atomic.Int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// requestID is the caller's id if it is a harmless one, else a new one.
func requestID(given string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c)
	}
	if given != "" && len(given) <= 64 && !strings.ContainsFunc(given, func(c rune) bool { return !plain(c) }) {
		return given
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func clientOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func milliseconds(since time.Time) float64 {
	return float64(time.Since(since).Microseconds()) / 1000
}
