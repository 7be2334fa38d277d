package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/insitu-ml/insitu/internal/fault"
)

type ctxHandler = ctxwatch.Handler

// State returns the SQLSTATE of err, "" if the server did not send one.
func State(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// Wrap says what was being done when err happened and classifies it by SQLSTATE.
// The server's detail, hint and PL/Python traceback stay in the text. nil stays nil.
func Wrap(err error, doing string) error {
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		wrapped := fmt.Errorf("%s: %w", doing, err)
		if errors.Is(err, context.Canceled) { // pgx calls it a timeout; we were told to stop
			return fault.AsPermanent(wrapped)
		}
		if connErr := new(pgconn.ConnectError); errors.As(err, &connErr) || pgconn.Timeout(err) || lost(err) {
			return fault.AsTemporary(wrapped)
		}
		return wrapped
	}
	message, address := cutAddress(pg.Message)
	text := fmt.Sprintf("%s: %s (SQLSTATE %s)", doing, message, pg.Code)
	for _, more := range []string{pg.Detail, pg.Hint, pg.Where, address, advice(pg.Code)} {
		if more != "" {
			text += "\n  " + strings.ReplaceAll(more, "\n", "\n  ")
		}
	}
	return classify(&serverError{text: text, err: err}, pg.Code)
}

// addressed is what Greenplum adds to a message: " (plpy_elog.c:114)  (seg1 slice1 10.0.0.1:6001 pid=7) (plpy_elog.c:114)" or parts of it.
var addressed = regexp.MustCompile(`(?: +\((?:seg\d+ [^()]* pid=\d+|\w+\.c:\d+)\))+$`)

// cutAddress takes it off: the same error has the same text wherever and whenever it happens.
func cutAddress(message string) (text, address string) {
	at := addressed.FindStringIndex(message)
	if at == nil {
		return message, ""
	}
	return message[:at[0]], "at " + strings.TrimSpace(message[at[0]:])
}

// advice is what the server does not say about an error that is not the statement's.
func advice(state string) string {
	if state != "57014" { // query canceled
		return ""
	}
	return "either somebody cancelled the statement, or it took longer than the statement_timeout of the role or database, " +
		"which must leave time for the longest one (an epoch, the loading of a dataset): alter role ... set statement_timeout = 0"
}

// lost tells whether the connection ended without a word of the server, during a statement or before it was sent.
func lost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err)
}

// serverError replaces pgx's text, which drops the detail, and keeps the chain.
type serverError struct {
	text string
	err  error
}

func (e *serverError) Error() string { return e.text }
func (e *serverError) Unwrap() error { return e.err }

func classify(err error, state string) error {
	switch {
	case strings.HasPrefix(state, "28"), // invalid authorization
		state == "3D000", // database does not exist
		state == "42501": // insufficient privilege
		return fault.AsConfiguration(err)
	case strings.HasPrefix(state, "08"), // connection exceptions
		state == "53300",                                     // too many connections
		state == "57P01", state == "57P02", state == "57P03", // shutting down, starting up
		state == "40001", state == "40P01", // serialization, deadlock
		state == "55P03", state == "55006": // lock not available, object in use
		return fault.AsTemporary(err)
	}
	return fault.AsPermanent(err)
}
