package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// wayOf is what notes the statement that stores rows in the temporary table arrivals, and the table.
const wayOf = `create temporary table arrivals (a text, b int, c bigint, d bytea);
create temporary table ways (statement text);
create function pg_temp.note() returns trigger language plpgsql as $$ begin insert into ways values (split_part(current_query(), ' ', 1)); return null; end $$;
create trigger note before insert on arrivals for each statement execute procedure pg_temp.note()`

// arrivals opens a session that keeps what arrives, with a setting.
func arrivals(t *testing.T, set string) *postgres.Conn {
	t.Helper()
	ctx := context.Background()
	c, err := postgres.Connect(ctx, testenv.Training(t), postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if c.Dialect.Distributed {
		t.Skip("its tables have no triggers for statements")
	}
	if _, err := c.Exec(ctx, wayOf); err != nil {
		t.Fatal(err)
	}
	// What the server logs is a matter of its settings: those of this machine's, then that of the case.
	if _, err := c.Exec(ctx, `set log_statement = 'none'; set log_min_duration_statement = -1; set log_min_duration_sample = -1;
set log_transaction_sample_rate = 0; set log_parameter_max_length_on_error = 0; `+set); err != nil {
		t.Fatal(err)
	}
	return c
}

var arrivalColumns = []string{"a", "b", "c", "d"}

// store stores rows in a transaction, and says by which statement.
func store(t *testing.T, c *postgres.Conn, rowBytes int, rows iter.Seq2[[]any, error]) (n int64, statement string, err error) {
	t.Helper()
	ctx := context.Background()
	err = pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if n, err = c.StoreRows(ctx, []string{"arrivals"}, arrivalColumns, rowBytes, rows); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "select distinct statement from ways").Scan(&statement)
	})
	return n, statement, err
}

func TestRowsArriveAsTheyAreByEitherWay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set, want string
		rowBytes  int
	}{
		"as parameters":                     {"", "insert", 100_000},
		"as rows are too large to hold":     {"", "copy", 5 << 20},
		"as the log has statements":         {"set log_statement = 'mod'", "copy", 100_000},
		"as the log has all statements":     {"set log_statement = 'all'", "copy", 100_000},
		"as the log has definitions":        {"set log_statement = 'ddl'", "insert", 100_000},
		"as the log has slow ones":          {"set log_min_duration_statement = '1h'", "copy", 100_000},
		"as the log has some slow ones":     {"set log_min_duration_sample = '1h'", "copy", 100_000},
		"as the log has some transactions":  {"set log_transaction_sample_rate = 1e-9", "copy", 100_000},
		"as the log has errors' parameters": {"set log_parameter_max_length_on_error = 10", "copy", 100_000},
		"as the log has plans":              {"set debug_print_plan = on; set log_min_messages = 'panic'", "copy", 100_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := arrivals(t, c.set)
			large := bytes.Repeat([]byte("x"), 100_000)
			var want [][]any
			for i := range int32(50) { // 5 MB: many groups are under way
				large[0] = byte(i)
				want = append(want, []any{"é", i, int64(i) << 40, bytes.Clone(large)})
			}
			want = append(want, []any{"", int32(-1), int64(-1), []byte{}}, []any{nil, int32(-2), nil, nil})
			got, statement, err := store(t, conn, c.rowBytes, func(yield func([]any, error) bool) {
				row := make([]any, 4)
				reused := make([]byte, len(large)) // rows and values belong to the sequence, once the next is asked for
				for _, values := range want {
					copy(row, values)
					if b, ok := values[3].([]byte); ok {
						row[3] = reused[:copy(reused, b)]
					}
					if !yield(row, nil) {
						return
					}
				}
			})
			if err != nil || got != int64(len(want)) || statement != c.want {
				t.Errorf("%d rows by %q (%v), want %d by %q", got, statement, err, len(want), c.want)
			}
			rows, err := conn.Query(context.Background(), "select a, b, c, d from arrivals order by b < 0, abs(b)")
			if err != nil {
				t.Fatal(err)
			}
			stored, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(want, stored) { // cmp.Diff takes seconds
				t.Error("other rows are there")
			}
		})
	}
}

func TestAnErrorStoresNothingAndLeavesTheSession(t *testing.T) {
	t.Parallel()
	broken := errors.New("the source broke")
	megabyte := bytes.Repeat([]byte("x"), 1<<20)
	// last ends a sequence of enough rows to have sent some, and to have read answers.
	last := func(row []any, err error) iter.Seq2[[]any, error] {
		return func(yield func([]any, error) bool) {
			for range 10 {
				if !yield([]any{"", int32(1), int64(1), megabyte}, nil) {
					return
				}
			}
			yield(row, err)
		}
	}
	for way, set := range map[string]string{"by insert": "", "by copy": "set log_statement = 'mod'"} {
		for name, c := range map[string]struct {
			rows iter.Seq2[[]any, error]
			want string
		}{
			"a sequence that fails":     {last(nil, broken), broken.Error()},
			"too few values":            {last([]any{}, nil), "0 values, expected 4"},
			"a type without meaning":    {last([]any{"", 3.5, nil, nil}, nil), `column "b": a value of type float64`},
			"text with a zero byte":     {last([]any{"\x00", nil, nil, nil}, nil), "zero byte"},
			"text that is not UTF-8":    {last([]any{"\xff", nil, nil, nil}, nil), `into "arrivals": `},
			"a value of another length": {last([]any{"", int64(1), nil, nil}, nil), `into "arrivals": `},
			"what the table refuses": {func(yield func([]any, error) bool) {
				for range 20 {
					if !yield([]any{"refused", nil, nil, megabyte}, nil) {
						return
					}
				}
			}, "23514"},
		} {
			t.Run(way+", "+name, func(t *testing.T) {
				t.Parallel()
				conn := arrivals(t, "alter table arrivals add check (a <> 'refused'); "+set)
				_, _, err := store(t, conn, 1<<20, c.rows)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("got %v, want %q", err, c.want)
				}
				var n int
				if err := conn.QueryRow(context.Background(), "select count(*) from arrivals").Scan(&n); err != nil || n != 0 {
					t.Errorf("%d rows are there (%v)", n, err)
				}
				if n, _, err := store(t, conn, 1<<20, last([]any{nil, nil, nil, nil}, nil)); err != nil || n != 11 {
					t.Errorf("then %d rows (%v), want 11", n, err)
				}
			})
		}
	}
}
