package postgres

import (
	"context"
	"encoding/binary"
	"io"
	"iter"
	"math"
	"sync"
)

// CopyRows is StoreRows by binary COPY; an error stores nothing, in a transaction or not.
// The rows are asked for on another goroutine, one row is held at a time, and large values are sent from where they lie.
func (c *Conn) CopyRows(ctx context.Context, table, columns []string, rows iter.Seq2[[]any, error]) (int64, error) {
	sql := "copy " + Ident(table...) + " " + columnList(columns) + " from stdin binary"
	next, stop := iter.Pull2(rows)
	r := &copyReader{columns: columns, next: next}
	tag, err := c.PgConn().CopyFrom(ctx, r, sql)
	if err := r.close(stop); err != nil {
		return 0, err
	}
	return tag.RowsAffected(), c.storeError(ctx, err, "copy into", table)
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
	row            [][]byte // what is left of the row
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
	var head []byte
	if !r.started {
		head = []byte(copySignature)
		r.started = true
	}
	row, err, ok := r.next()
	switch {
	case !ok:
		r.ended = true
		r.row = append(r.row[:0], binary.BigEndian.AppendUint16(head, math.MaxUint16)) // -1 ends the data
		return nil
	case err != nil:
		return err
	}
	values, err := encodeRow(r.columns, row)
	if err != nil {
		return err
	}
	head = binary.BigEndian.AppendUint16(head, uint16(len(values)))
	r.row = r.row[:0]
	for _, value := range values {
		if value == nil {
			head = binary.BigEndian.AppendUint32(head, math.MaxUint32) // -1 is null
			continue
		}
		head = binary.BigEndian.AppendUint32(head, uint32(len(value)))
		r.row = append(r.row, head, value)
		head = nil
	}
	r.row = append(r.row, head)
	return nil
}
