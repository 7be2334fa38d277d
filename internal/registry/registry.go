// Package registry is a small client of the MLflow REST API: experiments, runs,
// artifacts, registered models, versions, aliases and stages.
//
// It exists because MLflow has no Go SDK. It speaks to the tracking server only:
// artifacts pass through the server (mlflow-artifacts), so no step needs
// credentials of the artifact store. It knows nothing of training.
//
// Every method may be called again after a failure with the same result; the
// Ensure methods also when the reply to a create request was lost.
package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/insitu-ml/insitu/internal/fault"
)

// ErrNotFound is in the chain of errors about runs, models, versions, aliases
// and artifacts that do not exist.
var ErrNotFound = errors.New("not found in MLflow")

const (
	callTimeout     = 30 * time.Second // one attempt of an API call
	transferTimeout = 10 * time.Minute // one attempt to move one artifact
	maxReply        = 32 << 20         // bytes of JSON we are willing to read
	maxErrorReply   = 64 << 10
	maxMessage      = 500 // characters of a server's message that we repeat
	attempts        = 4
	pageSize        = 200
)

// Config says where the MLflow server is and who calls.
type Config struct {
	URI                string // http(s)://host:port[/prefix], without credentials
	Username, Password string // basic authentication
	Token              string // bearer authentication, wins over the former
	// RetryDelay is the pause before the second attempt; it doubles each time. 0 means 500 ms.
	RetryDelay time.Duration
}

// Client calls one MLflow server. It is safe for concurrent use.
type Client struct {
	base   *url.URL
	config Config
	http   *http.Client
}

// New checks the settings; it does not connect.
func New(c Config) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(c.URI, "/"))
	switch {
	case err != nil: // the parser's text repeats the URI, which may hold a password
		return nil, fault.AsConfiguration(errors.New("MLflow URI cannot be parsed; expected http://host:port or https://host:port"))
	case base.User != nil:
		return nil, fault.AsConfiguration(errors.New("MLflow URI holds credentials; give them as username and password, or token"))
	case base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, fault.AsConfiguration(fmt.Errorf("MLflow URI %q is not a tracking server; expected http://host:port or https://host:port", c.URI))
	}
	if c.RetryDelay == 0 {
		c.RetryDelay = 500 * time.Millisecond
	}
	return &Client{base: base, config: c, http: &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}}, nil
}

// Address is the server's URI: what may appear in logs.
func (c *Client) Address() string { return c.base.String() }

// RunURL is the page of a run in the server's user interface.
func (c *Client) RunURL(experimentID, runID string) string {
	return c.base.String() + "/#/experiments/" + url.PathEscape(experimentID) + "/runs/" + url.PathEscape(runID)
}

// request is one call: what is sent, what is expected, and whether sending it twice is harmless.
type request struct {
	doing   string // operation and object, for errors
	method  string
	path    string // below the server's URI, escaped
	query   url.Values
	body    []byte
	typ     string // content type of body
	timeout time.Duration
	limit   int64 // bytes of reply we accept
	once    bool  // a lost reply must not be answered by sending again
}

// call sends an API request with a JSON body and decodes the JSON reply into out (nil: ignored).
func (c *Client) call(ctx context.Context, doing, method, path string, in, out any) error {
	return c.json(ctx, request{doing: doing, method: method, path: path}, in, out)
}

func (c *Client) json(ctx context.Context, r request, in, out any) error {
	r.path, r.timeout, r.limit, r.typ = "/api/2.0/mlflow/"+r.path, callTimeout, maxReply, "application/json"
	if q, ok := in.(url.Values); ok {
		r.query = q
	} else {
		body, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s: %w", r.doing, err)
		}
		r.body = body
	}
	reply, err := c.send(ctx, r)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(reply, out); err != nil {
		return fault.AsConfiguration(fmt.Errorf("%s: the reply of %s is not MLflow's: %w", r.doing, c.base, err))
	}
	return nil
}

