package deployinferencedb

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/registry/registrytest"
	"github.com/insitu-ml/insitu/internal/step/steptest"
)

// shelf is an MLflow server with versions of the model m, in order of their numbers. The alias names none at first.
type shelf struct {
	*registrytest.Server
	// fail answers a request with a status other than 0. Set it while no step runs.
	fail func(method, path string) int
}

func newShelf(t *testing.T, versions ...[]byte) *shelf {
	t.Helper()
	s := &shelf{Server: registrytest.New(t)}
	s.Before = func(_ int, method, path string) int {
		if s.fail == nil {
			return 0
		}
		return s.fail(method, strings.TrimPrefix(path, "/api/2.0/mlflow/"))
	}
	client, err := registry.New(registry.Config{URI: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	experiment, err := client.EnsureExperiment(t.Context(), "m")
	must(err)
	for i, onnx := range versions {
		job := fmt.Sprintf("job-%d", i+1)
		run, err := client.EnsureRun(t.Context(), experiment, job, map[string]string{registry.TagJob: job}, registry.TagJob)
		must(err)
		must(client.UploadArtifact(t.Context(), run, "model/model.onnx", onnx))
		must(client.UploadArtifact(t.Context(), run, "model/insitu.json", []byte(`{"classes": ["cat", "dog"]}`)))
		sum := sha256.Sum256(onnx)
		_, _, err = client.EnsureModelVersion(t.Context(), "m", run, "model", "n", map[string]string{"n": strconv.Itoa(i + 1), registry.TagJob: "job-1", registry.TagCode: "code-1",
			registry.TagDataset: "dataset-1", registry.TagONNX: hex.EncodeToString(sum[:]), registry.TagGit: fmt.Sprintf("sha-%d", i+1)})
		must(err)
	}
	return s
}

// promote gives the alias to a version, as promote-model-to-staging does.
func (s *shelf) promote(t *testing.T, version int) {
	t.Helper()
	client, err := registry.New(registry.Config{URI: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.SetVersionTag(t.Context(), "m", version, registry.TagPrevious+"staging", strconv.Itoa(s.Alias("m", "staging"))); err != nil {
		t.Fatal(err)
	}
	if err := client.SetAlias(t.Context(), "m", "staging", version); err != nil {
		t.Fatal(err)
	}
}

// place is an inference schema, a training schema that predicts (0.5, 0.25) for everything, and a registry with versions 1 to 4 of the model m:
// 1, 3 and 4 say the same, 2 says (0.25, 0.5).
type place struct {
	*shelf
	server           postgres.Config
	conn             *postgres.Conn
	schema, training string
	flags            map[string]string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	cfg := changelogtest.Server(t)
	read := func(name string) []byte {
		t.Helper()
		content, err := os.ReadFile("../../inference/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	p := &place{server: cfg, schema: changelogtest.Schema(t, cfg, "Inference"), training: changelogtest.Schema(t, cfg, "Training")}
	one := read("one.onnx")
	p.shelf = newShelf(t, one, read("two.onnx"), one, one)
	var err error
	if p.conn, err = postgres.Connect(t.Context(), cfg, postgres.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.conn.Close)
	p.exec(t, "create schema "+postgres.Ident(p.training)+"; set search_path to "+postgres.Ident(p.training)+"; "+string(read("training.sql"))+"; reset search_path")
	p.flags = map[string]string{
		"inference-schema": p.schema, "schema": p.training, "model-name": "m", "liquibase": changelogtest.Jars(t), "work-dir": t.TempDir(), "mlflow-uri": p.URL,
	}
	for _, side := range []string{"training", "inference"} {
		maps.Copy(p.flags, map[string]string{side + "-host": cfg.Host, side + "-port": strconv.Itoa(cfg.Port), side + "-database": cfg.Database,
			side + "-username": cfg.Username, side + "-password": cfg.Password})
	}
	return p
}

func (p *place) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := p.conn.Exec(t.Context(), strings.ReplaceAll(sql, "{}", postgres.Ident(p.schema))); err != nil {
		t.Fatal(err)
	}
}

func (p *place) run(t *testing.T, version int, change map[string]string) steptest.Result {
	t.Helper()
	all := maps.Clone(p.flags)
	all["model-version"] = strconv.Itoa(version)
	maps.Copy(all, change)
	return steptest.Run(t, Spec(), all)
}

// check compares the active version, the alias's holder and the end of the ledger.
func (p *place) check(t *testing.T, what string, active, holder int, ledger ...string) {
	t.Helper()
	read := func(sql string) (got []string) {
		t.Helper()
		if err := p.conn.QueryRow(t.Context(), "select array("+strings.ReplaceAll(sql, "{}", postgres.Ident(p.schema))+")").Scan(&got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := read("select version::text from {}.model_versions where active"); !cmp.Equal(got, []string{strconv.Itoa(active)}) || p.Alias("m", "staging") != holder {
		t.Errorf("%s: active %v, alias at version %d; want %d, %d", what, got, p.Alias("m", "staging"), active, holder)
	}
	all := read("select action || ' ' || version from {}.deployments order by ordinal")
	if diff := cmp.Diff(append([]string{}, ledger...), all[max(0, len(all)-len(ledger)):]); diff != "" {
		t.Errorf("%s: ledger (-want +got):\n%s", what, diff)
	}
}

func TestAModelIsSwitchedToOnlyWhenItPredictsWhatItPredictedInTraining(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	base, err := changelog.Load(database.Inference, p.conn.Dialect)
	if err != nil {
		t.Fatal(err)
	}
	check := func(version int, previous string, added int) {
		t.Helper()
		r := p.run(t, version, nil)
		want := map[string]string{"active-version": strconv.Itoa(version), "previous-version": previous, "changesets-added": strconv.Itoa(added), "parity-max-abs-diff": "0", "parity-disagreements": "0"}
		if diff := cmp.Diff(want, r.Outputs); r.Code != 0 || diff != "" {
			t.Fatalf("version %d: exit code %d: %s\n%s", version, r.Code, diff, r.Stderr)
		}
		if !strings.Contains(string(r.Files["changelog"]), fmt.Sprintf("--changeset insitu:model-m-%d-", version)) {
			t.Errorf("version %d is not in the changelog", version)
		}
	}
	check(1, "", len(base)+1)
	check(1, "", 0)
	p.check(t, "the first version", 1, 1, "deploy 1", "activate 1", "alias 1")

	apart := p.run(t, 2, nil)
	if apart.Code != 1 || !strings.Contains(apart.Message, "was not activated: parity over 12 test rows") || len(apart.Outputs) != 0 {
		t.Errorf("a model that predicts something else: exit code %d, %q, outputs %v", apart.Code, apart.Message, apart.Outputs)
	}
	check(3, "1", 1)
	check(3, "1", 0)
	p.check(t, "all of it", 3, 3, "deploy 1", "activate 1", "alias 1", "deploy 2", "failed 2", "deploy 3", "activate 3", "alias 3")
	if tolerated := p.run(t, 2, map[string]string{"parity-tolerance": "0.3", "parity-max-disagreements": "12", "keep": "2"}); tolerated.Code != 0 || tolerated.Outputs["parity-max-abs-diff"] != "0.25" {
		t.Errorf("exit code %d: %s", tolerated.Code, tolerated.Stderr)
	}
	for name, c := range map[string]struct {
		version int
		change  map[string]string
		code    int
	}{
		"a version nobody registered": {9, nil, 1},
		"a registry that is away":     {1, map[string]string{"mlflow-uri": "http://127.0.0.1:1"}, 75},
		"a wrong password":            {1, map[string]string{"inference-password": "wrong-one"}, 2},
		"no training database":        {1, map[string]string{"training-port": "1"}, 75},
		"one schema for both":         {1, map[string]string{"inference-schema": p.training}, 2},
		"no rows to compare":          {1, map[string]string{"parity-rows": "0"}, 2},
		"no version before is kept":   {1, map[string]string{"keep": "1"}, 2},
		"a name that is no alias":     {1, map[string]string{"alias": "latest"}, 2},
	} {
		if r := p.run(t, c.version, c.change); r.Code != c.code || len(r.Outputs) != 0 {
			t.Errorf("%s: exit code %d, want %d: %s", name, r.Code, c.code, r.Message)
		}
	}
	p.check(t, "after failures", 2, 2)
}

func TestADeploymentThatFailsIsTakenBackOrCompletedByTheNextRun(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.promote(t, 1)
	fails := func(what string, version, code int, texts ...string) {
		t.Helper()
		r := p.run(t, version, nil)
		if r.Code != code || len(r.Outputs) != 0 {
			t.Errorf("%s: exit code %d, want %d: %s", what, r.Code, code, r.Message)
		}
		for _, text := range texts {
			if !strings.Contains(r.Message, text) {
				t.Errorf("%s: the message lacks %q: %s", what, text, r.Message)
			}
		}
	}
	succeeds := func(version int) {
		t.Helper()
		if r := p.run(t, version, nil); r.Code != 0 {
			t.Fatalf("version %d: exit code %d: %s", version, r.Code, r.Stderr)
		}
	}
	succeeds(1)

	p.promote(t, 2)
	fails("parity", 2, 1, "parity over 12 test rows", `version 1 is active, and the alias "staging" went back to it`)
	p.check(t, "parity", 1, 1, "alias 1", "deploy 2", "failed 2", "alias 1")

	refuse := func(table string) {
		p.exec(t, "create function {}.refuse() returns trigger language plpgsql as $$ begin raise 'not today'; end $$; create trigger refuse before insert on {}."+table+" for each row execute function {}.refuse()")
	}
	p.promote(t, 3)
	refuse("models")
	fails("the changeset", 3, 1, "changeset", "not today", "went back to it")
	p.check(t, "the changeset", 1, 1, "failed 3", "alias 1")
	p.exec(t, "drop function {}.refuse() cascade")

	p.promote(t, 3)
	refuse("activations")
	fails("the activation", 3, 1, "not today", "went back to it")
	p.check(t, "the activation", 1, 1, "deploy 3", "failed 3", "alias 1")
	p.exec(t, "drop function {}.refuse() cascade")

	// Nobody promoted it: the deployment moves the alias itself.
	away := func(status int) {
		p.fail = func(method, path string) int {
			if method == http.MethodPost && path == "registered-models/alias" {
				return status
			}
			return 0
		}
	}
	away(http.StatusInternalServerError)
	fails("the registry is down when the alias is to move", 3, 75, `version 3 is active, but the alias "staging" does not name it`)
	p.check(t, "the registry is down", 3, 1, "failed 3", "alias 1", "activate 3")
	p.fail = nil
	succeeds(3)
	p.check(t, "the next run", 3, 3, "activate 3", "alias 3")

	away(http.StatusForbidden)
	fails("the registry refuses", 4, 2, "403", "version 3 is active")
	p.check(t, "the registry refuses", 3, 3, "deploy 4", "activate 4", "rollback 3", "failed 4")

	p.fail = nil
	p.promote(t, 2)
	away(http.StatusInternalServerError)
	fails("the registry is down when the alias is to go back", 2, 75, "parity", `version 3 is active, but the alias "staging" could not be moved`)
	p.check(t, "the registry is down once more", 3, 2, "failed 2")
	p.fail = nil
	fails("the next run", 2, 1, "parity", "went back to it")
	p.check(t, "the next run takes it back", 3, 3, "failed 2", "failed 2", "alias 3")

	// In service, and it does not predict any more what it should.
	p.exec(t, "create or replace function "+postgres.Ident(p.training)+".predict_onnx(model bytea, digest text, data bytea, n int) returns bytea language sql as $$ select decode(repeat('0000803e0000003f', n), 'hex') $$")
	fails("parity of the active version", 3, 1, "parity", "version 1 is active")
	if got := p.Alias("m", "staging"); got == 3 {
		t.Error("the alias is still at version 3")
	}
}

func TestAChallengerIsDeployedAndNothingIsSwitched(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	challenger := map[string]string{"activate": "false"}
	succeeds := func(version int, change map[string]string, active, previous string) {
		t.Helper()
		r := p.run(t, version, change)
		if r.Code != 0 || r.Outputs["active-version"] != active || r.Outputs["previous-version"] != previous || r.Outputs["parity-max-abs-diff"] != "0" {
			t.Fatalf("version %d: exit code %d, outputs %v: %s", version, r.Code, r.Outputs, r.Stderr)
		}
	}
	routed := func(version, want int) {
		t.Helper()
		var n int
		if err := p.conn.QueryRow(t.Context(), "select count(*) from "+postgres.Ident(p.schema, "route")+" where version = $1", version).Scan(&n); err != nil || n != want {
			t.Errorf("routes to version %d: %d, %v; want %d", version, n, err, want)
		}
	}
	succeeds(1, challenger, "", "") // before any other
	if r := p.run(t, 1, nil); r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	succeeds(3, challenger, "1", "")
	p.check(t, "a challenger", 1, 1, "deploy 1", "challenge 1", "activate 1", "alias 1", "deploy 3", "challenge 3")
	succeeds(3, challenger, "1", "")
	p.check(t, "the same again", 1, 1, "deploy 3", "challenge 3")
	p.exec(t, "select {}.set_route('canary', 3, 1)")
	var label string
	var by int
	if err := p.conn.QueryRow(t.Context(), "select label, model_version from "+postgres.Ident(p.schema, "predict")+"('\\x010203')").Scan(&label, &by); err != nil || label != "cat" || by != 3 {
		t.Errorf("the canary answers %q by version %d, %v", label, by, err)
	}
	// Challengers of late keep their bytes, whatever was active since.
	succeeds(4, map[string]string{"activate": "false", "keep": "2"}, "1", "")
	p.check(t, "a second challenger", 1, 1, "deploy 4", "challenge 4")

	succeeds(1, challenger, "1", "")
	p.check(t, "the active version", 1, 1, "deploy 4", "challenge 4")
	apart := p.run(t, 2, challenger)
	if apart.Code != 1 || !strings.Contains(apart.Message, "was not accepted as a challenger: parity") || !strings.Contains(apart.Message, "version 1 is active") {
		t.Errorf("a challenger that predicts something else: exit code %d, %q", apart.Code, apart.Message)
	}
	p.check(t, "it is no challenger", 1, 1, "deploy 2", "failed 2")

	routed(3, 1)
	p.exec(t, "create or replace function "+postgres.Ident(p.training)+".predict_onnx(model bytea, digest text, data bytea, n int) returns bytea language sql as $$ select decode(repeat('0000803e0000003f', n), 'hex') $$")
	if r := p.run(t, 3, challenger); r.Code != 1 {
		t.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
	routed(3, 0)
	p.check(t, "a challenger that fails gets no calls any more", 1, 1, "failed 2", "failed 3")
}

func TestTheEvaluationReportIsKeptWithTheVersion(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	client, err := registry.New(registry.Config{URI: p.URL})
	if err != nil {
		t.Fatal(err)
	}
	evaluated := func(version int, html string) {
		t.Helper()
		v, err := client.ModelVersion(t.Context(), "m", version)
		if err != nil {
			t.Fatal(err)
		}
		run, err := client.GetRun(t.Context(), v.RunID)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.UploadArtifact(t.Context(), run, "evaluation/report.html", []byte(html)); err != nil {
			t.Fatal(err)
		}
	}
	deploy := func(version int, log string, want ...string) {
		t.Helper()
		r := p.run(t, version, nil)
		var kept []string
		if err := p.conn.QueryRow(t.Context(), "select array(select version || ' ' || convert_from(html, 'utf8') from "+postgres.Ident(p.schema, "model_reports")+" order by version)").Scan(&kept); err != nil {
			t.Fatal(err)
		}
		if r.Code != 0 || !strings.Contains(r.Stderr, log) || !cmp.Equal(append([]string{}, want...), kept) {
			t.Errorf("version %d: exit code %d, reports %q, want %q and %q\n%s", version, r.Code, kept, want, log, r.Stderr)
		}
	}
	deploy(1, "was not evaluated")
	evaluated(1, "<!doctype html><html>first")
	evaluated(3, "<!doctype html><html>third")
	deploy(1, "", "1 <!doctype html><html>first")
	deploy(3, "", "1 <!doctype html><html>first", "3 <!doctype html><html>third")
	evaluated(3, "<!doctype html><html>once more")
	deploy(3, "", "1 <!doctype html><html>first", "3 <!doctype html><html>once more")
	evaluated(4, "<html>"+strings.Repeat("x", 4<<20))
	deploy(4, "larger than 4194304 bytes", "1 <!doctype html><html>first", "3 <!doctype html><html>once more")
	evaluated(4, "\x00\xff<html>")
	deploy(4, "no HTML page in UTF-8", "1 <!doctype html><html>first", "3 <!doctype html><html>once more")
	p.fail = func(method, path string) int {
		if method == http.MethodGet && strings.HasSuffix(path, "report.html") {
			return http.StatusServiceUnavailable
		}
		return 0
	}
	if r := p.run(t, 4, nil); r.Code != 75 {
		t.Errorf("a registry that is away: exit code %d\n%s", r.Code, r.Stderr)
	}
}

// Liquibase does not know the registry: what it rolls back leaves the alias where it was.
func TestTheAliasComesBackAfterLiquibaseRolledBack(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	succeeds := func(version int, change map[string]string) steptest.Result {
		t.Helper()
		r := p.run(t, version, change)
		if r.Code != 0 {
			t.Fatalf("version %d: exit code %d: %s", version, r.Code, r.Stderr)
		}
		return r
	}
	succeeds(1, nil)
	succeeds(3, nil)
	text := succeeds(4, nil).Files["changelog"]
	changelogtest.Stock(t, p.server, p.schema, text, "rollback-count", "--count=1")
	p.check(t, "Liquibase rolled back", 3, 4)
	if r := succeeds(1, map[string]string{"activate": "false"}); !strings.Contains(r.Stderr, "the alias does not name the active version") {
		t.Errorf("the log does not say it: %s", r.Stderr)
	}
	p.check(t, "a challenger was deployed", 3, 4)
	succeeds(3, nil)
	p.check(t, "the active version was deployed again", 3, 3)
}
