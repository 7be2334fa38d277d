package objectstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/insitu-ml/insitu/internal/fault"
)

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// bucket is a store of the real server with a bucket of the test's own.
func bucket(t *testing.T) *Store {
	t.Helper()
	c := server(t)
	c.Bucket = "test-" + sumOf([]byte(t.Name()))[:16] + "-" + rand.Text()[:8]
	c.Bucket = strings.ToLower(c.Bucket)
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		for o := range s.client.ListObjectsIter(ctx, s.bucket, listAll()) {
			if err := s.Remove(ctx, o.Key); err != nil {
				t.Error(err)
			}
		}
		if err := s.client.RemoveBucket(ctx, s.bucket); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestAFileIsSentOnce(t *testing.T) {
	t.Parallel()
	s := bucket(t)
	ctx := t.Context()
	if err := s.EnsureBucket(ctx); err != nil {
		t.Error("the bucket cannot be ensured twice:", err)
	}
	content := make([]byte, 2*partSize+12345) // three parts
	_, _ = rand.Read(content)
	key := "raw/" + sumOf(content)
	for i, want := range []int64{int64(len(content)), 0} {
		var told atomic.Int64
		n, err := s.PutFile(ctx, key, bytes.NewReader(content), int64(len(content)), sumOf(content), func(n int) { told.Add(int64(n)) })
		if err != nil {
			t.Fatal(err)
		}
		if n != want || told.Load() != want {
			t.Errorf("upload %d: %d bytes sent, %d reported, want %d", i+1, n, told.Load(), want)
		}
	}
	r, size, err := s.Open(ctx, "", key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || size != int64(len(content)) || !bytes.Equal(got, content) {
		t.Errorf("%d of %d bytes came back (%v)", len(got), size, err)
	}
	_ = r.Close()
}

func TestAnObjectWithOtherContentIsReplaced(t *testing.T) {
	t.Parallel()
	s := bucket(t)
	for i, c := range []struct {
		content string
		want    int64
	}{{"one", 3}, {"one", 0}, {"two", 3}, {"", 0}, {"", 0}} {
		n, err := s.Put(t.Context(), "m.json", []byte(c.content), "application/json")
		if err != nil || n != c.want {
			t.Errorf("put %d: %d bytes sent (%v), want %d", i, n, err, c.want)
		}
	}
}

func TestACancelledUploadLeavesNothing(t *testing.T) {
	t.Parallel()
	s := bucket(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	content := make([]byte, 3*partSize)
	_, err := s.PutFile(ctx, "raw/x", bytes.NewReader(content), int64(len(content)), sumOf(content), func(int) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if there, err := s.has(t.Context(), "raw/x", int64(len(content)), sumOf(content)); there || err != nil {
		t.Errorf("the object is there: %v (%v)", there, err)
	}
	for part := range s.client.ListIncompleteUploads(t.Context(), s.bucket, "", true) {
		t.Errorf("parts are left: %+v", part)
	}
}

func TestPartsOfAKilledRunAreCleared(t *testing.T) {
	t.Parallel()
	s := bucket(t)
	core := minio.Core{Client: s.client}
	if _, err := core.NewMultipartUpload(t.Context(), s.bucket, "raw/x", minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutFile(t.Context(), "raw/x", strings.NewReader("x"), 1, sumOf([]byte("x")), nil); err != nil {
		t.Fatal(err)
	}
	for part := range s.client.ListIncompleteUploads(t.Context(), s.bucket, "", true) {
		t.Errorf("parts are left: %+v", part)
	}
}

func TestFaultsOfTheRealServerAreClassified(t *testing.T) {
	t.Parallel()
	s := bucket(t)
	ctx := t.Context()
	if _, _, err := s.Open(ctx, "", "no/such"); fault.Of(err) != fault.Permanent || !strings.Contains(err.Error(), "s3://"+s.bucket+"/no/such") {
		t.Errorf("missing object: %v", err)
	}
	if _, _, err := s.Open(ctx, "no-such-bucket-of-ours", "x"); err == nil || fault.Of(err) == fault.Temporary {
		t.Errorf("missing bucket: %v", err)
	}
	c := server(t)
	c.SecretAccessKey = "wrong-secret"
	wrong, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Exists(ctx); fault.Of(err) != fault.Configuration || strings.Contains(err.Error(), "wrong-secret") {
		t.Errorf("wrong secret: %v", err)
	}
}

func TestFaultsAreClassified(t *testing.T) {
	t.Parallel()
	answer := func(status int, code string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>m</Message></Error>`, code)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	for name, c := range map[string]struct {
		endpoint string
		want     fault.Class
	}{
		"no server":              {"http://" + closed.Addr().String(), fault.Temporary},
		"a server that fails":    {answer(500, "InternalError"), fault.Temporary},
		"a busy server":          {answer(503, "SlowDown"), fault.Temporary},
		"a wrong key":            {answer(403, "InvalidAccessKeyId"), fault.Configuration},
		"a wrong signature":      {answer(403, "SignatureDoesNotMatch"), fault.Configuration},
		"a forbidden action":     {answer(403, "AccessDenied"), fault.Configuration},
		"a bad request":          {answer(400, "InvalidArgument"), fault.Permanent},
		"an unknown certificate": {secure.URL, fault.Configuration},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := New(Config{Endpoint: c.endpoint, AccessKeyID: "a", SecretAccessKey: "hunter2", Bucket: "bucket", Region: "us-east-1"})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Put(t.Context(), "k", []byte("x"), "text/plain")
			if err == nil || fault.Of(err) != c.want || !strings.Contains(err.Error(), "s3://bucket/k") {
				t.Errorf("got %v of class %d, want class %d", err, fault.Of(err), c.want)
			}
			if strings.Contains(fmt.Sprint(err), "hunter2") {
				t.Error("the secret shows:", err)
			}
		})
	}
}

func TestWrongSettingsAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{Endpoint: "localhost:9000", Bucket: "b"}, {Endpoint: "ftp://x", Bucket: "b"}, {Endpoint: "http://x/path", Bucket: "b"}, {Endpoint: "http://u:p@x", Bucket: "b"}, {Endpoint: "http://x"}} {
		if _, err := New(c); fault.Of(err) != fault.Configuration || err == nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
