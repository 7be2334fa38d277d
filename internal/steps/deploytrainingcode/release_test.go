package deploytrainingcode

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

func TestNextAddsAReleaseOnlyWhenTheAppsCodeDiffersFromItsLastRelease(t *testing.T) {
	t.Parallel()
	a := func(n int, app, digest string) release { return release{ordinal: n, app: app, digest: digest} }
	for name, c := range map[string]struct {
		past []release
		want release
		all  []release
		now  release
	}{
		"the first release":          {nil, a(0, "x", "A"), []release{a(1, "x", "A")}, a(1, "x", "A")},
		"the same code again":        {[]release{a(1, "x", "A")}, a(0, "x", "A"), []release{a(1, "x", "A")}, a(1, "x", "A")},
		"another app in between":     {[]release{a(1, "x", "A"), a(2, "y", "B")}, a(0, "x", "A"), []release{a(1, "x", "A"), a(2, "y", "B")}, a(1, "x", "A")},
		"code that was replaced":     {[]release{a(1, "x", "A"), a(2, "x", "B")}, a(0, "x", "A"), []release{a(1, "x", "A"), a(2, "x", "B"), a(3, "x", "A")}, a(3, "x", "A")},
		"after a gap in the history": {[]release{a(1, "x", "A"), a(5, "x", "B")}, a(0, "x", "C"), []release{a(1, "x", "A"), a(5, "x", "B"), a(6, "x", "C")}, a(6, "x", "C")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, now := next(c.past, c.want)
			if diff := cmp.Diff(c.all, all, cmp.AllowUnexported(release{})); diff != "" {
				t.Error(diff)
			}
			if now != c.now {
				t.Errorf("current: got %+v, want %+v", now, c.now)
			}
		})
	}
}

