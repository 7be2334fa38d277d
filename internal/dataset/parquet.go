package dataset

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"github.com/insitu-ml/insitu/internal/archive"
)

const (
	// parquetRatio bounds what encodings such as run lengths may expand to, in values per byte of the file.
	parquetRatio = 1000
	// parquetGrace is how many values may come out before the ratio counts.
	parquetGrace = 16 << 20
)

// openParquet finds the label and either numeric columns or one list column with all values of an example.
func openParquet(r *raw, o Options) (d *decoder, err error) {
	defer recovered(&err)
	f, err := parquet.OpenFile(r, r.Size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		if r.ctx.Err() != nil {
			return nil, r.ctx.Err()
		}
		return nil, fmt.Errorf("read Parquet file: %w", err)
	}
	t, err := chooseLeaves(f.Schema(), o)
	if err != nil {
		return nil, err
	}
	if err := checkExpansion(f, r); err != nil {
		return nil, err
	}
	return &decoder{columns: t.names, run: func(yield func(*example) error) (err error) {
		defer recovered(&err)
		return t.rows(f, o.Input, yield)
	}}, nil
}

// recovered turns a panic into an error: the Parquet reader gives up that way on some damaged files.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("read Parquet file: it is damaged: %v", p)
	}
}

// leaves are the columns of a Parquet file that are read.
type leaves struct {
	label    parquet.LeafColumn
	features []parquet.LeafColumn
	names    []string
	list     bool // the one feature is a list
}

func chooseLeaves(schema *parquet.Schema, o Options) (*leaves, error) {
	byName := map[string][]parquet.LeafColumn{}
	var names []string
	for _, path := range schema.Columns() {
		leaf, ok := schema.Lookup(path...)
		if !ok {
			return nil, fmt.Errorf("column %q cannot be found in the schema", strings.Join(path, "."))
		}
		if byName[path[0]] == nil {
			names = append(names, path[0])
		}
		byName[path[0]] = append(byName[path[0]], leaf)
	}
	label, features, err := chooseColumns(names, o)
	if err != nil {
		return nil, err
	}
	t := &leaves{names: features}
	for _, name := range append([]string{label}, features...) {
		all := byName[name]
		leaf := all[0]
		switch {
		case len(all) > 1 || leaf.MaxRepetitionLevel == 0 && len(leaf.Path) > 1:
			return nil, fmt.Errorf("column %q is a structure, expected numbers or a list of numbers", name)
		case name == label && leaf.MaxRepetitionLevel > 0:
			return nil, fmt.Errorf("column %q, the label, is a list", name)
		case name == label:
			t.label = leaf
			if !numeric(leaf) && leaf.Node.Type().Kind() != parquet.ByteArray {
				return nil, fmt.Errorf("column %q, the label, is %s, expected text or a number", name, leaf.Node.Type())
			}
			continue
		case !numeric(leaf):
			return nil, fmt.Errorf("column %q is %s, expected numbers", name, leaf.Node.Type())
		}
		t.list = t.list || leaf.MaxRepetitionLevel > 0
		t.features = append(t.features, leaf)
	}
	if t.list && len(t.features) > 1 {
		return nil, fmt.Errorf("a list column and %d other features, expected numeric columns or one list: name the columns to read", len(t.features)-1)
	}
	if !t.list {
		return t, checkWidth(len(t.features), o.Input.Values())
	}
	return t, nil
}

func numeric(leaf parquet.LeafColumn) bool {
	if l := leaf.Node.Type().LogicalType(); l != nil && l.Value != nil {
		if _, integer := l.Value.(*format.IntType); !integer {
			return false // a date, a decimal ...
		}
	}
	switch leaf.Node.Type().Kind() {
	case parquet.Boolean, parquet.Int32, parquet.Int64, parquet.Float, parquet.Double:
		return true
	}
	return false
}

// checkExpansion refuses a small file that says it holds very many values.
func checkExpansion(f *parquet.File, r *raw) error {
	var values, size int64
	for _, g := range f.Metadata().RowGroups {
		for _, c := range g.Columns {
			if c.MetaData.NumValues < 0 || c.MetaData.TotalUncompressedSize < 0 || c.MetaData.NumValues > 1<<40 || c.MetaData.TotalUncompressedSize > 1<<50 {
				return errors.New("read Parquet file: it is damaged: a column has an impossible size")
			}
			values += c.MetaData.NumValues
			size += c.MetaData.TotalUncompressedSize
		}
	}
	if size > r.limits.MaxBytes {
		return fmt.Errorf("the Parquet file expands to more than %d bytes: %w", r.limits.MaxBytes, archive.ErrTooLarge)
	}
	if values > parquetGrace && values/parquetRatio > r.Size {
		return fmt.Errorf("the Parquet file holds more than %d values a byte: %w", parquetRatio, archive.ErrTooLarge)
	}
	return nil
}

