package serve

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// reportPath is the route of the active version's evaluation report.
const reportPath = "/v1/report"

// reportPolicy is for a document that came with the model: it may show its own styles and pictures, in an origin of its own,
// run nothing and reach nobody. The page at / may frame it.
const reportPolicy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"

// ticketLife is how long a link to the report works in a service with a token. A browser that follows a link sends no token.
const ticketLife = 10 * time.Minute

// report answers with the evaluation report that was deployed with the active version.
func (a *api) report(w http.ResponseWriter, r *http.Request) *problem {
	html, err := ask(r.Context(), a.sessions, func(ctx context.Context, c *postgres.Conn) ([]byte, error) {
		return readReport(ctx, c, a.config.Schema, "r.html")
	})
	switch {
	case err != nil:
		return refusal(err)
	case html == nil:
		return &problem{status: http.StatusNotFound, msg: "there is no evaluation report of the active version, or the API's database role may not read model_reports", kind: "no_report"}
	}
	return page{html: html, policy: reportPolicy}.answer(w, r)
}

// reportLink is where the active version's report is, relative to the service; "" if there is none that may be read.
func (a *api) reportLink(ctx context.Context) (string, error) {
	found, err := ask(ctx, a.sessions, func(ctx context.Context, c *postgres.Conn) ([]byte, error) {
		return readReport(ctx, c, a.config.Schema, `'\x01'::bytea`)
	})
	link := strings.TrimPrefix(reportPath, "/")
	switch {
	case err != nil || found == nil:
		return "", err
	case a.config.Token != "":
		link += "?" + url.Values{"ticket": {a.ticket(time.Now().Add(ticketLife))}}.Encode()
	}
	return link, nil
}

// readReport reads something of the active version's report; nil if there is none, and for a role or schema that does not let it be read.
func readReport(ctx context.Context, c *postgres.Conn, schema, what string) (value []byte, err error) {
	err = c.QueryRow(ctx, "select "+what+" from "+postgres.Ident(schema, "model_reports")+" r join "+postgres.Ident(schema, "model_versions")+
		" v on v.name = r.name and v.version = r.version where v.active").Scan(&value)
	switch state := postgres.State(err); {
	case errors.Is(err, pgx.ErrNoRows), state == insufficientPrivilege, state == noTable, state == noSchema:
		return nil, nil
	}
	return value, postgres.Wrap(err, "read model_reports")
}

// ticket lets whoever has it read the report until then.
func (a *api) ticket(until time.Time) string {
	end := strconv.FormatInt(until.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(a.config.Token))
	mac.Write([]byte(reportPath + " " + end))
	return end + "." + hex.EncodeToString(mac.Sum(nil))
}

// admits tells whether the request has a ticket for the report that has not ended.
func (a *api) admits(r *http.Request) bool {
	given := r.URL.Query().Get("ticket")
	text, _, _ := strings.Cut(given, ".")
	end, err := strconv.ParseInt(text, 10, 64)
	return err == nil && r.URL.Path == reportPath && time.Now().Unix() <= end && hmac.Equal([]byte(given), []byte(a.ticket(time.Unix(end, 0))))
}