func session(t *testing.T, cfg postgres.Config, schema string) *changelog.Session {
	t.Helper()
	s, err := changelog.Open(t.Context(), changelog.Schema{Database: cfg, Name: schema, Path: changelogPath, Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
		Liquibase: changelog.Liquibase{Path: changelogtest.Jars(t), Java: "java", TempDir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func base(t *testing.T, c *postgres.Conn) []changelog.Changeset {
	t.Helper()
	sets, err := changelog.Load(database.Training, c.Dialect)
	if err != nil {
		t.Fatal(err)
	}
	return sets
}

func code(digest byte) release {
	return release{app: "digits", digest: strings.Repeat(string(digest), 64), gitSHA: "git-" + string(digest), manifest: `{"name": "digits"}`,
		bundle: fmt.Sprintf(`{"learner.py":"--changeset a:b\n# ${%c} it''s\n"}`, digest)}
}

func digests(t *testing.T, s *changelog.Session, schema string) []string {
	t.Helper()
	rows, err := s.Conn.Query(t.Context(), "select substr(digest, 1, 1) || ordinal from "+postgres.Ident(schema, "releases")+" order by ordinal")
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReleasesComeAndGoWithTheirChangesets(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	schema := changelogtest.Schema(t, cfg, "Test")
	s := session(t, cfg, schema)
	sets := base(t, s.Conn)
	var text []byte
	put := func(r release, added int, releases ...string) {
		t.Helper()
		current, ids, changes, err := deploy(t.Context(), s, schema, sets, r)
		if err != nil {
			t.Fatal(err)
		}
		if len(ids) != added || current.digest != r.digest {
			t.Errorf("release %c: added %v, want %d; current %+v", r.digest[0], ids, added, current)
		}
		if diff := cmp.Diff(releases, digests(t, s, schema)); diff != "" {
			t.Errorf("release %c: %s", r.digest[0], diff)
		}
		if tag, err := s.Tag(t.Context(), r.gitSHA); err != nil || tag != r.gitSHA {
			t.Errorf("release %c: tag %q, %v", r.digest[0], tag, err)
		}
		text = changes
	}
	put(code('a'), len(sets)+1, "a1")
	put(code('a'), 0, "a1")
	put(code('b'), 1, "a1", "b2")
	put(code('a'), 1, "a1", "b2", "a3")

	if out := changelogtest.Stock(t, cfg, schema, text, "status", "--verbose"); !strings.Contains(out, "is up to date") {
		t.Errorf("status: %s", out)
	}
	changelogtest.Stock(t, cfg, schema, text, "rollback-count", "--count=1")
	if diff := cmp.Diff([]string{"a1", "b2"}, digests(t, s, schema)); diff != "" {
		t.Error(diff)
	}
	put(code('b'), 0, "a1", "b2") // what the rollback put back is current
	changelogtest.Stock(t, cfg, schema, text, "rollback", "--tag=git-a")
	if diff := cmp.Diff([]string{"a1"}, digests(t, s, schema)); diff != "" {
		t.Error(diff)
	}
	put(code('c'), 1, "a1", "c2")
	changelogtest.Stock(t, cfg, schema, text, "rollback-count", fmt.Sprintf("--count=%d", len(sets)+2))
	var left int
	if err := s.Conn.QueryRow(t.Context(), "select count(*) from pg_class c join pg_namespace n on n.oid = relnamespace where nspname = $1 and relkind = 'r' and relname not like 'databasechangelog%'", schema).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d tables are left after everything was rolled back (%v)", left, err)
	}
}

// stub is a bundle whose runtime answers without a learner.
func stub() release {
	r := code('d')
	r.bundle = `{"insitu_runtime/boot.py": "class Host:\n  def __init__(self, release, plpy): pass\n  def init_state(self, spec): return b'state'\n\ndef load(release, bundle, name):\n  import types\n  return types.SimpleNamespace(Host=Host)\n"}`
	return r
}

func TestAGrantedRoleCanTrainAndDeployNothing(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Database(t, changelogtest.Server(t))
	user := changelogtest.Role(t, cfg)
	const schema = "team-a"
	s := session(t, cfg, schema)
	_, _, _, err := deploy(t.Context(), s, schema, base(t, s.Conn), stub())
	if err != nil {
		t.Fatal(err)
	}
	const call = `select "team-a".init_state(digest, bundle, '{}') from "team-a".releases`
	run := func(sql string) error {
		c, err := postgres.Connect(t.Context(), user, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.Exec(t.Context(), sql)
		return err
	}
	if err := run(call); postgres.State(err) != "42501" {
		t.Errorf("before the grant: %v", err)
	}
	if err := grant(t.Context(), s.Conn, schema, []string{"nobody-of-that-name"}); fault.Of(err) != fault.Configuration {
		t.Errorf("a role that does not exist: %v", err)
	}
	for range 2 {
		if err := grant(t.Context(), s.Conn, schema, []string{user.Username}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Conn.Exec(t.Context(), `create table "team-a".packs_later (n int)`); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{call, `select * from "team-a".packs_later`, `insert into "team-a".jobs values ('j', 'r', 'd', '{}')`} {
		if err := run(sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	for _, sql := range []string{`delete from "team-a".releases`, `insert into "team-a".releases (ordinal, app, digest, manifest, bundle) values (9, 'x', 'x', '{}', '{}')`,
		`create function "team-a".g() returns int language sql as 'select 1'`} {
		if err := run(sql); postgres.State(err) != "42501" {
			t.Errorf("%s: got %v, want it refused", sql, err)
		}
	}
}

func TestAnEverydayRoleCanReleaseWhereASuperuserDeployedTheFunctions(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Database(t, changelogtest.Server(t))
	user := changelogtest.Role(t, cfg)
	const schema = "team-a"
	s := session(t, cfg, schema)
	sets := base(t, s.Conn)
	if _, _, _, err := deploy(t.Context(), s, schema, sets, code('a')); err != nil {
		t.Fatal(err)
	}
	// As in docs/databases.md.
	for _, right := range []string{
		`usage on schema "team-a"`,
		`select, insert, delete on "team-a".releases`,
		`select, insert, update, delete on "team-a".databasechangelog, "team-a".databasechangeloglock`,
	} {
		if _, err := s.Conn.Exec(t.Context(), "grant "+right+" to "+postgres.Ident(user.Username)); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	s = session(t, user, schema)
	if err := s.CheckServer(t.Context(), sets, modules()); err != nil {
		t.Error(err)
	}
	_, added, text, err := deploy(t.Context(), s, schema, sets, code('b'))
	if err != nil || len(added) != 1 {
		t.Fatalf("added %v, %v", added, err)
	}
	if tag, err := s.Tag(t.Context(), "git-b"); err != nil || tag != "git-b" {
		t.Errorf("tag %q, %v", tag, err)
	}
	changelogtest.Stock(t, user, schema, text, "rollback-count", "--count=1")
	if diff := cmp.Diff([]string{"a1"}, digests(t, s, schema)); diff != "" {
		t.Error(diff)
	}
}
