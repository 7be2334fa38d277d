package postgres

import (
	"bytes"
	"io"
	"iter"
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
