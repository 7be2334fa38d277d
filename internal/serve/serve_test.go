package serve

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// tenant is a schema of the inference database and a superuser's session.
type tenant struct {
	*postgres.Conn
	config postgres.Config
	schema string
}

// newTenant names a schema that does not exist yet.
func newTenant(t testing.TB) tenant {
	t.Helper()
	config := testenv.Inference(t)
	conn, err := postgres.Connect(t.Context(), config, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// serve's own sessions are told from those of other tests by the database user.
	config.Username, config.Password = "serve-"+strings.ToLower(rand.Text()[:10]), "secret"
	x := tenant{conn, config, "Serve " + rand.Text()[:10]}
	x.exec(t, "create role "+postgres.Ident(config.Username)+" login password 'secret'")
	t.Cleanup(func() {
		ctx := context.Background()
		_, _ = conn.Exec(ctx, "drop schema if exists "+postgres.Ident(x.schema)+" cascade")
		_, _ = conn.Exec(ctx, "drop owned by "+postgres.Ident(config.Username))
		if _, err := conn.Exec(ctx, "drop role "+postgres.Ident(config.Username)); err != nil {
			t.Error(err)
		}
		conn.Close()
	})
	return x
}

func (x tenant) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if len(args) == 0 {
		args = []any{pgx.QueryExecModeSimpleProtocol}
	}
	if _, err := x.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
}

// deploy makes the inference schema with versions 1 and 2 of the digits model, which `insitu run --app examples/digits` trained; neither is active.
func (x tenant) deploy(t testing.TB) {
	t.Helper()
	x.exec(t, "create schema "+postgres.Ident(x.schema)+"; set search_path to "+postgres.Ident(x.schema)+", public")
	sets, err := changelog.Load(database.Inference, x.Dialect)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range sets {
		x.exec(t, c.SQL)
	}
	model, err := os.ReadFile("testdata/digits.onnx")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(model)
	digest := hex.EncodeToString(sum[:])
	x.exec(t, "insert into model_blobs values ($1, $2)", digest, model)
	x.exec(t, "insert into models (name, version, digest, manifest, metrics) select 'digits', v, $1, $2, $3 from generate_series(1, 2) v", digest,
		`{"classes":["0","1","2","3","4","5","6","7","8","9"],"input":{"shape":[8,8],"dtype":"uint8","range":[0,16]}}`, `{"accuracy_score":0.98}`)
	x.exec(t, "select grant_inference($1)", x.config.Username)
}

func (x tenant) activate(t testing.TB, ordinal, version int) {
	t.Helper()
	x.exec(t, "insert into activations (ordinal, name, version) values ($1, 'digits', $2)", ordinal, version)
}

// standIn makes functions that do what the file says: "sleep 1", "raise IS003", "die"; everything else is a cat.
// Rows are what their column label, or the first, says; the column raise raises.
func (x tenant) standIn(t testing.TB) {
	t.Helper()
	x.exec(t, "create schema "+postgres.Ident(x.schema)+"; set search_path to "+postgres.Ident(x.schema)+", public")
	x.exec(t, `create view model_versions as select 'cats'::text as name, 1 as version, 'abc'::text as digest, '{"a":1}'::json as metrics, now() as deployed_at, 'me'::text as deployed_by, true as active;
create function run_inference_task(img bytea) returns text language plpgsql as $$
declare words text[] := string_to_array(encode(img, 'escape'), ' ');
begin
  case words[1]
    when 'sleep' then perform pg_sleep(words[2]::float); return 'slept';
    when 'raise' then raise exception 'told to raise' using errcode = words[2];
    when 'die' then perform pg_terminate_backend(pg_backend_pid()); return 'dead';
    else return 'cat <&>';
  end case;
end $$;
create function predict(img bytea) returns table (label text, probabilities json, model_name text, model_version int) language sql as
  $$ select run_inference_task(img), '{"cat": 0.5, "bee": 0.25, "ant": 0.25}'::json, 'cats', 1 $$;
create function predict_batch(imgs bytea[]) returns table (index int, label text, probabilities json, model_name text, model_version int) language sql as
  $$ select n::int, p.* from unnest(imgs) with ordinality as x (img, n), predict(img) p $$;
create function predict_rows(rows json) returns table (index int, label text, probabilities json, model_name text, model_version int) language plpgsql as $$
declare x record;
begin
  for x in select n::int, value from json_array_elements(rows) with ordinality as e (value, n) loop
    if json_typeof(x.value) = 'object' and x.value->>'raise' is not null then raise exception 'row % has no column ''a''', x.n using errcode = x.value->>'raise', hint = 'its columns are a, b'; end if;
    return query select x.n, case json_typeof(x.value) when 'object' then x.value->>'label' else x.value->>0 end, '{"cat": 0.5, "bee": 0.25, "ant": 0.25}'::json, 'cats', 1;
  end loop;
end $$;
grant usage on schema `+postgres.Ident(x.schema)+` to `+postgres.Ident(x.config.Username)+`;
grant select on model_versions to `+postgres.Ident(x.config.Username)+`;
alter role `+postgres.Ident(x.config.Username)+` set search_path to `+postgres.Ident(x.schema))
}

