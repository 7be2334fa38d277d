package changelog

import (
	"flag"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/postgres"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestLoadAndRenderGivesTheGoldenChangelog(t *testing.T) {
	t.Parallel()
	folder := fstest.MapFS{
		"0001-tables.sql": {Data: []byte("-- What was deployed.\ncreate table releases (a int) /* greenplum: distributed replicated */;\n" +
			"create table jobs (id text) /* greenplum: distributed by (id) */;\n-- rollback\ndrop table jobs;\n\ndrop table releases;\n")},
		"0002-functions.sql": {Data: []byte("-- on change\ncreate or replace function f() returns int language sql as 'select 1';\n-- rollback\ndrop function f();\n")},
		"0003-runtime.sql":   {Data: []byte("-- What it runs.\n-- on change\n-- Code generated.\ncreate function b() returns text language sql as $f$ select $bundle${\"a.py\":\"x = '${y}'\\n--rollback\\n\"}$bundle$::text $f$;\n-- rollback\ndrop function b();\n")},
		"README.md":          {Data: []byte("not a changeset")},
	}
	for name, d := range map[string]postgres.Dialect{"postgresql": {}, "greenplum": {Distributed: true}} {
		sets, err := Load(folder, d)
		if err != nil {
			t.Fatal(err)
		}
		source, err := Literal("def f():\n\treturn '${x}' # \u00e9\n--changeset a:b\n")
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, Changeset{ID: "release-1-0123456789ab", Comment: "app \"digits\" ${x}\n", SQL: "insert into releases select\n" + source + ";", Rollback: "delete from releases;"})
		got, err := Render("insitu/training", sets)
		if err != nil {
			t.Fatal(err)
		}
		golden := "testdata/" + name + ".golden.sql"
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set  Changeset
		want string
	}{
		"an id with a space":          {Changeset{ID: "a b", SQL: "select 1", Rollback: "select 1"}, "an id consists of"},
		"a changeset without undo":    {Changeset{ID: "a", SQL: "select 1"}, "undoes"},
		"a parameter":                 {Changeset{ID: "a", SQL: "select '${x}'", Rollback: "select 1"}, "Liquibase would replace"},
		"a changeset line":            {Changeset{ID: "a", SQL: "select 1;\n -- ChangeSet x:y", Rollback: "select 1"}, "line 2"},
		"a misspelt rollback line":    {Changeset{ID: "a", SQL: "select 1;\n- rollback x", Rollback: "select 1"}, "line 2"},
		"a comment called comment":    {Changeset{ID: "a", SQL: "-- comments follow\nselect 1", Rollback: "select 1"}, "line 1"},
		"a multi-line rollback":       {Changeset{ID: "a", SQL: "select 1;\n/* liquibase rollback\nx */", Rollback: "select 1"}, "line 2"},
		"carriage returns":            {Changeset{ID: "a", SQL: "select\r\n1", Rollback: "select 1"}, "carriage returns"},
		"a directive in the rollback": {Changeset{ID: "a", SQL: "select 1", Rollback: "--changeset a:b"}, "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Render("x", []Changeset{c.set}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	if _, err := Render("x", []Changeset{{ID: "a", SQL: "select 1", Rollback: "select 1"}, {ID: "a", SQL: "select 2", Rollback: "select 2"}}); err == nil {
		t.Error("two changesets with one id were accepted")
	}
	if _, err := Load(fstest.MapFS{}, postgres.Dialect{}); err == nil {
		t.Error("an empty folder was accepted")
	}
	if _, err := Load(fstest.MapFS{"a.sql": {Data: []byte("select 1;\n")}}, postgres.Dialect{}); err == nil {
		t.Error("a file without a rollback was accepted")
	}
	for _, broken := range []string{"\x00", "\xff"} {
		if _, err := Literal(broken); err == nil {
			t.Errorf("Literal(%q) was accepted", broken)
		}
	}
}

// hostile is text that formatted SQL, JDBC or PostgreSQL could misread.
func hostile() []string {
	return []string{
		"", "'", `\`, `\'`, `'\''`, `a\\'b`, "''", "$", "${", "${x}", "${:x}", "$${x}}", "$\n{x}", "a;b;", "?", "{fn now()}", "/", "\n/\n", "GO\nGO",
		"--liquibase formatted sql\n", "--changeset a:b\n", "-- changeset\n", "- changeset x\n", "--rollback drop table x;\n", "-- rollback", "- rollback x",
		"--preconditions onFail:HALT\n--precondition-sql-check expectedResult:0 select 1\n", "--property name:x value:y\n", "--comment x\n-- comments\n",
		"--validCheckSum: any\n--ignoreLines:start\n--ignore:1\n", "/* liquibase rollback\n x */\n", "/*", "*/", "/* /* */", "$$", "$python$", "$1", "E'x'", `"""doc"""`, `"`, "[a]",
		"a\r\nb\rc\n", "\t\v\f\b\a\x1b\x7f", "\u00e9\u4e2d\U0001f600", "\u2028\u2029\u0085\ufeff", "\ufeff--changeset a:b", `\n`, `\\n`, `\\\n`, `{"a.py":"x = 'y'\n\t\u00e9\\n"}`,
		" leading and trailing ", "\n\n\n", strings.Repeat("x", 5000), strings.Repeat(`\`, 4001), strings.Repeat("'", 4001), strings.Repeat("\u00e9", 3000), strings.Repeat("a\n", 5000),
		"BEGIN\nEND;\nbegin transaction;", "#{x}", "{{x}}", "@x@", "%x%", "<changeSet>", "\\u0041", "\\101", "\\x41", "U&'\\0041'",
	}
}

func TestLiteralsHoldNothingThatLiquibaseReads(t *testing.T) {
	t.Parallel()
	for _, text := range hostile() {
		literal, err := Literal(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := readable("select\n" + literal); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		for _, line := range strings.Split(literal, "\n")[1:] {
			if !strings.HasPrefix(line, "  '") || len(line) > 8*maxPiece {
				t.Errorf("%q: line %q", text, line)
			}
		}
		for _, r := range literal {
			if r != '\n' && (r < ' ' || r > '~') {
				t.Errorf("%q: the literal holds %q", text, r)
			}
		}
	}
}

func TestFailureGivesOneMessageWithChangesetAndState(t *testing.T) {
	t.Parallel()
	out := `Starting Liquibase at 10:02:29 using Java 17.0.15 (version 4.33.0 #8744 built at 2025-07-08 20:43+0000)
ERROR: Exception Primary Class:  PSQLException

Unexpected error running Liquibase: Migration failed for changeset insitu/training::0002-x::insitu:
     Reason: liquibase.exception.DatabaseException: ERROR: division by zero
  Detail: why
  Location: File: int.c, Routine: int4div, Line: 869
  Server SQLState: 22012 [Failed SQL: (0) select 1/0]

For more information, please use the --log-level flag
`
	got := failure("liquibase update", out).Error()
	if want := "liquibase update, changeset \"0002-x\": ERROR: division by zero\n  Detail: why (SQLSTATE 22012)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
