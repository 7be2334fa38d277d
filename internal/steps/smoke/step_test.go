package smoke

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/registry/registrytest"
	"github.com/insitu-ml/insitu/internal/serve"
	"github.com/insitu-ml/insitu/internal/step/steptest"
)

const rows = 12

// deployed is a schema with two versions of the digits model, of which the second is active, and a training schema with its test rows.
func deployed(t *testing.T) (exec func(sql string, args ...any), query func(sql string, into any), cfg postgres.Config, flags map[string]string) {
	t.Helper()
	cfg = changelogtest.Server(t)
	schema, training := changelogtest.Schema(t, cfg, "Inference"), changelogtest.Schema(t, cfg, "Training")
	conn, err := postgres.Connect(t.Context(), cfg, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	exec = func(sql string, args ...any) {
		t.Helper()
		if len(args) == 0 {
			args = []any{pgx.QueryExecModeSimpleProtocol}
		}
		if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%.200s: %v", sql, err)
		}
	}
	exec("create schema " + postgres.Ident(training) + "; set search_path to " + postgres.Ident(training) + "; create table datasets (digest text, pack_table text); create table packs (split text, id int, n int, data bytea)")
	exec("insert into datasets values ('data-1', 'packs')")
	random := make([]byte, 64*rows)
	for i := range random {
		random[i] = byte(i * i / 3 % 17)
	}
	exec("insert into packs values ('train', 1, 1, 'x'), ('test', 2, 5, $1), ('test', 3, $2, $3)", random[:64*5], rows-5, random[64*5:])
	exec("create schema " + postgres.Ident(schema) + "; set search_path to " + postgres.Ident(schema) + ", public")
	sets, err := changelog.Load(database.Inference, conn.Dialect)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range sets {
		exec(set.SQL)
	}
	model, err := os.ReadFile("../../serve/testdata/digits.onnx")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(model)
	digest := hex.EncodeToString(sum[:])
	exec("insert into model_blobs values ($1, $2)", digest, model)
	exec("insert into models (name, version, digest, manifest, metrics) select 'digits', v, $1, $2, '{}' from generate_series(1, 2) v", digest,
		`{"dataset_digest":"data-1","classes":["0","1","2","3","4","5","6","7","8","9"],"input":{"shape":[8,8],"dtype":"uint8","range":[0,16]}}`)
	exec("insert into activations (ordinal, name, version) values (1, 'digits', 2)")
	flags = map[string]string{"inference-schema": schema, "schema": training, "model-name": "digits", "model-version": "2"}
	for _, side := range []string{"training", "inference"} {
		maps.Copy(flags, map[string]string{side + "-host": cfg.Host, side + "-port": strconv.Itoa(cfg.Port), side + "-database": cfg.Database,
			side + "-username": cfg.Username, side + "-password": cfg.Password})
	}
	query = func(sql string, into any) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), sql).Scan(into); err != nil {
			t.Fatal(err)
		}
	}
	return exec, query, cfg, flags
}