// send makes up to four attempts, with pauses that double; it gives up at once on errors that would come back.
func (c *Client) send(ctx context.Context, r request) ([]byte, error) {
	pause := c.config.RetryDelay
	for try := 1; ; try++ {
		reply, err := c.attempt(ctx, r)
		if err == nil || fault.Of(err) != fault.Temporary || ctx.Err() != nil || try == attempts || r.once {
			return reply, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("%s: %w", r.doing, err)
		}
		pause *= 2
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (c *Client) attempt(parent context.Context, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(parent, r.timeout)
	defer cancel()
	target := c.base.String() + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, bytes.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.doing, err)
	}
	if len(r.body) > 0 {
		req.Header.Set("Content-Type", r.typ)
	}
	switch {
	case c.config.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.config.Token)
	case c.config.Username != "":
		req.SetBasicAuth(c.config.Username, c.config.Password)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if parent.Err() != nil {
			return nil, fmt.Errorf("%s: %w", r.doing, parent.Err())
		}
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) {
			return nil, fault.AsConfiguration(fmt.Errorf("%s: %w", r.doing, err))
		}
		return nil, fault.AsTemporary(fmt.Errorf("%s: %w", r.doing, err))
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return nil, statusError(r.doing, res)
	}
	reply, err := io.ReadAll(io.LimitReader(res.Body, r.limit+1))
	switch {
	case err != nil && parent.Err() != nil:
		return nil, fmt.Errorf("%s: %w", r.doing, parent.Err())
	case err != nil:
		return nil, fault.AsTemporary(fmt.Errorf("%s: read reply: %w", r.doing, err))
	case int64(len(reply)) > r.limit:
		return nil, fault.AsPermanent(fmt.Errorf("%s: the reply is larger than %d bytes", r.doing, r.limit))
	}
	return reply, nil
}

// apiError is a reply that is not a success.
type apiError struct {
	doing   string
	status  int
	code    string // MLflow's error_code
	message string
}

func (e *apiError) Error() string {
	text := fmt.Sprintf("%s: MLflow answered %d", e.doing, e.status)
	if e.code != "" {
		text += " " + e.code
	}
	if e.message != "" {
		text += ": " + e.message
	}
	return text
}

func (e *apiError) Is(target error) bool {
	return target == ErrNotFound && (e.code == "RESOURCE_DOES_NOT_EXIST" || e.status == http.StatusNotFound)
}

// statusError classifies a reply: 401 and 403 need other credentials, 408, 429 and 5xx another try.
func statusError(doing string, res *http.Response) error {
	e := &apiError{doing: doing, status: res.StatusCode}
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorReply))
	var reply struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &reply) == nil {
		e.code, e.message = reply.Code, reply.Message
	} else {
		e.message = strings.Join(strings.Fields(string(text)), " ")
	}
	if cut := []rune(e.message); len(cut) > maxMessage {
		e.message = string(cut[:maxMessage]) + "..."
	}
	switch s := res.StatusCode; {
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		return fault.AsConfiguration(fmt.Errorf("%w; check the MLflow user, password or token and its grants", e))
	case s == http.StatusRequestTimeout, s == http.StatusTooManyRequests,
		s >= 500 && s != http.StatusNotImplemented:
		return fault.AsTemporary(e)
	}
	return fault.AsPermanent(e)
}

func hasCode(err error, code string) bool {
	var e *apiError
	return errors.As(err, &e) && e.code == code
}

// ensure finds a thing or creates it. When the reply to create is lost, it
// looks again before it creates again: a second one would be worse than a pause.
func ensure[T any](ctx context.Context, c *Client, find func() (T, bool, error), create func() (T, error)) (T, error) {
	pause := c.config.RetryDelay
	for try := 1; ; try++ {
		found, ok, err := find()
		if err != nil || ok {
			return found, err
		}
		made, err := create()
		exists := hasCode(err, "RESOURCE_ALREADY_EXISTS")
		if err == nil || !exists && fault.Of(err) != fault.Temporary || ctx.Err() != nil || try == attempts {
			return made, err
		}
		if err := sleep(ctx, pause); err != nil {
			return made, err
		}
		pause *= 2
	}
}

// pair is MLflow's spelling of a map entry.
type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func pairs(m map[string]string) []pair {
	out := make([]pair, 0, len(m))
	for _, k := range sortedKeys(m) {
		out = append(out, pair{k, m[k]})
	}
	return out
}

func unpair(list []pair) map[string]string {
	out := make(map[string]string, len(list))
	for _, p := range list {
		out[p.Key] = p.Value
	}
	return out
}

// tagFilter is a search expression; MLflow has no escape for quotes inside a value.
func tagFilter(tags map[string]string) (string, error) {
	var terms []string
	for _, k := range sortedKeys(tags) {
		v, err := quote(tags[k])
		if err != nil {
			return "", err
		}
		terms = append(terms, "tags.`"+k+"` = "+v)
	}
	return strings.Join(terms, " and "), nil
}

func quote(value string) (string, error) {
	switch {
	case !strings.Contains(value, "'"):
		return "'" + value + "'", nil
	case !strings.Contains(value, `"`):
		return `"` + value + `"`, nil
	}
	return "", fault.AsConfiguration(fmt.Errorf("MLflow cannot search for %q; use a value without both kinds of quotes", value))
}
