package training

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// The statements: those of a folder are for servers of that kind.
//
//go:embed sql/*.sql sql/postgresql/*.sql sql/greenplum/*.sql
var files embed.FS

// statement is the text of a file, with the pack table in place of packs_x.
func statement(d postgres.Dialect, name, table string) string {
	text, err := fs.ReadFile(files, "sql/"+d.Name+"/"+name)
	if err != nil {
		text, err = fs.ReadFile(files, "sql/"+name)
	}
	if err != nil { // the files are part of the program
		panic(err)
	}
	return strings.ReplaceAll(string(text), "packs_x", postgres.Ident(table))
}

// sessions are the connections that work on the shards of a pack table. The first is the lead, which does what is done once.
//
// They stay open from epoch to epoch, because the Python interpreter with its imports lives as long as the session.
type sessions struct {
	config   postgres.Config
	schema   string
	table    string // pack table
	onNotice func(*pgconn.Notice)
	lead     *postgres.Conn
	conns    []*postgres.Conn // lead first
}

func dial(ctx context.Context, config postgres.Config, schema, table string, onNotice func(*pgconn.Notice)) (*sessions, error) {
	s := &sessions{config: config, schema: schema, table: table, onNotice: onNotice}
	if err := s.grow(ctx, 1); err != nil {
		return nil, err
	}
	s.lead = s.conns[0]
	return s, nil
}

// grow opens sessions until there are n.
func (s *sessions) grow(ctx context.Context, n int) error {
	for len(s.conns) < n {
		c, err := postgres.Connect(ctx, s.config, postgres.Options{OnNotice: s.onNotice})
		if err != nil {
			return err
		}
		s.conns = append(s.conns, c)
		// Unqualified names are the schema's.
		_, err = c.Exec(ctx, "select set_config('search_path', $1, false)", postgres.Ident(s.schema)+", pg_temp")
		if err != nil {
			return postgres.Wrap(err, "use schema "+strconv.Quote(s.schema))
		}
	}
	return nil
}

// open returns the sessions that work on so many shards: one a shard, the lead among them, or one for all where the server
// has segments of its own. That one does nothing else: a segment has a process for each part of a session's statement, and
// which of them works on the packs, and has them in its cache, would change with every statement of several parts.
func (s *sessions) open(ctx context.Context, shards int) ([]*postgres.Conn, error) {
	first, n := 0, shards
	if s.lead.Dialect.Distributed {
		first, n = 1, 2
	}
	if err := s.grow(ctx, n); err != nil {
		return nil, err
	}
	return s.conns[first:n], nil
}

// close ends the sessions and with them their locks.
func (s *sessions) close() {
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

// onShards runs the statement of a file on all shards side by side and returns its rows in the order of shards.
// Where each shard has a session, the statement's last parameter is the shard.
func onShards[T any](ctx context.Context, s *sessions, shards int, file, doing string, args []any, scan pgx.RowToFunc[T]) ([]T, error) {
	conns, err := s.open(ctx, shards)
	if err != nil {
		return nil, err
	}
	text := statement(s.lead.Dialect, file, s.table)
	parts := make([][]T, len(conns))
	err = together(ctx, conns, func(ctx context.Context, k int) error {
		doing, args := doing, args
		if !s.lead.Dialect.Distributed {
			doing, args = fmt.Sprintf("%s, shard %d", doing, k), append(args[:len(args):len(args)], k)
		}
		rows, err := conns[k].Query(ctx, text, args...)
		if err != nil {
			return wrap(conns[k], err, doing)
		}
		parts[k], err = pgx.CollectRows(rows, scan)
		return wrap(conns[k], err, doing)
	})
	var all []T
	for _, p := range parts {
		all = append(all, p...)
	}
	return all, err
}

// together runs statements on some sessions side by side and returns the first error once all have ended.
// When one fails or ctx ends, it asks the server to cancel the others until they have stopped:
// pgx asks once, and a request that arrives before its statement is lost.
func together(ctx context.Context, conns []*postgres.Conn, run func(ctx context.Context, session int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	stopped, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-stopped:
			return
		case <-ctx.Done():
		}
		for {
			select {
			case <-stopped:
				return
			case <-time.After(cancelEvery):
			}
			for _, c := range conns {
				ask, cancel := context.WithTimeout(context.Background(), cancelEvery)
				_ = c.PgConn().CancelRequest(ask)
				cancel()
			}
		}
	}()
	for k := range conns {
		group.Go(func() error { return run(ctx, k) })
	}
	err := group.Wait()
	close(stopped)
	<-watched
	return err
}

// cancelEvery is the pause between two requests to cancel.
const cancelEvery = 200 * time.Millisecond
