package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/testenv"
)

// bindings is a directory with one binding of the inference database.
func bindings(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "inference-db")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestServeSaysWhatItLacks(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	root := bindings(t, map[string]string{"type": "postgres", "provider": "vmware", "host": "127.0.0.1", "port": "1", "database": "d", "username": "u"})
	nowhere := bindings(t, map[string]string{"type": "postgres", "provider": "vmware", "database": "d", "username": "u"})
	good := "--inference-schema s --bindings " + root
	for name, tt := range map[string]struct{ env, args, want string }{
		"no schema":             {"", "--bindings " + root, "--inference-schema"},
		"no bindings":           {"", "--inference-schema s --state " + t.TempDir(), "insitu services start"},
		"no such binding":       {"", good + " --inference-binding oracle", `no service binding matches "oracle"`},
		"no host in a binding":  {"", "--inference-schema s --bindings " + nowhere, `service binding "postgres/vmware" has no host`},
		"an argument":           {"", good + " digits", `"digits"`},
		"a level":               {"", good + " --log-level loud", "loud"},
		"sessions":              {"", good + " --sessions 0", "0 sessions, expected 1 to 1000"},
		"a limit":               {"", good + " --max-request-bytes 99999999", "expected 1 to 33554432"},
		"no number":             {"", good + " --queue many", "many"},
		"an address":            {"", good + " --listen nowhere", "listen on nowhere"},
		"an empty token file":   {"INSITU_TOKEN_FILE=" + empty, good, "is empty"},
		"no token file":         {"INSITU_TOKEN_FILE=" + empty + "x", good, "INSITU_TOKEN_FILE"},
		"a number in a setting": {"INSITU_SESSIONS=many", good, "INSITU_SESSIONS"},
	} {
		t.Run(name, func(t *testing.T) {
			if name, value, ok := strings.Cut(tt.env, "="); ok {
				t.Setenv(name, value)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var stdout, stderr bytes.Buffer
			code := execute(ctx, nil, append([]string{"insitu", "serve"}, strings.Fields(tt.args)...), &stdout, &stderr)
			if code != exitConfiguration || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit code %d, %q, want 2 and %q", code, &stderr, tt.want)
			}
		})
	}
}

// synced is a buffer that a running command writes and a test reads.
type synced struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *synced) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *synced) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestServeTakesItsSettingsFromTheEnvironmentAndEndsWell(t *testing.T) {
	value := testenv.Binding(t, "postgresql/insitu-inference")
	files := map[string]string{"type": "postgresql", "provider": "vmware"}
	for _, name := range []string{"host", "port", "database", "username", "password", "sslmode"} {
		files[name] = value(name) + "\n"
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("a-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"SERVICE_BINDING_ROOT": bindings(t, files), "INSITU_INFERENCE_BINDING": "postgres", "INSITU_INFERENCE_SCHEMA": "no-such-schema",
		"INSITU_LISTEN": address, "INSITU_SESSIONS": "1", "INSITU_DRAIN": "0s", "INSITU_TOKEN_FILE": token, "INSITU_QUEUE": "",
	} {
		t.Setenv(name, value)
	}
	ctx, signal := context.WithCancel(t.Context())
	defer signal()
	var stdout, stderr synced
	ended := make(chan int, 1)
	go func() { ended <- execute(ctx, nil, []string{"insitu", "serve"}, &stdout, &stderr) }()
	get := func(path, authorization string) (status int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", authorization)
			resp, err := http.DefaultClient.Do(r)
			if err == nil {
				resp.Body.Close()
				return resp.StatusCode
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v\n%s", err, &stderr)
			}
		}
	}
	if s := get("/readyz", ""); s != 200 {
		t.Errorf("/readyz: %d", s)
	}
	if s := get("/v1/model", ""); s != 401 {
		t.Errorf("/v1/model without the token: %d", s)
	}
	if s := get("/v1/model", "Bearer a-token"); s != 503 { // no model in a schema that is not there
		t.Errorf("/v1/model: %d", s)
	}
	signal()
	if code := <-ended; code != 0 || stdout.String() != "" {
		t.Errorf("exit code %d, output %q\n%s", code, &stdout, &stderr)
	}
}