func (t *leaves) rows(f *parquet.File, in Input, yield func(*example) error) error {
	v := newValues(in)
	e := example{place: place{unit: "row"}}
	for _, group := range f.RowGroups() {
		label := newCursor(group, t.label)
		features := make([]*cursor, len(t.features))
		for i, leaf := range t.features {
			features[i] = newCursor(group, leaf)
		}
		err := func() error {
			for range group.NumRows() {
				e.place.number++
				if err := t.row(label, features, v, &e); err != nil {
					return fmt.Errorf("%s: %w", e.place, err)
				}
				if err := yield(&e); err != nil {
					return err
				}
			}
			return nil
		}()
		label.close()
		for _, c := range features {
			c.close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *leaves) row(label *cursor, features []*cursor, v *values, e *example) error {
	v.reset()
	want := v.in.Values()
	for i, c := range features {
		for first := true; ; first = false {
			x, more, err := c.next(first)
			if err != nil {
				return fmt.Errorf("column %q: %w", t.names[i], err)
			}
			if !more {
				break
			}
			if v.n == want {
				return fmt.Errorf("column %q: a list of more than %d values, expected as many as the input has", t.names[i], want)
			}
			if x.IsNull() {
				return fmt.Errorf("column %q: the value is null, expected a number", t.names[i])
			}
			if err := v.put(c.number(x)); err != nil {
				return fmt.Errorf("column %q: %w", t.names[i], err)
			}
			if !t.list {
				break
			}
		}
	}
	if v.n != want {
		return fmt.Errorf("column %q: a list of %d values, expected %d", t.names[0], v.n, want)
	}
	x, _, err := label.next(true)
	switch {
	case err != nil:
		return fmt.Errorf("the label: %w", err)
	case x.IsNull():
		return errors.New("the label is null")
	case x.Kind() != parquet.ByteArray:
		e.label = numberLabel(label.number(x))
	case !utf8.Valid(x.ByteArray()):
		return fmt.Errorf("label %.80q is not UTF-8", x.ByteArray())
	default:
		e.label = string(x.ByteArray())
	}
	e.data = v.buf
	return nil
}

// cursor reads one column of a row group value by value.
type cursor struct {
	pages    parquet.Pages
	page     parquet.Page
	values   parquet.ValueReader
	buf      []parquet.Value
	have     []parquet.Value
	unsigned bool
}

func newCursor(group parquet.RowGroup, leaf parquet.LeafColumn) *cursor {
	c := &cursor{pages: group.ColumnChunks()[leaf.ColumnIndex].Pages(), buf: make([]parquet.Value, 256)}
	if l := leaf.Node.Type().LogicalType(); l != nil {
		if integer, ok := l.Value.(*format.IntType); ok {
			c.unsigned = !integer.IsSigned
		}
	}
	return c
}

func (c *cursor) close() {
	if c.page != nil {
		parquet.Release(c.page)
	}
	_ = c.pages.Close()
}

// next is the next value of the row: of a new row if first, else false when the row's list has ended.
func (c *cursor) next(first bool) (parquet.Value, bool, error) {
	for len(c.have) == 0 {
		err := c.fill()
		if errors.Is(err, io.EOF) && !first {
			return parquet.Value{}, false, nil
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("the column is shorter than the file says")
		}
		if err != nil {
			return parquet.Value{}, false, err
		}
	}
	x := c.have[0]
	if !first && x.RepetitionLevel() == 0 {
		return parquet.Value{}, false, nil
	}
	c.have = c.have[1:]
	return x, true, nil
}

// fill reads more values, io.EOF at the end of the column.
func (c *cursor) fill() error {
	if c.page == nil {
		page, err := c.pages.ReadPage()
		if err != nil {
			return err
		}
		c.page, c.values = page, page.Values()
	}
	n, err := c.values.ReadValues(c.buf)
	c.have = c.buf[:n]
	if errors.Is(err, io.EOF) {
		if n > 0 {
			// The values may point into the page.
			c.have = slices.Clone(c.have)
			for i := range c.have {
				c.have[i] = c.have[i].Clone()
			}
		}
		parquet.Release(c.page)
		c.page = nil
		return nil
	}
	if err == nil && n == 0 {
		return io.ErrNoProgress
	}
	return err
}

func (c *cursor) number(x parquet.Value) float64 {
	switch x.Kind() {
	case parquet.Boolean:
		if x.Boolean() {
			return 1
		}
		return 0
	case parquet.Int32:
		if c.unsigned {
			return float64(x.Uint32())
		}
		return float64(x.Int32())
	case parquet.Int64:
		if c.unsigned {
			return float64(x.Uint64())
		}
		return float64(x.Int64())
	case parquet.Float:
		return float64(x.Float())
	default:
		return x.Double()
	}
}
