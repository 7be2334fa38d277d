package changelog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

func schemaOn(t *testing.T, cfg postgres.Config, name string) Schema {
	return Schema{Database: cfg, Name: name, Path: "insitu/test", Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
		Liquibase: Liquibase{Path: changelogtest.Jars(t), Java: "java", TempDir: t.TempDir()}}
}

func open(t *testing.T, s Schema) *Session {
	t.Helper()
	out, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	return out
}

func changesets(sql ...string) []Changeset {
	sets := []Changeset{{ID: "0001-tables", SQL: "create table notes (n int primary key, body text);", Rollback: "drop table notes;"}}
	for i, s := range sql {
		sets = append(sets, Changeset{ID: fmt.Sprintf("note-%d", i+1), SQL: s, Rollback: fmt.Sprintf("delete from notes where n = %d;", i+1)})
	}
	return sets
}

func note(t *testing.T, n int, body string) string {
	t.Helper()
	literal, err := Literal(body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("insert into notes select %d,\n%s\nwhere not exists (select 1 from notes where n = %d);", n, literal, n)
}

func TestHostileTextArrivesUnchangedThroughLiquibase(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	name := changelogtest.Schema(t, cfg, "Test")
	s := open(t, schemaOn(t, cfg, name))
	var sql []string
	for i, text := range hostile() {
		sql = append(sql, note(t, i+1, text))
	}
	sql = append(sql, note(t, len(sql)+1, strings.Join(hostile(), "\n")))
	sets := changesets(sql...)
	added, text, err := s.Update(t.Context(), sets)
	if err != nil {
		t.Fatal(err)
	}
	if len(added) != len(sets) {
		t.Errorf("added %d changesets, want %d", len(added), len(sets))
	}
	for i, want := range append(hostile(), strings.Join(hostile(), "\n")) {
		var got string
		if err := s.Conn.QueryRow(t.Context(), "select body from "+postgres.Ident(name, "notes")+" where n = $1", i+1).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("text %d: got %.300q, want %.300q", i+1, got, want)
		}
	}
	// The same again, from a file with other line ends: nothing to do, no checksum has changed.
	if added, _, err = s.Update(t.Context(), sets); err != nil || len(added) != 0 {
		t.Errorf("second update: added %v, %v", added, err)
	}
	if out := changelogtest.Stock(t, cfg, name, []byte(strings.ReplaceAll(string(text), "\n", "\r\n")), "status", "--verbose"); !strings.Contains(out, "is up to date") {
		t.Errorf("status: %s", out)
	}
}

func TestStockRollbackToATagUndoesWhatCameAfter(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	name := changelogtest.Schema(t, cfg, "Test")
	s := open(t, schemaOn(t, cfg, name))
	one := changesets(note(t, 1, "one"))
	if _, _, err := s.Update(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a tag stays
		if tag, err := s.Tag(t.Context(), "v1"); err != nil || tag != "v1" {
			t.Fatalf("tag %q, %v", tag, err)
		}
	}
	two := changesets(note(t, 1, "one"), note(t, 2, "two"))
	_, text, err := s.Update(t.Context(), two)
	if err != nil {
		t.Fatal(err)
	}
	if tag, err := s.Tag(t.Context(), "v2"); err != nil || tag != "v2" {
		t.Fatalf("tag %q, %v", tag, err)
	}
	changelogtest.Stock(t, cfg, name, text, "rollback", "--tag=v1")
	got, err := s.Applied(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0001-tables", "note-1"}, got); diff != "" {
		t.Error(diff)
	}
	if tag, err := s.Tag(t.Context(), "v3"); err != nil || tag != "v1" {
		t.Fatalf("tag %q, %v", tag, err)
	}
	changelogtest.Stock(t, cfg, name, text, "rollback-count", "--count=2")
	if known, err := s.Has(t.Context(), "notes"); known || err != nil {
		t.Errorf("the table is still there (%v)", err)
	}
}

func TestAChangesetThatWasAppliedButNotRecordedIsRecorded(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	name := changelogtest.Schema(t, cfg, "Test")
	s := open(t, schemaOn(t, cfg, name))
	sets := changesets(note(t, 1, "one"))
	if _, _, err := s.Update(t.Context(), sets); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Conn.Exec(t.Context(), "delete from "+s.table("databasechangelog")); err != nil {
		t.Fatal(err)
	}
	added, _, err := s.Update(t.Context(), sets)
	if err != nil || len(added) != 2 {
		t.Fatalf("added %v, %v", added, err)
	}
}

