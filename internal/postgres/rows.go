package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/insitu-ml/insitu/internal/fault"
)

// maxField is the largest value PostgreSQL takes: a datum must stay below 1 GiB with its header.
const maxField = 1<<30 - 1024

// StoreRows stores rows of large values in a table and returns how many arrived. It is called in a transaction:
// after an error, that of the sequence is returned as it is, the caller rolls back. A connection that breaks is a temporary fault.
//
// Table is a qualified name in parts. A row has one value a column: string for text, int32 for int,
// int64 for bigint, []byte for bytea, nil for null. The row and its values may be reused once the next is asked for;
// the rows may be asked for on another goroutine, one at a time.
//
// Rows arrive as parameters of INSERTs in a pipeline, for which the server copies a large value less often than for COPY:
// with COPY an upload takes a seventh longer (docs/benchmarks.md, packs of 768 KiB). By COPY go the rows of Greenplum, which
// plans every INSERT anew and sends the plan to a segment (a quarter as fast), those of servers whose log would repeat the
// parameters, and rows of more than maxMessage bytes: an INSERT would gain little and is held in memory as a message.
// RowBytes is about what the largest row has.
func (c *Conn) StoreRows(ctx context.Context, table, columns []string, rowBytes int, rows iter.Seq2[[]any, error]) (int64, error) {
	if c.Dialect.Distributed || rowBytes > maxMessage {
		return c.CopyRows(ctx, table, columns, rows)
	}
	logged, err := c.logsParameters(ctx)
	switch {
	case err != nil:
		return 0, err
	case logged:
		return c.CopyRows(ctx, table, columns, rows)
	}
	return c.insertRows(ctx, table, columns, rows)
}

// logsParameters says whether the server may write parameters of statements to its log.
func (c *Conn) logsParameters(ctx context.Context) (logs bool, err error) {
	err = c.QueryRow(ctx, `select exists (select 1 from pg_settings where case
  when name = 'log_statement' then setting in ('all', 'mod')
  when name in ('log_min_duration_statement', 'log_min_duration_sample', 'auto_explain.log_min_duration') then setting <> '-1'
  when name in ('log_transaction_sample_rate', 'log_parameter_max_length_on_error') then setting <> '0'
  when name in ('pgaudit.log_parameter', 'debug_print_plan') then setting = 'on'
  else false end)`).Scan(&logs)
	return logs, Wrap(err, "ask what the server logs")
}

const (
	flushBytes = 256 << 10 // of rows that are sent together
	inFlight   = 4         // such groups that are sent before the answers to the first are read
	maxMessage = 4 << 20   // of one row that goes by INSERT
)

// insertRows is StoreRows by INSERT.
func (c *Conn) insertRows(ctx context.Context, table, columns []string, rows iter.Seq2[[]any, error]) (int64, error) {
	p := &insertion{Pipeline: c.PgConn().StartPipeline(ctx), formats: make([]int16, len(columns))}
	numbers := make([]string, len(columns))
	for i := range columns {
		numbers[i], p.formats[i] = "$"+strconv.Itoa(i+1), 1 // binary
	}
	p.SendPrepare("", "insert into "+Ident(table...)+" "+columnList(columns)+" values ("+strings.Join(numbers, ", ")+")", nil)
	var broken error // what ended the sequence
	for row, err := range rows {
		var values [][]byte
		if err == nil {
			values, err = encodeRow(columns, row)
		}
		if broken = err; err != nil {
			break
		}
		p.keep(ctx.Err()) // a cancel request that reaches the server between two statements does nothing there
		if p.send(values); p.err != nil {
			break
		}
	}
	stored, err := p.finish()
	if broken != nil {
		return 0, broken
	}
	return stored, c.storeError(ctx, err, "insert into", table)
}

// storeError wraps an error of a statement that stores rows; that of a connection that broke is temporary.
func (c *Conn) storeError(ctx context.Context, err error, doing string, table []string) error {
	lost := err != nil && c.IsClosed() && State(err) == "" && ctx.Err() == nil
	if err = Wrap(err, doing+" "+strconv.Quote(strings.Join(table, "."))); lost {
		err = fault.AsTemporary(err)
	}
	return err
}

// insertion is a pipeline of one statement that is executed once a row.
type insertion struct {
	*pgconn.Pipeline
	formats  []int16
	bytes    int   // of the rows that are not sent yet
	rows     int   // their number
	groups   []int // the rows of each group that is in flight
	prepared bool
	stored   int64
	err      error // the first
}

func (p *insertion) send(values [][]byte) {
	p.SendQueryPrepared("", values, p.formats, nil)
	p.rows++
	for _, value := range values {
		p.bytes += len(value)
	}
	if p.bytes < flushBytes {
		return
	}
	p.flush()
	if len(p.groups) > inFlight {
		p.read()
	}
}

// flush sends what is held, and asks for the answers.
func (p *insertion) flush() {
	p.SendFlushRequest()
	p.keep(p.Flush())
	p.groups = append(p.groups, p.rows)
	p.rows, p.bytes = 0, 0
}

// read reads the answers to the oldest group.
func (p *insertion) read() {
	if !p.prepared {
		p.prepared = true
		_, err := p.GetResults()
		p.keep(err)
	}
	for range p.groups[0] {
		if p.err != nil {
			return
		}
		results, err := p.GetResults()
		if p.keep(err); p.err != nil {
			return
		}
		tag, err := results.(*pgconn.ResultReader).Close()
		p.keep(err)
		p.stored += tag.RowsAffected()
	}
	p.groups = p.groups[1:]
}

// finish ends the pipeline, which gives the connection back, and returns the rows that were stored.
func (p *insertion) finish() (int64, error) {
	if p.err == nil {
		p.flush()
	}
	for len(p.groups) > 0 && p.err == nil {
		p.read()
	}
	// After an error the server skips what it reads until here.
	p.keep(p.Sync())
	p.keep(p.Close())
	return p.stored, p.err
}

func (p *insertion) keep(err error) {
	if p.err == nil {
		p.err = err
	}
}

func columnList(columns []string) string {
	quoted := make([]string, len(columns))
	for i, column := range columns {
		quoted[i] = Ident(column)
	}
	return "(" + strings.Join(quoted, ", ") + ")"
}

// encodeRow is the binary form of a row's values; nil is null, and a []byte is itself.
func encodeRow(columns []string, row []any) ([][]byte, error) {
	if len(row) != len(columns) {
		return nil, fmt.Errorf("a row has %d values, expected %d", len(row), len(columns))
	}
	out := make([][]byte, len(row))
	for i, value := range row {
		switch v := value.(type) {
		case nil:
			continue
		case int32:
			out[i] = binary.BigEndian.AppendUint32(nil, uint32(v))
		case int64:
			out[i] = binary.BigEndian.AppendUint64(nil, uint64(v))
		case string:
			if strings.Contains(v, "\x00") {
				return nil, fmt.Errorf("column %q: text with a zero byte", columns[i])
			}
			out[i] = []byte(v)
		case []byte:
			out[i] = v
		default:
			return nil, fmt.Errorf("column %q: a value of type %T, expected string, int32, int64 or []byte", columns[i], value)
		}
		if out[i] == nil {
			out[i] = []byte{}
		}
		if len(out[i]) > maxField {
			return nil, fmt.Errorf("column %q: a value of %d bytes, at most %d fit", columns[i], len(out[i]), maxField)
		}
	}
	return out, nil
}
