// Package changelog renders Liquibase changelogs in formatted SQL and runs Liquibase on them.
//
// A changelog is rendered anew from what the database holds, byte for byte the
// same each time, so Liquibase's checksums hold and stock Liquibase can show
// its status and roll it back.
// The package does not know what is deployed: callers bring the changesets.
package changelog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Changeset is one unit of change with its undo.
type Changeset struct {
	ID       string // stable for ever: letters, digits, "-", "_" and "."
	Comment  string // one line, for databasechangelog.comments
	OnChange bool   // run again when the text differs: functions that are replaced
	SQL      string
	Rollback string
}

// Author is the author of every changeset.
const Author = "insitu"

// Lines of an SQL file that are marks, not SQL.
const (
	rollbackMark = "-- rollback" // what follows undoes what stands before
	onChangeMark = "on change"   // a line of the comment at the top: the changeset runs again when it changes
	bundleMark   = "$bundle$"    // quotes a bundle, whose Python can hold anything
)

// greenplumMark is a comment that holds a clause only Greenplum understands.
var greenplumMark = regexp.MustCompile(`/\* greenplum: ([^*]*) \*/`)

// Load reads the changesets of a folder: one from each *.sql file, in the order of their names, which become the ids.
// Comments of the form "greenplum: ..." become SQL when the dialect is Greenplum's.
func Load(folder fs.FS, d postgres.Dialect) ([]Changeset, error) {
	names, err := fs.Glob(folder, "*.sql")
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("list changesets: no *.sql file found (%w)", fs.ErrNotExist)
	}
	var sets []Changeset
	for _, name := range names { // Glob sorts
		text, err := fs.ReadFile(folder, name)
		if err != nil {
			return nil, fmt.Errorf("read changeset %q: %w", name, err)
		}
		c, err := parse(strings.TrimSuffix(path.Base(name), ".sql"), string(text))
		if err != nil {
			return nil, err
		}
		if d.Distributed {
			c.SQL = greenplumMark.ReplaceAllString(c.SQL, "$1")
		}
		sets = append(sets, c)
	}
	return sets, nil
}

func parse(id, text string) (Changeset, error) {
	c := Changeset{ID: id}
	forward, back, found := strings.Cut(text, "\n"+rollbackMark+"\n")
	if !found {
		return c, fmt.Errorf("changeset %q: expected a line %q and below it the SQL that undoes the rest", id, rollbackMark)
	}
	c.Comment, c.OnChange, forward = header(forward)
	if pieces := strings.Split(forward, bundleMark); len(pieces) == 3 {
		literal, err := Literal(pieces[1])
		if err != nil {
			return c, fmt.Errorf("changeset %q: bundle: %w", id, err)
		}
		forward = pieces[0] + literal + pieces[2]
	}
	c.SQL, c.Rollback = strings.TrimSpace(forward), strings.TrimSpace(back)
	return c, nil
}

// header takes the comment off the top of an SQL file. It goes into databasechangelog.comments,
// where administrators see it, and may be reworded after a release: no checksum covers it.
func header(text string) (comment string, onChange bool, rest string) {
	var words []string
	for strings.HasPrefix(text, "--") {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		if line = strings.TrimSpace(strings.TrimLeft(line, "-")); line == onChangeMark {
			onChange = true
			continue
		}
		words = append(words, line)
	}
	return strings.Join(words, " "), onChange, text
}

// Render writes the changelog.
// path is the changelog's name in databasechangelog.filename, whatever the file is called later.
func Render(path string, sets []Changeset) ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "--liquibase formatted sql logicalFilePath:%s\n", path)
	seen := map[string]bool{}
	for _, c := range sets {
		if seen[c.ID] {
			return nil, fmt.Errorf("changeset %q appears twice", c.ID)
		}
		seen[c.ID] = true
		if err := c.render(&out); err != nil {
			return nil, fmt.Errorf("changeset %q: %w", c.ID, err)
		}
	}
	return out.Bytes(), nil
}

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

