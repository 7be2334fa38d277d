package postgres_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

func TestErrorsWithoutAWordOfTheServerAreClassified(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err  error
		want fault.Class
	}{
		"a connection that ends is temporary":               {io.EOF, fault.Temporary},
		"a connection that ends in a message is temporary":  {io.ErrUnexpectedEOF, fault.Temporary},
		"a connection closed on this side is temporary":     {net.ErrClosed, fault.Temporary},
		"a statement without rows comes back on every try":  {pgx.ErrNoRows, fault.Permanent},
		"a value of another type comes back on every try":   {errors.New("cannot scan text into *int"), fault.Permanent},
		"a deadline of the caller is temporary":             {context.DeadlineExceeded, fault.Temporary},
		"a stop by the caller is not worth another attempt": {context.Canceled, fault.Permanent},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := postgres.Wrap(tt.err, "read")
			if got := fault.Of(err); got != tt.want || !errors.Is(err, tt.err) || !strings.HasPrefix(err.Error(), "read: ") {
				t.Errorf("class %v of %q, expected %v", got, err, tt.want)
			}
		})
	}
}

func TestAConnectionLostDuringAStatementIsTemporary(t *testing.T) {
	t.Parallel()
	server := testenv.Training(t)
	proxy, cut := cuttable(t, net.JoinHostPort(server.Host, strconv.Itoa(server.Port)))
	c, err := postgres.Connect(t.Context(), postgres.Config{
		Host: "127.0.0.1", Port: proxy, Database: server.Database, Username: server.Username, Password: server.Password, SSLMode: "disable",
	}, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.AfterFunc(200*time.Millisecond, cut)
	for _, when := range []string{"during a statement", "before the next"} {
		_, err = c.Exec(t.Context(), "select pg_sleep(30)")
		if err := postgres.Wrap(err, "sleep"); err == nil || fault.Of(err) != fault.Temporary {
			t.Errorf("cut %s: class %v of %v, expected a temporary fault", when, fault.Of(err), err)
		}
	}
}

func TestAStopByTheCallerIsNotTemporaryThoughPgxCallsItATimeout(t *testing.T) {
	t.Parallel()
	c, err := postgres.Connect(t.Context(), testenv.Training(t), postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	_, err = c.Exec(stopped, "select 1")
	if err := postgres.Wrap(err, "read"); !errors.Is(err, context.Canceled) || fault.Of(err) != fault.Permanent {
		t.Errorf("class %v of %v, expected a permanent fault", fault.Of(err), err)
	}
}

// cuttable forwards one connection to the address until cut is called.
func cuttable(t *testing.T, address string) (port int, cut func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	there, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	go func() {
		here, err := l.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(there, here) }()
		go func() { _, _ = io.Copy(here, there) }()
		<-stop
		_ = here.Close()
	}()
	t.Cleanup(func() { _, _ = l.Close(), there.Close() })
	return l.Addr().(*net.TCPAddr).Port, func() { close(stop) }
}

func TestGreenplumsAddressIsNoPartOfTheMessage(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]string{
		"division by zero":                                                  "divide: division by zero (SQLSTATE 22012)",
		"a word  (segment of one)":                                          "divide: a word  (segment of one) (SQLSTATE 22012)",
		"division by zero  (seg1 slice1 10.0.0.1:6001 pid=7)":               "divide: division by zero (SQLSTATE 22012)\n  at (seg1 slice1 10.0.0.1:6001 pid=7)",
		"boom (plpy_elog.c:114)  (seg1 10.0.0.1:6 pid=7) (plpy_elog.c:114)": "divide: boom (SQLSTATE 22012)\n  at (plpy_elog.c:114)  (seg1 10.0.0.1:6 pid=7) (plpy_elog.c:114)",
	} {
		if got := postgres.Wrap(&pgconn.PgError{Code: "22012", Message: message}, "divide").Error(); got != want {
			t.Errorf("%q: got %q, want %q", message, got, want)
		}
	}
}