// api starts insitu serve on the schema and returns its URL.
func api(t *testing.T, cfg postgres.Config, schema string) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	listening, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- serve.Run(ctx, serve.Config{
			Listen: "127.0.0.1:0", Database: func() (postgres.Config, error) { return cfg, nil }, Schema: schema, Sessions: 1, Queue: 4,
			RequestTimeout: time.Minute, MaxRequestBytes: 1 << 20, Token: "s3cret", Log: zap.NewNop(), OnListen: func(a net.Addr) { listening <- a },
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case a := <-listening:
		return "http://" + a.String()
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return ""
}

func TestSmokeAsksBySQLAndByHTTP(t *testing.T) {
	t.Parallel()
	exec, query, cfg, flags := deployed(t)
	run := func(change map[string]string) steptest.Result {
		t.Helper()
		all := maps.Clone(flags)
		maps.Copy(all, change)
		return steptest.Run(t, Spec(), all)
	}
	logged := func(r steptest.Result, message string) float64 {
		for _, line := range r.Log {
			if line["msg"] == message {
				return line["rows"].(float64)
			}
		}
		return 0
	}
	served := api(t, cfg, flags["inference-schema"])
	both := map[string]string{"api-url": served + "/", "token": "s3cret"}
	if r := run(both); r.Code != 0 || logged(r, "SQL answers") != rows || logged(r, "the API answers") != rows {
		t.Fatalf("exit code %d, expected 0 and %d rows by SQL and by HTTP\n%s", r.Code, rows, r.Stderr)
	}
	if r := run(map[string]string{"rows": "7"}); r.Code != 0 || logged(r, "SQL answers") != 7 || strings.Contains(r.Stderr, "the API") {
		t.Errorf("7 rows, without an API: exit code %d\n%s", r.Code, r.Stderr)
	}
	zeros := map[string]string{"schema": "", "training-host": "", "training-port": "", "training-database": "", "training-username": ""}
	if r := run(zeros); r.Code != 0 || logged(r, "SQL answers") != 1 {
		t.Errorf("without a training database: exit code %d\n%s", r.Code, r.Stderr)
	}

	answers := func(status int, model string, version, labels int) map[string]string {
		body := bytes.TrimRight(bytes.Repeat([]byte(`{"label":"4"},`), labels), ",")
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"predictions":[%s],"model":{"name":%q,"version":%d}}`, body, model, version)
		}))
		t.Cleanup(server.Close)
		return map[string]string{"api-url": server.URL}
	}
	refused := map[string]struct {
		change map[string]string
		code   int
		said   string
	}{
		"another version is active":         {map[string]string{"model-version": "1"}, 1, `predict_batch: row 1 was predicted by model "digits" version 2, expected model "digits" version 1`},
		"a version that is not deployed":    {map[string]string{"model-version": "3"}, 1, `model "digits" version 3 is not deployed in schema "` + flags["inference-schema"]},
		"a schema for training alone":       {map[string]string{"training-host": ""}, 2, "--training-host"},
		"no URL":                            {map[string]string{"api-url": "insitu-api"}, 2, "--api-url"},
		"an API that is away":               {map[string]string{"api-url": "http://127.0.0.1:1"}, 75, "ask the API"},
		"an API that wants a token":         {map[string]string{"api-url": served}, 2, "401"},
		"an API that is busy":               {answers(503, "", 0, 0), 75, "503"},
		"an API that says no":               {answers(422, "", 0, 0), 1, "422"},
		"an API with another version":       {answers(200, "digits", 1, rows), 1, `row 1 was predicted by model "digits" version 1, expected model "digits" version 2`},
		"an API with another model":         {answers(200, "letters", 2, rows), 1, `by model "letters" version 2, expected`},
		"an API that leaves out an answer":  {answers(200, "digits", 2, rows-1), 1, "gave 11 answers for 12 rows"},
		"an API that says 4 to everything":  {answers(200, "digits", 2, rows), 1, `and "4" by the API`},
		"a dataset that is there no longer": {map[string]string{"schema": flags["inference-schema"]}, 1, "datasets"},
	}
	for name, x := range refused {
		if r := run(x.change); r.Code != x.code || !strings.Contains(r.Message, x.said) {
			t.Errorf("%s: exit code %d, %q, expected %d and %q", name, r.Code, r.Message, x.code, x.said)
		}
	}
	exec("select set_route('canary', 1, 0.5)")
	if r := run(both); r.Code != 0 || logged(r, "the API answers") != rows {
		t.Errorf("with a canary: exit code %d\n%s", r.Code, r.Stderr)
	}
	var challenged int
	if query("select count(*) from prediction_log where answered_by = 'challenger'", &challenged); challenged == 0 {
		t.Error("no row was the challenger's: the canary shows nothing")
	}
	exec("update route set mode = 'shadow'")
	if r := run(both); r.Code != 0 {
		t.Errorf("with a shadow: exit code %d\n%s", r.Code, r.Stderr)
	}
	exec("select clear_route()")
	exec("create or replace function run_inference_task(img bytea) returns text language sql as $$ select null::text $$")
	if r := run(nil); r.Code != 1 || !strings.Contains(r.Message, `"" by run_inference_task`) {
		t.Errorf("a function without an answer: exit code %d, %q", r.Code, r.Message)
	}
	exec("truncate activations")
	if r := run(nil); r.Code != 1 || !strings.Contains(r.Message, "no model is active") {
		t.Errorf("no active model: exit code %d, %q", r.Code, r.Message)
	}
}

func TestLabelsThatARoundingErrorDecidesAreTheSame(t *testing.T) {
	t.Parallel()
	likely := answer{label: "a", probabilities: map[string]float64{"a": 0.40001, "b": 0.39998, "c": 0.2}}
	for label, want := range map[string]bool{"a": true, "b": true, "c": false, "d": false, "": false} {
		if got := likely.same(label); got != want {
			t.Errorf("%q like a: %v", label, got)
		}
	}
	for label, want := range map[string]bool{"1234.5": true, "1234.51": true, "1235": false, "nan": false, "": false} {
		if got := (answer{label: "1234.5"}).same(label); got != want {
			t.Errorf("%q like 1234.5: %v", label, got)
		}
	}
}

