package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/insitu-ml/insitu/internal/fault"
)

// maxField is the largest value PostgreSQL takes: a datum must stay below 1 GiB with its header.
const maxField = 1<<30 - 1024

// CopyRows streams rows into a table by binary COPY and returns how many arrived.
//
// Table is a qualified name in parts. A row has one value a column: string for text, int32 for int,
// int64 for bigint, []byte for bytea, nil for null. The row and its values may be reused once the next is asked for;
// one row is held at a time, large values are sent from where they lie.
// An error of the sequence ends the COPY and is returned as it is: nothing is stored. A connection that breaks is a temporary fault.
// The rows are pulled on another goroutine, one at a time.
func (c *Conn) CopyRows(ctx context.Context, table, columns []string, rows iter.Seq2[[]any, error]) (int64, error) {
	quoted := make([]string, len(columns))
	for i, column := range columns {
		quoted[i] = Ident(column)
	}
	sql := "copy " + Ident(table...) + " (" + strings.Join(quoted, ", ") + ") from stdin binary"
	next, stop := iter.Pull2(rows)
	r := &copyReader{columns: columns, next: next}
	tag, err := c.PgConn().CopyFrom(ctx, r, sql)
	if err := r.close(stop); err != nil {
		return 0, err
	}
	if err != nil {
		lost := c.IsClosed() && State(err) == "" && ctx.Err() == nil
		if err = Wrap(err, "copy into "+strconv.Quote(strings.Join(table, "."))); lost {
			err = fault.AsTemporary(err)
		}
		return 0, err
	}
	return tag.RowsAffected(), nil
}

// copySignature opens every binary COPY: magic, flags, length of the header's extension.
const copySignature = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// copyReader encodes rows as they are read.
type copyReader struct {
	columns []string
	next    func() ([]any, error, bool)

	// A COPY that the connection's end cuts short returns while its reader still runs.
	mu sync.Mutex

	started, ended bool
	row            [][]byte // what is left of the row: heads from buf, large values from the caller
	buf            []byte   // backing of the heads
	err            error    // of the sequence
}

// close ends the sequence, after a Read under way, and returns its error.
func (r *copyReader) close(stop func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	stop()
	r.ended, r.row = true, nil
	return r.err
}

func (r *copyReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for n < len(p) {
		if len(r.row) == 0 {
			if r.err != nil {
				return n, r.err
			}
			if r.ended {
				return n, io.EOF
			}
			if r.err = r.fill(); r.err != nil {
				return n, r.err
			}
			continue
		}
		m := copy(p[n:], r.row[0])
		n += m
		if r.row[0] = r.row[0][m:]; len(r.row[0]) == 0 {
			r.row = r.row[1:]
		}
	}
	return n, nil
}

// fill encodes the next row, or the trailer.
func (r *copyReader) fill() error {
	b := r.buf[:0]
	var pieces [][]byte
	if !r.started {
		b = append(b, copySignature...)
		r.started = true
	}
	values, err, ok := r.next()
	switch {
	case !ok:
		r.ended = true
		b = binary.BigEndian.AppendUint16(b, math.MaxUint16) // -1 ends the data
		r.row = [][]byte{b}
		return nil
	case err != nil:
		return err
	case len(values) != len(r.columns):
		return fmt.Errorf("copy: a row has %d values, expected %d", len(values), len(r.columns))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
	start := 0
	for i, value := range values {
		var bytes []byte
		switch v := value.(type) {
		case nil:
			b = binary.BigEndian.AppendUint32(b, math.MaxUint32) // -1 is null
			continue
		case int32:
			b = binary.BigEndian.AppendUint32(b, 4)
			b = binary.BigEndian.AppendUint32(b, uint32(v))
			continue
		case int64:
			b = binary.BigEndian.AppendUint32(b, 8)
			b = binary.BigEndian.AppendUint64(b, uint64(v))
			continue
		case string:
			if strings.Contains(v, "\x00") {
				return fmt.Errorf("copy: column %q: text with a zero byte", r.columns[i])
			}
			b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
			continue
		case []byte:
			bytes = v
		default:
			return fmt.Errorf("copy: column %q: a value of type %T, expected string, int32, int64 or []byte", r.columns[i], value)
		}
		if len(bytes) > maxField {
			return fmt.Errorf("copy: column %q: a value of %d bytes, at most %d fit", r.columns[i], len(bytes), maxField)
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(bytes)))
		// Appending may move b: pieces cut before that keep pointing at bytes that no longer change.
		pieces = append(pieces, b[start:len(b):len(b)], bytes)
		start = len(b)
	}
	r.buf = b
	pieces = append(pieces, b[start:])
	r.row = pieces
	return nil
}