func TestErrorsSayWhatHappenedAndWhatHelps(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	name := changelogtest.Schema(t, cfg, "Test")
	s := open(t, schemaOn(t, cfg, name))
	check := func(err error, class fault.Class, words ...string) {
		t.Helper()
		if err == nil {
			t.Fatalf("no error, want one with %q", words)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("got %q, want %q in it", err, w)
			}
		}
		if got := fault.Of(err); got != class {
			t.Errorf("%v: class %v, want %v", err, got, class)
		}
		if strings.Contains(err.Error(), "\tat ") || strings.Contains(err.Error(), "Exception") {
			t.Errorf("%q talks Java", err)
		}
	}
	_, _, err := s.Update(t.Context(), changesets("insert into notes values (1 / 0, 'a-secret-text');"))
	check(err, fault.Permanent, `changeset "note-1"`, "division by zero", "SQLSTATE 22012")
	if strings.Contains(err.Error(), "a-secret-text") {
		t.Errorf("%q holds the SQL", err)
	}
	if got, _ := s.Applied(t.Context()); !cmp.Equal(got, []string{"0001-tables"}) {
		t.Errorf("applied %v", got)
	}
	changed := changesets()
	changed[0].SQL += " select 1;"
	_, _, err = s.Update(t.Context(), changed)
	check(err, fault.Permanent, "0001-tables", "check sum")

	run := func(change func(*target, *Liquibase)) error {
		to, l := s.target, s.schema.Liquibase
		change(&to, &l)
		return l.run(t.Context(), to, []byte("--liquibase formatted sql\n"), "status")
	}
	check(run(func(to *target, _ *Liquibase) { to.Password = "wrong-pass" }), fault.Configuration, "password authentication failed")
	check(run(func(to *target, _ *Liquibase) { to.Port = 1 }), fault.Temporary, "refused")
	check(run(func(to *target, _ *Liquibase) { to.Database = "nowhere" }), fault.Configuration, `database "nowhere" does not exist`)
	check(run(func(to *target, _ *Liquibase) { to.SSLMode = "verify-full"; to.SSLRootCert = "/nonexistent" }), fault.Configuration, "SSL")
	check(run(func(to *target, _ *Liquibase) { to.Host = "/tmp" }), fault.Configuration, "Unix socket")
	check(run(func(_ *target, l *Liquibase) { l.Path = t.TempDir() }), fault.Configuration, "liquibase-*.jar")
	check(run(func(_ *target, l *Liquibase) { l.Path = "/nonexistent" }), fault.Configuration, "find Liquibase")
	check(run(func(_ *target, l *Liquibase) { l.Java = "no-such-java" }), fault.Configuration, "find Java")
	_, err = Open(t.Context(), schemaOn(t, cfg, `a"b`))
	check(err, fault.Configuration, "schema")
}

func TestACancelledDeploymentLeavesNoProcessNoSessionAndNoLock(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	s := open(t, schemaOn(t, cfg, changelogtest.Schema(t, cfg, "Test")))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, _, err := s.Update(ctx, changesets("select pg_sleep(60);"))
		done <- err
	}()
	watch, err := postgres.Connect(t.Context(), cfg, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	count := func(query string) (n int) {
		if err := watch.QueryRow(t.Context(), query, s.target.application).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	const asleep = "select count(*) from pg_stat_activity where application_name = $1 and query like '%pg_sleep(60)%' and state = 'active'"
	for start := time.Now(); count(asleep) == 0; time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			t.Fatal("Liquibase never got to the changeset")
		}
	}
	cancel()
	started := time.Now()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(started); took > stopWait+5*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if n := count("select count(*) from pg_stat_activity where application_name = $1"); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if n := count("select count(*) from " + s.table("databasechangeloglock") + " where locked and $1 <> ''"); n != 0 {
		t.Error("the lock is still held")
	}
	if left, _ := os.ReadDir(s.schema.Liquibase.TempDir); len(left) != 0 {
		t.Errorf("left in the temporary directory: %v", left)
	}
	if _, _, err := s.Update(t.Context(), changesets(note(t, 1, "one"))); err != nil {
		t.Errorf("the next deployment: %v", err)
	}
}

func TestAStaleLockIsReleasedOnlyWhenNobodyCanHoldIt(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	name := changelogtest.Schema(t, cfg, "Test")
	s := open(t, schemaOn(t, cfg, name))
	if _, _, err := s.Update(t.Context(), changesets()); err != nil {
		t.Fatal(err)
	}
	hold := func(by string) {
		t.Helper()
		if _, err := s.Conn.Exec(t.Context(), "update "+s.table("databasechangeloglock")+" set locked = true, lockgranted = now(), lockedby = $1", by); err != nil {
			t.Fatal(err)
		}
	}
	second := schemaOn(t, cfg, name)
	if _, err := Open(t.Context(), second); err == nil || fault.Of(err) != fault.Temporary {
		t.Errorf("a second deployment at the same time: %v", err)
	}
	hold("pod-1#insitu (10.0.0.1)")
	s.Close()
	s = open(t, second)
	if _, _, err := s.Update(t.Context(), changesets()); err != nil {
		t.Errorf("after our own stale lock: %v", err)
	}

	admin, err := postgres.Connect(t.Context(), postgres.Config{Host: cfg.Host, Port: cfg.Port, Database: cfg.Database, Username: cfg.Username, Password: cfg.Password,
		ApplicationName: "PostgreSQL JDBC Driver"}, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	hold("dba-laptop (10.0.0.2)")
	s.Close()
	if _, err := Open(t.Context(), second); err == nil || fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "dba-laptop") {
		t.Errorf("a lock that somebody may hold: %v", err)
	}
	admin.Close()
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if s, err = Open(t.Context(), second); err == nil {
			s.Close()
			return
		}
		if time.Since(start) > 30*time.Second { // other tests' Liquibase runs are JDBC sessions too
			t.Fatalf("a lock that nobody holds: %v", err)
		}
	}
}

func TestAnExecutableOfTheUsersOwnIsRun(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	s := schemaOn(t, cfg, changelogtest.Schema(t, cfg, "Test"))
	script := filepath.Join(t.TempDir(), "liquibase")
	text := "#!/bin/sh\njava $JAVA_OPTS -cp '" + changelogtest.Jars(t) + "/*' " + mainClass + " \"$@\"\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	s.Liquibase.Path = script
	if _, _, err := open(t, s).Update(t.Context(), changesets(note(t, 1, "one"))); err != nil {
		t.Error(err)
	}
}
