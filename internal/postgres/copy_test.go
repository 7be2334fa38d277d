package postgres

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func rowsOf(rows ...[]any) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		for _, row := range rows {
			if !yield(row, nil) {
				return
			}
		}
	}
}

func encode(t *testing.T, columns []string, rows iter.Seq2[[]any, error], wrap func(io.Reader) io.Reader) ([]byte, error) {
	t.Helper()
	next, stop := iter.Pull2(rows)
	defer stop()
	return io.ReadAll(wrap(&copyReader{columns: columns, next: next}))
}

func TestRowsAreEncodedAsBinaryCopy(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("x"), 100_000)
	rows := rowsOf(
		[]any{"é", int32(-2), int64(1 << 40), []byte{1, 2}, []byte{3}, nil},
		[]any{"", int32(1), int64(-1), []byte{}, large, []byte(nil)},
	)
	want := "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" +
		"\x00\x06" + "\x00\x00\x00\x02é" + "\x00\x00\x00\x04\xff\xff\xff\xfe" + "\x00\x00\x00\x08\x00\x00\x01\x00\x00\x00\x00\x00" +
		"\x00\x00\x00\x02\x01\x02" + "\x00\x00\x00\x01\x03" + "\xff\xff\xff\xff" +
		"\x00\x06" + "\x00\x00\x00\x00" + "\x00\x00\x00\x04\x00\x00\x00\x01" + "\x00\x00\x00\x08\xff\xff\xff\xff\xff\xff\xff\xff" +
		"\x00\x00\x00\x00" + "\x00\x01\x86\xa0" + string(large) + "\x00\x00\x00\x00" +
		"\xff\xff"
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"in large reads": func(r io.Reader) io.Reader { return r },
		"byte by byte":   iotest.OneByteReader,
	} {
		got, err := encode(t, []string{"a", "b", "c", "d", "e", "f"}, rows, wrap)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, string(got)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestRowsThatCannotBeEncodedEndTheCopy(t *testing.T) {
	t.Parallel()
	broken := errors.New("the source broke")
	for name, c := range map[string]struct {
		rows iter.Seq2[[]any, error]
		want string
	}{
		"a failing sequence":     {func(yield func([]any, error) bool) { yield(nil, broken) }, "the source broke"},
		"too few values":         {rowsOf([]any{}), "0 values, expected 1"},
		"a type without meaning": {rowsOf([]any{3.5}), `column "a": a value of type float64`},
		"text with a zero byte":  {rowsOf([]any{"a\x00"}), "zero byte"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := encode(t, []string{"a"}, c.rows, func(r io.Reader) io.Reader { return r })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
