// Package serve is the HTTP API beside the inference database.
//
// It holds no model: every answer comes from the SQL functions of a tenant's schema, through a fixed number of
// sessions that have the model loaded before the first request comes.
// It writes nothing to disk, and uploads stay in memory below a limit.
// It does not manage models; deploying and switching are the pipeline's.
package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// MaxRequestBytes is the largest limit that makes sense: the SQL functions refuse larger pictures.
const MaxRequestBytes = 32 << 20

// Config says what is served, where and within which bounds.
type Config struct {
	Listen string // host:port
	// Database is asked again whenever a session is opened: credentials may have been renewed.
	Database func() (postgres.Config, error)
	Schema   string

	Sessions        int           // sessions in the database: what is predicted at the same time
	Queue           int           // requests that may wait for a session
	RequestTimeout  time.Duration // for reading a request, waiting and predicting together
	MaxRequestBytes int64
	Drain           time.Duration // how long requests are still taken after /readyz has turned 503
	Token           string        // bearer token of the predicting routes; "" for none
	Origins         []string      // of other sites whose pages may read answers, such as https://app.example.com
	MLflowURL       string        // of MLflow's pages, as people's browsers reach them; "" if they do not

	Log *zap.Logger
	// OnListen, if set, is told the address once connections are accepted.
	OnListen func(net.Addr)
}

// heapFloor is allocated and never touched, so it takes no memory; the collector begins when the heap is twice as large.
// What is live is small, and every request leaves garbage: by Go's default it would be collected many times a
// second, which takes processor time from the database. A larger GOGC would do the same, and let a heap of large uploads grow too.
const heapFloor = 16 << 20

// Limits of the HTTP server that nobody needs to tune.
const (
	headerTimeout  = 5 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 16 << 10
	grace          = 5 * time.Second // for writing an answer after the request's own time has passed
)

func (c Config) check() error {
	var problems []error
	require := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	require(c.Schema != "", "no schema: expected that of the deployed model")
	require(c.Sessions >= 1 && c.Sessions <= 1000, "%d sessions, expected 1 to 1000", c.Sessions)
	require(c.Queue >= 0 && c.Queue <= 10000, "a queue of %d, expected 0 to 10000", c.Queue)
	require(c.RequestTimeout > 0, "a request timeout of %s, expected more than 0", c.RequestTimeout)
	require(c.MaxRequestBytes >= 1 && c.MaxRequestBytes <= MaxRequestBytes, "a limit of %d bytes a request, expected 1 to %d", c.MaxRequestBytes, int64(MaxRequestBytes))
	require(c.Drain >= 0, "a drain time of %s, expected 0 or more", c.Drain)
	for _, origin := range c.Origins {
		u, err := url.Parse(origin)
		require(err == nil && isWeb(u) && origin == u.Scheme+"://"+strings.ToLower(u.Host), "origin %q, expected one such as https://app.example.com, without a path", origin)
	}
	if c.MLflowURL != "" {
		u, err := url.Parse(c.MLflowURL)
		require(err == nil && isWeb(u) && u.User == nil && u.RawQuery == "" && u.Fragment == "", "an MLflow URL of %q, expected one such as https://mlflow.example.com", c.MLflowURL)
	}
	return fault.AsConfiguration(errors.Join(problems...))
}

func isWeb(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
}

// Run serves until ctx ends, then drains: /readyz turns 503, requests are taken for Config.Drain more,
// those under way are finished, and the sessions are closed.
// A database that is away when Run starts is waited for; one that refuses the login is an error.
func Run(ctx context.Context, c Config) error {
	if err := c.check(); err != nil {
		return err
	}
	a, err := newAPI(c)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return fault.AsConfiguration(fmt.Errorf("listen on %s: %w", c.Listen, err))
	}
	defer func() { _ = listener.Close() }()
	floor := make([]byte, heapFloor)
	defer runtime.KeepAlive(floor)
	// Sessions outlive ctx: requests that are being drained need them.
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if err := a.sessions.start(working, ctx); err != nil {
		return err
	}
	defer a.sessions.wait()
	defer stop()

	server := &http.Server{
		Handler: a, ErrorLog: zap.NewStdLog(c.Log),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: c.RequestTimeout + grace, WriteTimeout: c.RequestTimeout + 2*grace,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	c.Log.Info("serving", zap.Stringer("address", listener.Addr()), zap.String("schema", c.Schema), zap.Int("sessions", c.Sessions))
	if c.OnListen != nil {
		c.OnListen(listener.Addr())
	}
	select {
	case err := <-ended:
		return fmt.Errorf("serve on %s: %w", c.Listen, err)
	case <-ctx.Done():
	}
	a.draining.Store(true)
	c.Log.Info("draining; a second signal exits at once", zap.Duration("requests_taken_for", c.Drain))
	select {
	case err := <-ended:
		return fmt.Errorf("serve on %s: %w", c.Listen, err)
	case <-time.After(c.Drain):
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.RequestTimeout+grace)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		_ = server.Close()
		return fmt.Errorf("requests did not end within %s: %w", c.RequestTimeout+grace, err)
	}
	c.Log.Info("drained")
	return nil
}
