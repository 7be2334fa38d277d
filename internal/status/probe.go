package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// patience is how long one part may take to answer.
const patience = 4 * time.Second

// maxReply is the limit on one answer, in bytes: a Workflow's own limit is 1 MiB, lists are read in part only.
const maxReply = 16 << 20

// Site is a web service that a part is asked at.
type Site struct {
	Client                    *http.Client
	URL                       string // without a slash at its end
	Username, Password, Token string
}

// get asks for a path and returns the status and the body.
func (s Site) get(ctx context.Context, path string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		return 0, nil, errors.New("expected a URL that starts with http:// or https://") // the parser's text may hold a password
	}
	switch {
	case s.Token != "":
		request.Header.Set("Authorization", "Bearer "+s.Token)
	case s.Username != "":
		request.SetBasicAuth(s.Username, s.Password)
	}
	reply, err := s.Client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxReply))
	return reply.StatusCode, body, err
}

// unanswered is the state of a service that gave no answer: one that nobody started is not there.
func unanswered(p Part, err error) Part {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		p.State, p.Detail = NotReady, "connection refused"
		if p.Part == API || p.Part == PgAdmin {
			p.State, p.Detail = Absent, "nothing listens there"
		}
	case errors.As(err, &dns):
		p.State, p.Detail = Unknown, "not reachable from here: no host of that name"
	case errors.Is(err, context.DeadlineExceeded):
		p.State, p.Detail = NotReady, fmt.Sprintf("no answer within %s", patience)
	default:
		p.State, p.Detail = NotReady, line(err.Error())
	}
	return p
}

// CheckAPI asks the inference API which model it serves.
func CheckAPI(ctx context.Context, s Site, p Part) Part {
	p.Part = API
	status, body, err := s.get(ctx, "/readyz")
	if err != nil {
		return unanswered(p, err)
	}
	var said struct {
		Status string
		Model  *struct {
			Name    string
			Version int
		}
		Reason string
	}
	if json.Unmarshal(body, &said) != nil || said.Status == "" {
		return refused(p, status, "the inference API")
	}
	switch {
	case status != http.StatusOK:
		p.State, p.Detail = NotReady, line(said.Status)
	case said.Model == nil:
		p.State, p.Detail = Ready, line(said.Reason)
	default:
		p.State, p.Detail = Ready, fmt.Sprintf("serves %s version %d", said.Model.Name, said.Model.Version)
	}
	return p
}

// refused is an answer that is none of what was asked for.
func refused(p Part, status int, expected string) Part {
	p.State, p.Detail = NotReady, fmt.Sprintf("answers with status %d, but not as %s", status, expected)
	return p
}

// CheckPgAdmin asks pgAdmin for its version, which its pages name.
func CheckPgAdmin(ctx context.Context, s Site, p Part) Part {
	p.Part = PgAdmin
	status, body, err := s.get(ctx, "/misc/ping")
	if err != nil {
		return unanswered(p, err)
	}
	if status != http.StatusOK || strings.TrimSpace(string(body)) != "PING" {
		return refused(p, status, "pgAdmin")
	}
	p.State = Ready
	if _, body, err := s.get(ctx, "/"); err == nil {
		// 91800 is 9.18.
		if found := regexp.MustCompile(`[?&]ver=(\d{1,3})(\d\d)\d\d\b`).FindSubmatch(body); found != nil {
			minor, _ := strconv.Atoi(string(found[2]))
			p.Version = fmt.Sprintf("%s.%d", found[1], minor)
		}
	}
	return p
}

// CheckMLflow asks the tracking server for its version.
func CheckMLflow(ctx context.Context, s Site, p Part) Part {
	p.Part = MLflow
	status, body, err := s.get(ctx, "/version")
	if err != nil {
		return unanswered(p, err)
	}
	version := strings.TrimSpace(string(body))
	if status != http.StatusOK || !regexp.MustCompile(`^\d+(\.\w+){1,4}$`).MatchString(version) {
		return refused(p, status, "MLflow")
	}
	p.State, p.Version = Ready, version
	return p
}

// CheckDatabase connects, and says which server answers.
func CheckDatabase(ctx context.Context, c postgres.Config, p Part) Part {
	p.URL = c.URL()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := postgres.Connect(ctx, c, postgres.Options{})
	if err != nil {
		return unanswered(p, err)
	}
	defer conn.Close()
	var version string
	if err := conn.QueryRow(ctx, "select version()").Scan(&version); err != nil {
		return unanswered(p, err)
	}
	p.State, p.Version = Ready, serverVersion(version)
	return p
}

// serverVersion is the part of version() that people mean.
func serverVersion(text string) string {
	for _, pattern := range []string{`Greenplum Database \d[\w.]*`, `Cloudberry Database \d[\w.]*`, `PostgreSQL \d[\w.]*`} {
		if found := regexp.MustCompile(pattern).FindString(text); found != "" {
			return strings.Replace(found, " Database", "", 1)
		}
	}
	return line(text)
}
