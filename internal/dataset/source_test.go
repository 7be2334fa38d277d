package dataset

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/insitu-ml/insitu/internal/fault"
)

func contentOf(t *testing.T, f *File) string {
	t.Helper()
	b, err := io.ReadAll(f.Stream())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLocalFilesAreReadByEveryFormOfPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a b.csv"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("hello"))
	for _, location := range []string{"a b.csv", "./a b.csv", "file:a%20b.csv", filepath.Join(dir, "a b.csv"), "file:" + filepath.Join(dir, "a%20b.csv"), "file://" + filepath.Join(dir, "a%20b.csv"), "FILE://localhost" + filepath.Join(dir, "a%20b.csv")} {
		f, err := Fetch(context.Background(), location, FetchOptions{Base: dir, WorkDir: filepath.Join(dir, "not-needed"), MaxBytes: 10})
		if err != nil {
			t.Error(err)
			continue
		}
		if f.Name != "a b.csv" || f.Source != location || f.Size != 5 || f.SHA256 != hex.EncodeToString(sum[:]) || contentOf(t, f) != "hello" {
			t.Errorf("%q: %+v", location, f)
		}
	}
}

func TestAReaderIsCopiedAndAFileIsNot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "t.csv")
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	opened, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []io.ReadCloser{opened, io.NopCloser(strings.NewReader("hello"))} {
		f, err := FetchReader(context.Background(), "data/t.csv", r, FetchOptions{WorkDir: dir, MaxBytes: 10})
		if err != nil {
			t.Fatal(err)
		}
		if f.Name != "t.csv" || f.Source != "data/t.csv" || contentOf(t, f) != "hello" {
			t.Errorf("%+v", f)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("the work directory holds %v", left)
	}
}

func TestRemoteFilesAreCopiedOrTheFaultIsNamed(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/ok.csv", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			t.Error("compression was asked for: the digest would not be that of the file")
		}
		_, _ = w.Write([]byte("hello"))
	})
	mux.HandleFunc("/auth.csv", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "hunter2" || r.URL.Query().Get("token") != "hunter2" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	mux.HandleFunc("/moved.csv", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok.csv", http.StatusFound) })
	mux.HandleFunc("/busy.csv", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/slow.csv", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) })
	mux.HandleFunc("/large.csv", func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 100))
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/cut.csv", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("hello"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	withUser := strings.Replace(server.URL, "//", "//u:hunter2@", 1)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()

	const fine fault.Class = -1
	for name, c := range map[string]struct {
		location string
		class    fault.Class
		want     string // content or error
	}{
		"a file":                       {server.URL + "/ok.csv", fine, "hello"},
		"a file that moved":            {server.URL + "/moved.csv", fine, "hello"},
		"a file behind a password":     {withUser + "/auth.csv?token=hunter2", fine, ""},
		"a missing file":               {server.URL + "/no.csv", fault.Permanent, "404 Not Found"},
		"a wrong password":             {withUser + "/auth.csv?token=hunter2x", fault.Permanent, "403 Forbidden"},
		"a busy server":                {server.URL + "/busy.csv", fault.Temporary, "503"},
		"a throttled client":           {server.URL + "/slow.csv", fault.Temporary, "429"},
		"a transfer that breaks off":   {server.URL + "/cut.csv", fault.Temporary, "broke off after 5"},
		"more than allowed":            {server.URL + "/large.csv", fault.Permanent, "more than 1000 bytes"},
		"a server that is not there":   {"http://u:hunter2@" + closed.Addr().String() + "/x?token=hunter2", fault.Temporary, "connection refused"},
		"a server without a name":      {"https:///x", fault.Configuration, "expected http(s)://host/path"},
		"a kind that is not known":     {"ftp://host/x", fault.Configuration, `kind "ftp"`},
		"a file of another machine":    {"file://host/x", fault.Configuration, "file of this machine"},
		"a path that is not there":     {"/no/such/file", fault.Configuration, "no such file"},
		"a device":                     {"/dev/null", fault.Configuration, "neither a file nor a folder"},
		"no path":                      {"file:", fault.Configuration, "path is empty"},
		"an object":                    {"s3://b/d/k.csv", fine, "s3 b d/k.csv"},
		"an object with a broken body": {"s3://b/cut", fault.Temporary, "broke off after 3"},
		"an object that is shorter":    {"s3://b/short", fault.Temporary, "broke off after 3 of 9"},
		"an object without a key":      {"s3://b/", fault.Configuration, "expected s3://bucket/key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			work := t.TempDir()
			f, err := Fetch(context.Background(), c.location, FetchOptions{WorkDir: work, MaxBytes: 1000, Objects: objects{}})
			if left, _ := os.ReadDir(work); len(left) > 0 {
				t.Errorf("the work directory holds %v", left)
			}
			if c.class == fine {
				if err != nil {
					t.Fatal(err)
				}
				if got := contentOf(t, f); got != c.want {
					t.Errorf("content %q, want %q", got, c.want)
				}
				if strings.Contains(f.Source, "hunter2") || strings.Contains(f.Name, "?") {
					t.Errorf("source %q, name %q", f.Source, f.Name)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.Of(err) != c.class {
				t.Errorf("got %v of class %d, want %q of class %d", err, fault.Of(err), c.want, c.class)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a secret shows in %v", err)
			}
		})
	}
}

type objects struct{}

func (objects) Open(_ context.Context, bucket, key string) (io.ReadCloser, int64, error) {
	switch key {
	case "cut":
		return io.NopCloser(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(errors.New("gone")))), 9, nil
	case "short":
		return io.NopCloser(strings.NewReader("abc")), 9, nil
	}
	text := "s3 " + bucket + " " + key
	return io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
}

func TestACancelledFetchEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("hello"))
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	if _, err := Fetch(ctx, server.URL, FetchOptions{WorkDir: t.TempDir(), MaxBytes: 1000}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestACancelledPassEnds(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "t.csv")
	if err := os.WriteFile(file, numbered(100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f, err := Fetch(ctx, file, FetchOptions{MaxBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var last Progress
	plan, err := NewPlan(ctx, f, shaped(Float32, 1), func(p Progress) {
		if last = p; p.Phase == PhaseShuffle && p.Rows > 1000 {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Prepare(ctx, t.TempDir()); !errors.Is(err, context.Canceled) || last.Rows > 2000 {
		t.Errorf("%v after %+v", err, last)
	}
}