// check refuses what cannot be rendered.
func (c Changeset) check() error {
	if !validID.MatchString(c.ID) {
		return fmt.Errorf("an id consists of up to 200 letters, digits, %q, %q and %q", "-", "_", ".")
	}
	if c.SQL == "" || c.Rollback == "" {
		return fmt.Errorf("expected SQL and the SQL that undoes it")
	}
	for _, text := range []string{c.SQL, c.Rollback} {
		if err := readable(text); err != nil {
			return err
		}
	}
	return nil
}

func (c Changeset) render(out *bytes.Buffer) error {
	if err := c.check(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n--changeset %s:%s splitStatements:false rollbackSplitStatements:false stripComments:false", Author, c.ID)
	if c.OnChange {
		out.WriteString(" runOnChange:true")
	}
	out.WriteByte('\n')
	if tables := createdTables(c.SQL); len(tables) > 0 {
		// Liquibase commits a changeset and records it in two transactions. Killed in between,
		// it would create the tables again; all of them being there proves that it had committed.
		fmt.Fprintf(out, "--preconditions onFail:MARK_RAN\n--precondition-sql-check expectedResult:0 "+
			"select count(*) / %d from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace "+
			"where n.nspname = current_schema() and c.relname in ('%s')\n", len(tables), strings.Join(tables, "', '"))
	}
	if c.Comment != "" {
		fmt.Fprintf(out, "--comment: %s\n", plain(c.Comment))
	}
	out.WriteString(c.SQL)
	out.WriteByte('\n')
	for line := range strings.Lines(c.Rollback) {
		if line = strings.TrimRight(line, "\n"); strings.TrimSpace(line) != "" {
			out.WriteString("--rollback " + line + "\n")
		}
	}
	return nil
}

var createTable = regexp.MustCompile(`(?m)^create table ([a-z_]+)`)

func createdTables(sql string) []string {
	var names []string
	for _, m := range createTable.FindAllStringSubmatch(sql, -1) {
		names = append(names, m[1])
	}
	return names
}

// directive matches every line that Liquibase's formatted-SQL parser takes for one of its own,
// or refuses as a misspelt one. It is wider than the parser, so that later versions find nothing new either.
var directive = regexp.MustCompile(`(?i)^\s*(-+|/\*)\s*(liquibase|changeset|rollback|precondition|property|comment|validchecksum|ignore|include)`)

// readable refuses text that Liquibase would read as something else than SQL.
func readable(text string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("the SQL is not UTF-8")
	}
	if strings.ContainsAny(text, "\r\x00") {
		return fmt.Errorf("the SQL holds carriage returns or zero bytes")
	}
	if strings.Contains(text, "${") {
		return fmt.Errorf("the SQL holds %q, which Liquibase would replace", "${")
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if directive.MatchString(line) {
			return fmt.Errorf("line %d, %q, would be read as a Liquibase directive", n, line)
		}
	}
	return lines.Err()
}

// plain keeps what cannot upset a one-line comment: 200 printable ASCII characters without "$".
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '$' {
			return '_'
		}
		return r
	}, text)
	return text[:min(len(text), 200)]
}

// CheckSchema refuses schema names that Liquibase cannot quote.
func CheckSchema(name string) error {
	if !validSchema.MatchString(name) {
		return fault.AsConfiguration(fmt.Errorf("schema %q: expected 1 to 63 letters, digits, %q and %q", name, "-", "_"))
	}
	return nil
}

var validSchema = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}$`)

// Slug makes a name fit for a changeset id. Names that lose letters on the way get a digest, so that no two become one.
func Slug(name string) string {
	slug := notInID.ReplaceAllString(name, "_")
	if slug == name && len(name) <= maxSlug && name != "" {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s-%x", slug[:min(len(slug), maxSlug)], sum[:4])
}

var notInID = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// maxSlug leaves room for the rest of an id.
const maxSlug = 100
