package serve

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// SQLSTATEs of the inference schema's functions; database/inference/runtime raises those that begin with IS.
const (
	notAnImage            = "IS001"
	wrongShape            = "IS002"
	noActiveModel         = "IS003"
	modelCorrupt          = "IS004"
	tooLarge              = "IS005"
	wrongRow              = "IS007"
	insufficientPrivilege = "42501"
	noSchema              = "3F000"
	noFunction            = "42883"
	noTable               = "42P01"
	noColumn              = "42703"
)

var (
	errNoModel = errors.New("no model is active in this schema")
	errNoRows  = errors.New("the functions in this schema predict pictures only, not rows; an operator brings them up to date with deploy-inference-db")
)

// problem is an answer that is no result. Its JSON is that of the original API, for every status.
type problem struct {
	status int
	loc    []any
	msg    string
	kind   string
	// retry is when asking again may help, in seconds; 0 for never.
	retry int
	cause error // for the log
}

type detail struct {
	Loc  []any  `json:"loc"`
	Msg  string `json:"msg"`
	Type string `json:"type"`
}

func (p *problem) body() any {
	loc := p.loc
	if loc == nil {
		loc = []any{}
	}
	return map[string]any{"detail": []detail{{Loc: loc, Msg: p.msg, Type: p.kind}}}
}

func (p *problem) headers(h http.Header) {
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retry))
	}
}

// clientGone is what the log says when nobody waits for the answer; it is never sent.
const clientGone = 499

// badInput tells whether the database refused the picture, not the request as a whole.
func badInput(err error) bool {
	switch postgres.State(err) {
	case notAnImage, wrongShape, tooLarge:
		return true
	}
	return false
}

// refusal turns an error of a session into an answer.
// Errors of predict_batch and predict_rows name what they are about: "image 2: ...", "row 2 has ...", "row 2, column 'a' ...".
func refusal(err error) *problem {
	text, loc := err.Error(), []any{"body", "file"}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		text = strings.TrimPrefix(pg.Message, "plpy.Error: ")
		if m := regexp.MustCompile(`(?s)^image ([0-9]+): (.*)`).FindStringSubmatch(text); m != nil {
			text, loc = m[2], append(loc, number(m[1]))
		} else if m := regexp.MustCompile(`(?s)^row ([0-9]+)(, |: | )(.*)`).FindStringSubmatch(text); m != nil {
			text, loc = m[3], []any{"body", "rows", number(m[1])}
			if m[2] == " " { // "has no column 'a'"
				text = "it " + text
			}
			if pg.Hint != "" {
				text += "; " + pg.Hint
			}
		}
	}
	switch postgres.State(err) {
	case notAnImage:
		return &problem{status: http.StatusUnprocessableEntity, loc: loc, msg: text, kind: "not_an_image"}
	case wrongShape:
		return &problem{status: http.StatusUnprocessableEntity, loc: loc, msg: text, kind: "wrong_shape"}
	case wrongRow:
		return &problem{status: http.StatusUnprocessableEntity, loc: loc, msg: text, kind: "wrong_row"}
	case tooLarge:
		return &problem{status: http.StatusRequestEntityTooLarge, loc: loc, msg: text, kind: "too_large"}
	case noActiveModel:
		return &problem{status: http.StatusServiceUnavailable, msg: text, kind: "no_model", retry: 10, cause: err}
	case noSchema, noFunction, noTable:
		return &problem{status: http.StatusServiceUnavailable, msg: "no model has been deployed in this schema yet", kind: "no_model", retry: 10, cause: err}
	case modelCorrupt:
		return &problem{status: http.StatusServiceUnavailable, msg: text, kind: "model_corrupt", retry: 60, cause: err}
	case insufficientPrivilege:
		return &problem{status: http.StatusServiceUnavailable, msg: "the API's database role may not predict in this schema; its owner grants that with grant_inference", kind: "not_granted", retry: 60, cause: err}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &problem{status: clientGone, kind: "client_gone", msg: "the client is gone"}
	case errors.Is(err, context.DeadlineExceeded):
		return &problem{status: http.StatusGatewayTimeout, msg: "the prediction took too long", kind: "timeout", cause: err}
	case errors.Is(err, errNoModel):
		return &problem{status: http.StatusServiceUnavailable, msg: err.Error(), kind: "no_model", retry: 10}
	case errors.Is(err, errNoRows):
		return &problem{status: http.StatusNotImplemented, msg: err.Error(), kind: "not_supported"}
	case errors.Is(err, errBusy):
		return &problem{status: http.StatusServiceUnavailable, msg: err.Error(), kind: "busy", retry: 1}
	case errors.Is(err, errAway), fault.Of(err) != fault.Permanent, outOfResources(err):
		return &problem{status: http.StatusServiceUnavailable, msg: errAway.Error(), kind: "database_away", retry: 2, cause: err}
	}
	return &problem{status: http.StatusInternalServerError, msg: "a mistake in the service; its log says which, under this answer's X-Request-Id", kind: "internal", cause: err}
}

// number is that of an image or a row as programs count.
func number(digits string) int {
	n, _ := strconv.Atoi(digits) // what a pattern found
	return n - 1
}

// outOfResources are memory, disk, connections; and operators who cancel a statement or stop the server.
func outOfResources(err error) bool {
	state := postgres.State(err)
	return strings.HasPrefix(state, "53") || strings.HasPrefix(state, "57")
}

func missing(why string) *problem {
	msg := "Field required"
	if why != "" {
		msg += ": " + why
	}
	return &problem{status: http.StatusUnprocessableEntity, loc: []any{"body", "file"}, msg: msg, kind: "missing"}
}

func bodyTooLarge(limit int64) *problem {
	return &problem{status: http.StatusRequestEntityTooLarge, loc: []any{"body"}, msg: fmt.Sprintf("the request has more than %d bytes", limit), kind: "too_large"}
}