func TestADeploymentWhoseAnswersAreWrongIsTakenBack(t *testing.T) {
	t.Parallel()
	exec, query, _, flags := deployed(t)
	models := registrytest.New(t)
	for range 3 {
		models.AddVersion("digits", nil)
	}
	client, err := registry.New(registry.Config{URI: models.URL})
	if err != nil {
		t.Fatal(err)
	}
	set := func(holder int) {
		t.Helper()
		if err := client.SetAlias(t.Context(), "digits", "staging", holder); err != nil {
			t.Fatal(err)
		}
	}
	run := func(what string, change map[string]string, code, active, holder int, says string) {
		t.Helper()
		all := maps.Clone(flags)
		all["mlflow-uri"], all["take-back"] = models.URL, "true"
		maps.Copy(all, change)
		r := steptest.Run(t, Spec(), all)
		var now int
		query("select version from model_versions where active", &now)
		if r.Code != code || now != active || models.Alias("digits", "staging") != holder || !strings.Contains(r.Message, says) {
			t.Errorf("%s: exit code %d, version %d is active, alias at %d; want %d, %d, %d and %q: %s", what, r.Code, now, models.Alias("digits", "staging"), code, active, holder, says, r.Message)
		}
	}
	api := func(status int, label string) map[string]string {
		body := bytes.TrimRight(bytes.Repeat([]byte(`{"label":"`+label+`"},`), rows), ",")
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"predictions":[%s],"model":{"name":"digits","version":2}}`, body)
		}))
		t.Cleanup(server.Close)
		return map[string]string{"api-url": server.URL}
	}
	exec("create table databasechangelog (id text, author text, filename text, dateexecuted timestamp, orderexecuted int, exectype text, md5sum text, description text, comments text, tag text, liquibase text, contexts text, labels text, deployment_id text)")
	exec("truncate activations; insert into activations (ordinal, name, version) values (1, 'digits', 1), (2, 'digits', 2)")
	set(2)
	run("all is well", nil, 0, 2, 2, "")
	run("nothing is taken back unless it is asked for", map[string]string{"take-back": "", "api-url": api(200, "4")["api-url"]}, 1, 2, 2, `"4" by the API`)
	run("an API that is away", api(503, ""), 75, 2, 2, "503")
	run("an API that wants a token", api(401, ""), 2, 2, 2, "401")
	run("no dataset to ask with", map[string]string{"schema": flags["inference-schema"]}, 1, 2, 2, "datasets")
	run("an API that says 4 to everything", api(200, "4"), 1, 1, 1, `"4" by the API`)
	run("the same again", api(200, "4"), 1, 1, 1, "version 1 is active")
	var told string
	query("select string_agg(action || ' ' || version, ', ' order by ordinal) from deployments", &told)
	if want := "rollback 1, failed 2, alias 1, failed 2"; told != want {
		t.Errorf("the ledger tells %q, want %q", told, want)
	}
	one := map[string]string{"model-version": "1"}
	run("the version before", one, 0, 1, 1, "")
	set(3)
	run("somebody moved the alias", one, 1, 1, 3, `but the alias "staging" names version 3: insitu rollback --inference-schema `+flags["inference-schema"]+" --to 1 moves it")
	set(1)
	exec("create or replace function run_inference_task(img bytea) returns text language sql as $$ select null::text $$")
	run("a first version stays", one, 1, 1, 1, "version 1 stays active")
	run("take-back without a registry", map[string]string{"mlflow-uri": ""}, 2, 1, 1, "--mlflow-uri")

	challenger := map[string]string{"activate": "false"}
	run("a challenger", challenger, 0, 1, 1, "")
	exec("select set_route('canary', 2, 1)")
	run("a challenger with a canary", challenger, 0, 1, 1, "")
	exec("select set_route('shadow', 2, 1)")
	run("the active version is no challenger", map[string]string{"activate": "false", "model-version": "1"}, 1, 1, 1, "was deployed as a challenger")
	exec("create or replace function predict_version(name text, version int, data bytea, n int) returns bytea language plpgsql as $$ begin raise 'broken' using errcode = 'IS004'; end $$")
	run("a challenger that does not predict", challenger, 1, 1, 1, "broken")
	var routes int
	if query("select count(*) from route", &routes); routes != 0 {
		t.Error("a challenger that does not predict still gets calls")
	}
}
