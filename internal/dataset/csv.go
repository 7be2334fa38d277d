package dataset

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/insitu-ml/insitu/internal/archive"
)

const (
	// maxRecord is the longest encoded example: a CSV record or an image file, in bytes.
	maxRecord = 16 << 20
	// csvBuffer is what is read ahead of the record at hand.
	csvBuffer = 64 << 10
)

// openCSV reads the header of a CSV file, plain or gzip-compressed.
func openCSV(r *raw, o Options) (*decoder, error) {
	t, err := newTable(r, o)
	if err != nil {
		return nil, err
	}
	return &decoder{columns: t.features, run: func(yield func(*example) error) error {
		t, err := newTable(r, o)
		if err != nil {
			return err
		}
		return t.rows(yield)
	}}, nil
}

// table is a CSV file whose header was read.
type table struct {
	csv      *csv.Reader
	guard    *recordGuard
	values   *values
	label    int
	fields   []int    // positions of the features, in order
	features []string // their names
}

func newTable(r *raw, o Options) (*table, error) {
	wrap, _, err := r.inspect()
	if err != nil {
		return nil, err
	}
	var in io.Reader = r.reader()
	switch wrap {
	case plain:
		in = io.LimitReader(in, r.Size)
	case gzipped:
		if in, err = archive.Gunzip(in, r.limits); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("expected CSV text, plain or gzip-compressed, and found an archive")
	}
	t := &table{guard: &recordGuard{r: in}, values: newValues(o.Input)}
	buffered := bufio.NewReaderSize(t.guard, csvBuffer)
	if err := skipMark(buffered); err != nil {
		return nil, err
	}
	t.csv = csv.NewReader(buffered)
	t.csv.ReuseRecord = true
	if o.Delimiter != 0 {
		t.csv.Comma = o.Delimiter
	}
	header, err := t.csv.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the file has no header line")
	}
	if err != nil {
		return nil, csvError(err, 0)
	}
	t.guard.n = 0
	return t, t.choose(header, o)
}

// choose finds the label and the features in the header.
func (t *table) choose(header []string, o Options) error {
	names := make([]string, len(header))
	at := map[string]int{}
	for i, name := range header {
		name = strings.Clone(strings.TrimSpace(name))
		if !utf8.ValidString(name) {
			return fmt.Errorf("line 1: column %d: the name %.80q is not UTF-8", i+1, name)
		}
		if _, twice := at[name]; twice {
			return fmt.Errorf("line 1: column %q appears twice", name)
		}
		names[i], at[name] = name, i
	}
	label, features, err := chooseColumns(names, o)
	if err != nil {
		return fmt.Errorf("line 1: %w", err)
	}
	t.label, t.features = at[label], features
	for _, name := range features {
		t.fields = append(t.fields, at[name])
	}
	return nil
}

// chooseColumns finds the label among a table's columns and takes the others, or those the app lists, as features.
func chooseColumns(names []string, o Options) (label string, features []string, err error) {
	label = o.Label
	if label == "" {
		label = "label"
	}
	if !slices.Contains(names, label) {
		return "", nil, fmt.Errorf("no column is named %q, the label; the columns are %s", label, someOf(names))
	}
	features = o.Columns
	for _, name := range features {
		if !slices.Contains(names, name) {
			return "", nil, fmt.Errorf("no column is named %q; the columns are %s", name, someOf(names))
		}
	}
	if len(features) == 0 {
		features = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == label })
	}
	return label, features, nil
}

func checkWidth(columns, want int) error {
	if columns != want {
		return fmt.Errorf("%d feature columns, expected %d: the product of the input's shape", columns, want)
	}
	return nil
}

func (t *table) rows(yield func(*example) error) error {
	if err := checkWidth(len(t.fields), t.values.in.Values()); err != nil {
		return fmt.Errorf("line 1: %w", err)
	}
	e := example{place: place{unit: "line"}}
	for {
		record, err := t.csv.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return csvError(err, len(record))
		}
		t.guard.n = 0
		line, _ := t.csv.FieldPos(0)
		e.place.number = int64(line)
		t.values.reset()
		for i, field := range t.fields {
			if err := t.values.putText(record[field]); err != nil {
				return fmt.Errorf("%s: column %q: %w", e.place, t.features[i], err)
			}
		}
		e.label, e.data = strings.TrimSpace(record[t.label]), t.values.buf
		if err := yield(&e); err != nil {
			return err
		}
	}
}

// csvError names the line; found is the number of fields of a ragged record.
func csvError(err error, found int) error {
	var parse *csv.ParseError
	if !errors.As(err, &parse) {
		return err
	}
	if errors.Is(err, csv.ErrFieldCount) {
		return fmt.Errorf("line %d: %d fields, the header has another number of them", parse.StartLine, found)
	}
	return fmt.Errorf("line %d: column %d: %w", parse.Line, parse.Column, parse.Err)
}

// recordGuard fails when one record takes more than maxRecord bytes: n is set to 0 after each.
type recordGuard struct {
	r io.Reader
	n int64
}

func (g *recordGuard) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if g.n += int64(n); g.n > maxRecord+csvBuffer {
		return 0, fmt.Errorf("a record has more than %d bytes: is a quote or the end of a line missing?", maxRecord)
	}
	return n, err
}

func utf16Mark(head []byte) bool {
	return bytes.HasPrefix(head, []byte("\xff\xfe")) || bytes.HasPrefix(head, []byte("\xfe\xff"))
}

// skipMark skips the byte order mark of UTF-8 and refuses that of UTF-16.
func skipMark(r *bufio.Reader) error {
	head, err := r.Peek(3)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if utf16Mark(head) {
		return errors.New("line 1: the text is UTF-16, expected UTF-8")
	}
	if string(head) == "\xef\xbb\xbf" {
		_, err = r.Discard(3)
		return err
	}
	return nil
}
