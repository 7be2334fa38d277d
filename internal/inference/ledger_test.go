package inference

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

// served is an inference schema on a real server.
type served struct {
	*changelog.Session
	server postgres.Config
	schema string
	base   []changelog.Changeset
	text   []byte // the changelog of the last deployment
}

func newServed(t *testing.T) *served {
	t.Helper()
	cfg := changelogtest.Server(t)
	s := &served{server: cfg, schema: changelogtest.Schema(t, cfg, "Inference")}
	var err error
	s.Session, err = changelog.Open(t.Context(), changelog.Schema{Database: cfg, Name: s.schema, Path: ChangelogPath, Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
		Liquibase: changelog.Liquibase{Path: changelogtest.Jars(t), Java: "java", TempDir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if s.base, err = changelog.Load(database.Inference, s.Conn.Dialect); err != nil {
		t.Fatal(err)
	}
	return s
}

// onnx answers (0.5, 0.25) for 1 and (0.25, 0.5) for 2, whatever it is asked: the first class or the second.
func onnx(t *testing.T, n int) string {
	t.Helper()
	content, err := os.ReadFile([]string{"testdata/one.onnx", "testdata/two.onnx"}[n-1])
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func (s *served) deploy(t *testing.T, m Model) (added []string) {
	t.Helper()
	added, text, err := Deploy(t.Context(), s.Session, s.schema, s.base, m)
	if err != nil {
		t.Fatal(err)
	}
	s.text = text
	return added
}

// activate switches to a version, with the probe of an example of 3 bytes.
func (s *served) activate(t *testing.T, v Version) {
	t.Helper()
	e, err := Show(t.Context(), Place{s.Conn, s.schema}, v, Parity{Rows: 1, exampleBytes: 3})
	if err == nil {
		_, err = Activate(t.Context(), s.Conn, s.schema, v, e)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// serve deploys versions and switches to each.
func (s *served) serve(t *testing.T, models ...Model) {
	t.Helper()
	for _, m := range models {
		s.deploy(t, m)
		s.activate(t, Version{m.Name, m.Version})
	}
}

// rows reads one text of each row.
func (s *served) rows(t *testing.T, sql string) []string {
	t.Helper()
	sql = strings.ReplaceAll(sql, "{}", postgres.Ident(s.schema))
	rows, err := s.Conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// ledger has a line for each row: "activate 2".
func (s *served) ledger(t *testing.T) []string {
	t.Helper()
	return s.rows(t, "select action || ' ' || version from {}.deployments order by ordinal")
}

func (s *served) active(t *testing.T, want int) {
	t.Helper()
	if got := s.rows(t, "select version::text from {}.model_versions where active"); !cmp.Equal(got, []string{fmt.Sprint(want)}) {
		t.Errorf("active: %v, want version %d", got, want)
	}
}

func differs(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestARollbackIsAChangesetThatStockLiquibaseUndoes(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	name := model(1, "").Name
	s.serve(t, model(1, onnx(t, 1)))
	if _, err := s.Tag(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	s.serve(t, model(2, onnx(t, 2)), model(3, onnx(t, 1)))
	for range 2 { // the second time changes nothing
		if _, err := SwitchBack(t.Context(), s.Conn, s.schema, Version{name, 1}, "a test"); err != nil {
			t.Fatal(err)
		}
	}
	s.active(t, 1)
	differs(t, "ledger", []string{"deploy 1", "activate 1", "deploy 2", "activate 2", "deploy 3", "activate 3", "rollback 1"}, s.ledger(t))
	story := func() []string {
		return s.rows(t, "select comments from {}.databasechangelog where id !~ '^0' order by orderexecuted")
	}
	told := "rollback of model it's a _{model} from version 3 to version 1"
	if got := story(); len(got) != 4 || got[3] != told {
		t.Errorf("databasechangelog tells %q", got)
	}
	// The file of before does not know the rollback; the next deployment's does, and Liquibase takes the row for its own.
	if added := s.deploy(t, model(3, onnx(t, 1))); len(added) != 0 {
		t.Errorf("added %v, expected nothing", added)
	}
	if sums := s.rows(t, "select id from {}.databasechangelog where md5sum is null"); len(sums) != 0 {
		t.Errorf("no checksum: %v", sums)
	}
	if out := changelogtest.Stock(t, s.server, s.schema, s.text, "status", "--verbose"); !strings.Contains(out, "is up to date") {
		t.Errorf("status: %s", out)
	}
	changelogtest.Stock(t, s.server, s.schema, s.text, "rollback-count", "--count=1")
	s.active(t, 3)
	if got := story(); len(got) != 3 {
		t.Errorf("databasechangelog tells %q", got)
	}
	if added := s.deploy(t, model(3, onnx(t, 1))); len(added) != 0 {
		t.Errorf("the rollback that was undone came back: %v", added)
	}
	s.active(t, 3)
	if _, err := SwitchBack(t.Context(), s.Conn, s.schema, Version{name, 2}, ""); err != nil {
		t.Fatal(err)
	}
	s.deploy(t, model(3, onnx(t, 1)))
	changelogtest.Stock(t, s.server, s.schema, s.text, "rollback", "--tag=first")
	s.active(t, 1)
	differs(t, "versions", []string{"1"}, s.rows(t, "select version::text from {}.models"))
	// What came after is not forgotten, and no ordinal comes twice.
	s.serve(t, model(2, onnx(t, 2)))
	s.active(t, 2)
	if got := s.ledger(t); len(got) != 10 || got[8] != "deploy 2" || got[9] != "activate 2" {
		t.Errorf("ledger: %v", got)
	}
	changelogtest.Stock(t, s.server, s.schema, s.text, "rollback-count", "--count=20")
	if left := s.rows(t, "select relname from pg_class where relnamespace = '{}'::regnamespace and relkind = 'r' and relname !~ '^databasechange'"); len(left) != 0 {
		t.Errorf("after the rollback of everything these tables are left: %v", left)
	}
}

func TestARollbackEndsTheRouteToTheVersionThatIsLeft(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	name := model(1, "").Name
	s.serve(t, model(1, onnx(t, 1)))
	s.deploy(t, model(2, onnx(t, 2)))
	if _, err := s.Conn.Exec(t.Context(), "select "+postgres.Ident(s.schema)+".set_route('canary', 2, 1)"); err != nil {
		t.Fatal(err)
	}
	s.activate(t, Version{name, 2})
	if _, err := SwitchBack(t.Context(), s.Conn, s.schema, Version{name, 1}, ""); err != nil {
		t.Fatal(err)
	}
	label := "select label from {}.predict('\\x010203')"
	differs(t, "label", []string{"cat"}, s.rows(t, label))
}

func TestAFileOfBeforeTheRollbackStillRollsBack(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	s.serve(t, model(1, onnx(t, 1)), model(2, onnx(t, 2)))
	if _, err := SwitchBack(t.Context(), s.Conn, s.schema, Version{model(1, "").Name, 1}, ""); err != nil {
		t.Fatal(err)
	}
	changelogtest.Stock(t, s.server, s.schema, s.text, "rollback-count", "--count=1")
	s.active(t, 1)
	differs(t, "versions", []string{"1"}, s.rows(t, "select version::text from {}.models"))
}

func TestOldVersionsArePrunedAndCanBeDeployedAgain(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	name := model(1, "").Name
	prune := func(keep int, want ...int) {
		t.Helper()
		gone, err := Prune(t.Context(), s.Conn, s.schema, keep)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, v := range gone {
			got = append(got, v.Version)
		}
		differs(t, fmt.Sprintf("pruned, keeping %d", keep), want, got)
	}
	s.serve(t, model(1, onnx(t, 1)), model(2, onnx(t, 2)))
	prune(2)
	s.serve(t, model(3, onnx(t, 1)))
	prune(2) // version 1 has the bytes of version 3
	s.deploy(t, model(4, "never active"))
	prune(4)
	route := func(version int) {
		t.Helper()
		if _, err := s.Conn.Exec(t.Context(), "select "+postgres.Ident(s.schema)+".set_route('canary', $1, 1)", version); err != nil {
			t.Fatal(err)
		}
	}
	route(4)
	prune(2)
	route(2)
	prune(2, 4)
	if _, err := Activate(t.Context(), s.Conn, s.schema, Version{name, 4}, Evidence{}); err == nil || !strings.Contains(err.Error(), "was pruned") {
		t.Errorf("a pruned version was activated: %v", err)
	}
	pruned := func() []string {
		return s.rows(t, "select version::text from {}.model_versions where pruned order by 1")
	}
	differs(t, "pruned", []string{"4"}, pruned())

	s.serve(t, model(5, onnx(t, 1)))
	if _, err := SwitchBack(t.Context(), s.Conn, s.schema, Version{name, 2}, ""); err != nil {
		t.Fatal(err)
	}
	prune(2) // the active one is 2, the one before it 1, which shares its bytes with 3 and 5
	s.serve(t, model(3, onnx(t, 1)))
	s.active(t, 3)
	prune(2)
	differs(t, "pruned", []string{"4"}, pruned())

	s.deploy(t, model(4, "never active"))
	differs(t, "pruned", []string{}, pruned())
	if got := s.ledger(t); got[len(got)-1] != "deploy 4" {
		t.Errorf("ledger: %v", got)
	}
	if added := s.deploy(t, model(4, "never active")); len(added) != 0 {
		t.Errorf("added %v", added)
	}
	if got := s.ledger(t); got[len(got)-2] == "deploy 4" {
		t.Errorf("deployed twice: %v", got)
	}
}

func TestRestoreTakesOnlyTheBytesThatWereDeployed(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	name := model(1, "").Name
	s.serve(t, model(1, onnx(t, 1)), model(2, onnx(t, 2)))
	if _, err := s.Conn.Exec(t.Context(), "delete from "+postgres.Ident(s.schema, "model_blobs")+" where digest = $1", digest(onnx(t, 1))); err != nil {
		t.Fatal(err)
	}
	plan, err := PlanRollback(t.Context(), s.Conn, s.schema, 0)
	if err != nil || !plan.Pruned || plan.To != (Version{name, 1}) {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	has := func(bytes string) shelf {
		return shelf{version: registry.ModelVersion{RunID: "run-1", Tags: map[string]string{registry.TagJob: "job-1", registry.TagCode: "code-1", registry.TagDataset: "dataset-1", registry.TagONNX: digest(bytes)}},
			files: map[string]string{"run-1/model/model.onnx": bytes, "run-1/model/insitu.json": "{}"}}
	}
	if err := Restore(t.Context(), s.Conn, s.schema, has("other"), plan.To); err == nil || !strings.Contains(err.Error(), "as it was deployed") {
		t.Errorf("other bytes: %v", err)
	}
	if err := Restore(t.Context(), s.Conn, s.schema, has(onnx(t, 1)), plan.To); err != nil {
		t.Fatal(err)
	}
	if _, err := SwitchBack(t.Context(), s.Conn, s.schema, plan.To, ""); err != nil {
		t.Fatal(err)
	}
	s.active(t, 1)
}

func TestAVersionThatPredictsSomethingElseByNowIsNotGoneBackTo(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	name := model(1, "").Name
	s.serve(t, model(1, onnx(t, 1)), model(2, onnx(t, 2)))
	place := Place{s.Conn, s.schema}
	for version := range 2 {
		if err := CheckProbe(t.Context(), place, Version{name, version + 1}); err != nil {
			t.Errorf("version %d: %v", version+1, err)
		}
	}
	s.deploy(t, model(3, onnx(t, 1)))
	if err := CheckProbe(t.Context(), place, Version{name, 3}); err != nil {
		t.Errorf("a version without a probe: %v", err)
	}
	// The functions are replaced by some that say another thing.
	if _, err := s.Conn.Exec(t.Context(), "create or replace function "+postgres.Ident(s.schema)+`.predict_version(name text, version int, data bytea, n int) returns bytea language sql
		as $$ select decode(repeat('0000003f0000803e', n), 'hex') $$`); err != nil {
		t.Fatal(err)
	}
	if err := CheckProbe(t.Context(), place, Version{name, 1}); err != nil {
		t.Error(err)
	}
	if err := CheckProbe(t.Context(), place, Version{name, 2}); err == nil || !strings.Contains(err.Error(), "predicts 0.5 where it predicted 0.25") {
		t.Errorf("got %v", err)
	}
}

func TestProbesAreNumbersFromZeroToOneInEveryType(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 3, 4, 64, 3072} {
		if n := len(probe{size: size}.examples()); n != probes*size {
			t.Errorf("%d bytes an example: %d bytes", size, n)
		}
	}
	differs(t, "the first number", "\x7a\x37\x1e\x3f", string(probe{size: 1}.examples()))
}

func TestAFailedDeploymentIsTakenBack(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	name := model(1, "").Name
	refused := errors.New("refused for good")
	apart := fmt.Errorf("not activated: %w", (Parity{Rows: 1, Pairs: []Pair{{MaxAbsDiff: 1}}}).Check(Tolerance{}))
	take := func(r *aliases, version int, wasActive bool, cause error) string {
		t.Helper()
		note, err := TakeBack(t.Context(), s.Conn, s.schema, r, "staging", Version{name, version}, wasActive, cause)
		if err != nil {
			return "error: " + err.Error()
		}
		return note
	}
	check := func(what, want, got string, r *aliases, holder int, wantLedger ...string) {
		t.Helper()
		if got != want || r.at != holder {
			t.Errorf("%s: %q, alias at %d; want %q, %d", what, got, r.at, want, holder)
		}
		if wantLedger != nil {
			all := s.ledger(t)
			differs(t, what, wantLedger, all[len(all)-len(wantLedger):])
		}
	}
	r := &aliases{at: 1}
	check("an empty schema", `no version is active, and the alias "staging" was taken away`, take(r, 1, false, refused), r, 0)
	s.deploy(t, model(1, onnx(t, 1)))
	r = &aliases{at: 1, tags: map[string]string{registry.TagPrevious + "staging": "7"}}
	check("the first version", `no version is active, and the alias "staging" went back to version 7`, take(r, 1, false, refused), r, 7, "deploy 1", "failed 1")
	s.activate(t, Version{name, 1})
	r = &aliases{at: 1}
	check("the only version, in service", "version 1 stays active", take(r, 1, false, refused), r, 1, "activate 1", "failed 1")
	s.deploy(t, model(2, onnx(t, 2)))
	r = &aliases{at: 2}
	check("before the switch", `version 1 is active, and the alias "staging" went back to it`, take(r, 2, false, apart), r, 1, "failed 2", "alias 1")
	check("once more", "version 1 is active", take(r, 2, false, apart), r, 1, "alias 1", "failed 2")
	r = &aliases{at: 5}
	check("somebody else has the alias", "version 1 is active", take(r, 2, false, apart), r, 5, "failed 2")
	s.activate(t, Version{name, 2})
	r = &aliases{at: 2}
	check("it was in service before, and nothing is wrong with it", "version 2 stays active", take(r, 2, true, refused), r, 2, "activate 2", "failed 2")
	s.active(t, 2)
	check("it was in service before, and predicts something else", `version 1 is active, and the alias "staging" went back to it`, take(r, 2, true, apart), r, 1, "rollback 1", "failed 2", "alias 1")
	s.active(t, 1)
	s.activate(t, Version{name, 2})
	away := fault.AsTemporary(errors.New("away"))
	r = &aliases{at: 2, fail: map[string]error{"SetAlias": away}}
	check("the registry is away", `error: version 1 is active, but the alias "staging" could not be moved: away`, take(r, 2, false, refused), r, 2, "rollback 1", "failed 2")
	s.active(t, 1)
	_, err := TakeBack(t.Context(), s.Conn, s.schema, r, "staging", Version{name, 2}, false, refused)
	if fault.Of(err) != fault.Temporary {
		t.Errorf("not temporary: %v", err)
	}
}

// A rollback that is killed, or whose registry is away, is finished before another one begins.
func TestAnUnfinishedRollbackIsFinishedFirst(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	name := model(1, "").Name
	r := &aliases{}
	follow := func(version int, want bool) {
		t.Helper()
		if moved, err := MoveAlias(t.Context(), s.Conn, s.schema, r, "staging", Version{name, version}); err != nil || moved != want {
			t.Fatalf("alias to version %d: moved %t, %v", version, moved, err)
		}
	}
	plan := func(to int, want Plan) {
		t.Helper()
		got, err := PlanRollback(t.Context(), s.Conn, s.schema, to)
		if err != nil {
			t.Fatal(err)
		}
		differs(t, "plan", want, got)
	}
	v := func(n int) Version { return Version{name, n} }
	for i, file := range []int{1, 2, 1} {
		s.serve(t, model(i+1, onnx(t, file)))
		follow(i+1, true)
		follow(i+1, false) // and enters nothing
	}
	plan(0, Plan{From: v(3), To: v(2)})
	plan(1, Plan{From: v(3), To: v(1)})
	plan(3, Plan{From: v(3), To: v(3)})
	if _, err := SwitchBack(t.Context(), s.Conn, s.schema, v(2), ""); err != nil {
		t.Fatal(err)
	}
	plan(0, Plan{From: v(2), To: v(2), Finish: true})
	plan(2, Plan{From: v(2), To: v(2), Finish: true})
	plan(1, Plan{From: v(2), To: v(1)})
	r.fail = map[string]error{"FollowAlias": errors.New("away")}
	if _, err := MoveAlias(t.Context(), s.Conn, s.schema, r, "staging", v(2)); err == nil {
		t.Fatal("no error")
	}
	r.fail = nil
	plan(0, Plan{From: v(2), To: v(2), Finish: true})
	follow(2, false)
	plan(0, Plan{From: v(2), To: v(1)})
	differs(t, "what followed", "staging 2", r.stage)
	differs(t, "ledger", []string{"deploy 1", "activate 1", "alias 1", "deploy 2", "activate 2", "alias 2", "deploy 3", "activate 3", "alias 3", "rollback 2", "alias 2"}, s.ledger(t))
	// An alias that somebody moved by hand comes back, and the ledger says so.
	r.at = 3
	follow(2, true)
	if got := s.ledger(t); len(got) != 12 {
		t.Errorf("ledger: %v", got)
	}
}

// Callers never fail and never see two versions in one statement, whatever is deployed and rolled back meanwhile.
func TestCallersNoticeNothingOfASwitch(t *testing.T) {
	t.Parallel()
	const atLeast, switchesAtLeast, callers = 10_000, 100, 2
	s := newServed(t)
	name := model(1, "").Name
	s.serve(t, model(1, onnx(t, 1)), model(2, onnx(t, 2)))
	var calls, failed, mixed atomic.Int64
	var seen [4]atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	schema := postgres.Ident(s.schema)
	// Half of the calls predict a batch, half one image a row; each must name one version, and its label.
	sql := []string{
		"select array_agg(distinct model_version || label) from " + schema + ".predict_batch(array_fill('\\x010203'::bytea, array[8]))",
		"select array_agg(distinct (p).model_version || (p).label) from (select " + schema + ".predict('\\x010203') p from generate_series(1, 8)) q",
	}
	var all sync.WaitGroup
	for i := range callers {
		all.Add(1)
		go func() {
			defer all.Done()
			conn, err := postgres.Connect(t.Context(), s.server, postgres.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			for ctx.Err() == nil {
				calls.Add(1)
				var got []string
				if err := conn.QueryRow(t.Context(), sql[i]).Scan(&got); err != nil {
					failed.Add(1)
					t.Log(err)
				} else if len(got) != 1 {
					mixed.Add(1)
					t.Log(got)
				} else if n := int(got[0][0] - '0'); got[0][1:] == map[int]string{1: "cat", 2: "--rollback ${x}", 3: "cat"}[n] {
					seen[n].Add(1)
				} else {
					mixed.Add(1)
				}
			}
		}()
	}
	switches := 0
	for n := 0; (calls.Load() < atLeast || switches < switchesAtLeast) && !t.Failed(); n++ {
		if n%200 == 0 {
			s.serve(t, model(3, onnx(t, 1)))
		} else { // its bytes may have been pruned
			if err := store(t.Context(), s.Conn, s.schema, model(2, onnx(t, 2)), false); err != nil {
				t.Fatal(err)
			}
			s.activate(t, Version{name, 2})
		}
		if _, err := SwitchBack(t.Context(), s.Conn, s.schema, Version{name, 1}, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := Prune(t.Context(), s.Conn, s.schema, 2); err != nil {
			t.Fatal(err)
		}
		switches += 2
		time.Sleep(2 * time.Millisecond)
	}
	stop()
	all.Wait()
	t.Logf("%d calls, %d switches: %d failed, %d with two versions; versions 1 to 3 answered %d, %d, %d", calls.Load(), switches, failed.Load(), mixed.Load(), seen[1].Load(), seen[2].Load(), seen[3].Load())
	if failed.Load() > 0 || mixed.Load() > 0 || seen[1].Load()+seen[2].Load()+seen[3].Load() != calls.Load() || seen[1].Load() == 0 || seen[2].Load() == 0 {
		t.Error("expected every call to succeed, each with one version")
	}
}

func TestTheBytesOfAChallengerStayAsLongAsThoseOfAnActiveVersion(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	name := model(1, "").Name
	s.serve(t, model(1, onnx(t, 1)))
	s.deploy(t, model(2, "an old challenger"))
	challenge := func(version, want int) {
		t.Helper()
		if active, err := Challenge(t.Context(), s.Conn, s.schema, Version{name, version}, Evidence{}); err != nil || active.Version != want {
			t.Fatalf("challenger %d: version %d is active, %v; want %d", version, active.Version, err, want)
		}
	}
	challenge(2, 1)
	s.serve(t, model(3, onnx(t, 2)))
	s.deploy(t, model(4, "a new challenger"))
	challenge(4, 3)
	challenge(4, 3)
	challenge(3, 3) // itself
	differs(t, "ledger", []string{"deploy 1", "activate 1", "deploy 2", "challenge 2", "deploy 3", "activate 3", "deploy 4", "challenge 4"}, s.ledger(t))
	gone, err := Prune(t.Context(), s.Conn, s.schema, 2)
	if err != nil {
		t.Fatal(err)
	}
	differs(t, "pruned", []Version{{name, 2}}, gone)
}