// open counts the service's sessions in the database.
func (x tenant) open(t testing.TB) (n int) {
	t.Helper()
	if err := x.QueryRow(t.Context(), "select count(*) from pg_stat_activity where usename = $1", x.config.Username).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func databaseOf(c postgres.Config) func() (postgres.Config, error) {
	return func() (postgres.Config, error) { return c, nil }
}

// service is a running Run.
type service struct {
	url   string
	log   *safeBuffer
	spec  contract
	token string
	stop  context.CancelFunc
	ended chan error
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func start(t testing.TB, x tenant, change func(*Config)) *service {
	t.Helper()
	s := &service{log: &safeBuffer{}, spec: readContract(t), ended: make(chan error, 1)}
	listening := make(chan net.Addr, 1)
	c := Config{
		Listen: "127.0.0.1:0", Database: databaseOf(x.config), Schema: x.schema,
		Sessions: 2, Queue: 32, RequestTimeout: 10 * time.Second, MaxRequestBytes: 1 << 20, OnListen: func(a net.Addr) { listening <- a },
		Log: zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(s.log), zap.DebugLevel)),
	}
	if change != nil {
		change(&c)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() { s.ended <- Run(ctx, c) }()
	t.Cleanup(func() {
		stop()
		if err := <-s.ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if t.Failed() {
			t.Log(s.log)
		}
	})
	select {
	case a := <-listening:
		s.url = "http://" + a.String()
	case err := <-s.ended:
		s.ended <- nil
		t.Fatal(err)
	}
	if s.get(t, "/readyz").status == http.StatusOK { // the database is there: so will be the other sessions
		eventually(t, "all sessions", func() bool {
			return strings.Contains(s.get(t, "/readyz").body, fmt.Sprintf(`"sessions":%d,`, c.Sessions))
		})
	}
	return s
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// problem is type and message of the first detail, with where it is.
func (a answer) problem(t testing.TB) (kind, msg, loc string) {
	t.Helper()
	var p struct{ Detail []detail }
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || len(p.Detail) != 1 {
		t.Fatalf("%d %s: expected one detail (%v)", a.status, a.body, err)
	}
	where, _ := json.Marshal(p.Detail[0].Loc)
	return p.Detail[0].Type, p.Detail[0].Msg, string(where)
}

// do sends a request and holds the answer against openapi.json.
func (s *service) do(t testing.TB, r *http.Request) answer {
	t.Helper()
	if s.token != "" {
		r.Header.Set("Authorization", "Bearer "+s.token)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	a := answer{resp.StatusCode, resp.Header, string(body)}
	s.spec.check(t, r.Method, r.URL.Path, a)
	return a
}

func (s *service) get(t testing.TB, path string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.do(t, r)
}

// send posts a body as it is.
func (s *service) send(t testing.TB, path, contentType string, body io.Reader) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	return s.do(t, r)
}

// form is a multipart form of files, all in the field "file".
func form(t testing.TB, files ...[]byte) (contentType string, body *bytes.Buffer) {
	t.Helper()
	body = &bytes.Buffer{}
	w := multipart.NewWriter(body)
	for _, f := range files {
		part, err := w.CreateFormFile("file", "picture")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = part.Write(f)
	}
	_ = w.Close()
	return w.FormDataContentType(), body
}

func (s *service) post(t testing.TB, path string, files ...[]byte) answer {
	t.Helper()
	kind, body := form(t, files...)
	return s.send(t, path, kind, body)
}

// digit is a row of examples/digits: 64 values of 0 to 16, and what they show.
type digit struct {
	pixels []byte
	label  string
}

func digits(t testing.TB, n int) []digit {
	t.Helper()
	f, err := os.Open("../../examples/digits/digits.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	rows := csv.NewReader(z)
	if _, err := rows.Read(); err != nil { // names
		t.Fatal(err)
	}
	all := make([]digit, n)
	for i := range all {
		row, err := rows.Read()
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range row[:64] {
			value, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			all[i].pixels = append(all[i].pixels, byte(value))
		}
		all[i].label = row[64]
	}
	return all
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
