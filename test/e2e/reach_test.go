package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// forward makes a port of a Service or pod reachable here and returns the local port, a free one.
// kubectl gives up a forwarding when its pod restarts or a connection breaks: then it is started again on the same port.
func (in *installation) forward(target string, port int) (int, error) {
	local, ended, err := in.forwardOnce(target, "", port)
	if err != nil {
		return 0, err
	}
	go func() {
		for in.ctx.Err() == nil {
			<-ended
			for in.ctx.Err() == nil {
				if _, ended, err = in.forwardOnce(target, strconv.Itoa(local), port); err == nil {
					break
				}
				time.Sleep(time.Second)
			}
		}
	}()
	return local, nil
}

func (in *installation) forwardOnce(target, local string, port int) (int, <-chan struct{}, error) {
	cmd := exec.CommandContext(in.ctx, "kubectl", "-n", in.namespace, "port-forward", "--address", "127.0.0.1", target, local+":"+strconv.Itoa(port))
	// It must not outlive the tests, however they end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, nil, err
	}
	if err := cmd.Start(); err != nil {
		return 0, nil, fmt.Errorf("forward a port to %s: %w", target, err)
	}
	// Forwarding from 127.0.0.1:40123 -> 5432
	first, err := bufio.NewReader(out).ReadString('\n')
	_, rest, _ := strings.Cut(first, "127.0.0.1:")
	text, _, _ := strings.Cut(rest, " ")
	n, bad := strconv.Atoi(text)
	if err != nil || bad != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return 0, nil, fmt.Errorf("forward a port to %s: %s", target, strings.TrimSpace(first+stderr.String()))
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		close(ended)
	}()
	return n, ended, nil
}

// findServer finds argo-server: the address in INSITU_E2E_ARGO_SERVER, or a Service of the name argo-server.
func (in *installation) findServer() error {
	r := in.kubectl("get", "secret", "ml-user.service-account-token", "-o", "go-template={{.data.token | base64decode}}")
	if r.err != nil {
		return r.err
	}
	in.token = r.stdout
	if in.server = strings.TrimRight(os.Getenv("INSITU_E2E_ARGO_SERVER"), "/"); in.server != "" {
		return nil
	}
	found := in.command(time.Minute, "kubectl", "get", "service", "-A", "--field-selector=metadata.name=argo-server", "-o", "jsonpath={.items[0].metadata.namespace}")
	if found.err != nil || found.stdout == "" {
		in.noServer = "no argo-server: INSITU_E2E_ARGO_SERVER is not set, and no namespace has a Service argo-server"
		return nil
	}
	there := &installation{namespace: found.stdout, ctx: in.ctx}
	port, err := there.forward("service/argo-server", 2746)
	if err != nil {
		return err
	}
	// It serves TLS with a certificate of its own unless it was told not to.
	for _, scheme := range []string{"https", "http"} {
		in.server = fmt.Sprintf("%s://127.0.0.1:%d", scheme, port)
		if _, err = in.request(http.MethodGet, "/api/v1/version", nil); err == nil {
			return nil
		}
	}
	return err
}

// browser is a client that, as users do who know it, goes on past the certificate argo-server made for itself.
func browser() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	return &http.Client{Transport: transport}
}

// request sends what the user interface of argo-server sends, and returns the reply.
func (in *installation) request(method, path string, body any) ([]byte, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(in.ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, in.server+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+in.token)
	res, err := in.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	reply, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, res.Status, bytes.TrimSpace(reply))
	}
	return reply, err
}

// rows asks a database, over a session of its own: a forwarded port may have been broken meanwhile.
func rows[T any](t *testing.T, c postgres.Config, sql string, args ...any) []T {
	t.Helper()
	var err error
	for range 3 {
		var out []T
		if out, err = ask[T](c, sql, args...); err == nil {
			return out
		}
		if postgres.State(err) != "" { // the server's own answer
			break
		}
		time.Sleep(time.Second)
	}
	t.Fatalf("%s: %v", sql, err)
	return nil
}

func ask[T any](c postgres.Config, sql string, args ...any) ([]T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := postgres.Connect(ctx, c, postgres.Options{})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	found, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, pgx.RowTo[T])
}

// one asks for a single value.
func one[T any](t *testing.T, c postgres.Config, sql string, args ...any) T {
	t.Helper()
	out := rows[T](t, c, sql, args...)
	if len(out) != 1 {
		t.Fatalf("%s: %d rows, expected 1", sql, len(out))
	}
	return out[0]
}

// count is the number of a table's rows: 0 when there is no such table or schema.
func count(t *testing.T, c postgres.Config, schema, table string) int {
	t.Helper()
	if !one[bool](t, c, "select to_regclass($1) is not null", postgres.Ident(schema, table)) {
		return 0
	}
	return one[int](t, c, "select count(*) from "+postgres.Ident(schema, table))
}

// within waits until something is so.
func within(t *testing.T, limit time.Duration, what string, so func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !so() {
		if time.Since(began) > limit {
			t.Fatalf("%s: not so after %s", what, limit)
		}
		time.Sleep(200 * time.Millisecond)
	}
	return time.Since(began)
}
