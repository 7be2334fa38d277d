// Package postgres connects to PostgreSQL and Greenplum and holds what differs between them.
//
// It speaks SQL through parameters and quoted identifiers only and knows nothing of datasets or models.
package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/insitu-ml/insitu/internal/fault"
)

// Config says where a database is and who connects.
type Config struct {
	Host, Database, Username, Password string
	Port                               int
	SSLMode                            string // libpq's words; "" means prefer
	SSLRootCert                        string // file with the CA certificates
	ApplicationName                    string // what pg_stat_activity shows
}

// Address is host:port/database: what may appear in logs and errors.
func (c Config) Address() string {
	return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) + "/" + c.Database
}

// URL is the connection string without the password.
func (c Config) URL() string {
	u := url.URL{Scheme: "postgresql", User: url.User(c.Username), Host: net.JoinHostPort(c.Host, strconv.Itoa(c.Port)), Path: "/" + c.Database}
	if c.SSLMode != "" {
		u.RawQuery = "sslmode=" + url.QueryEscape(c.SSLMode)
	}
	return u.String()
}

// Conn is one session and the dialect it speaks.
type Conn struct {
	*pgx.Conn
	Dialect Dialect
}

// Options are what callers may add to a connection.
type Options struct {
	// OnNotice receives every NOTICE while statements run.
	OnNotice func(*pgconn.Notice)
}

// connectTimeout is how long a connection may take: longer than a failover, shorter than a patience.
const connectTimeout = 15 * time.Second

// Connect opens one session.
// Cancelling a context of a later call cancels the statement on the server before the connection is dropped.
func Connect(ctx context.Context, c Config, o Options) (*Conn, error) {
	pc, err := pgx.ParseConfig(c.keywords())
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("settings for %s: %w", c.Address(), err))
	}
	pc.Password = c.Password
	pc.ConnectTimeout = connectTimeout
	pc.RuntimeParams["application_name"] = orDefault(c.ApplicationName, "insitu")
	pc.RuntimeParams["extra_float_digits"] = "3" // Greenplum 6 defaults to 0 and loses digits
	pc.OnNotice = nil
	if o.OnNotice != nil {
		pc.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { o.OnNotice(n) }
	}
	pc.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxHandler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, CancelRequestDelay: 0, DeadlineDelay: 5 * time.Second}
	}
	conn, err := pgx.ConnectConfig(ctx, pc)
	if err != nil {
		return nil, Wrap(err, "connect to "+c.Address()+" as "+strconv.Quote(c.Username))
	}
	out := &Conn{Conn: conn}
	var version string
	if err := conn.QueryRow(ctx, "select version()").Scan(&version); err != nil {
		_ = conn.Close(ctx)
		return nil, Wrap(err, "ask "+c.Address()+" for its version")
	}
	out.Dialect = DialectOf(version)
	// A killed client must not leave its statement running; a look at the connection takes microseconds. Servers that do not know the setting (PostgreSQL before 14) select no row.
	_, _ = conn.Exec(ctx, "select set_config(name, '100ms', false) from pg_settings where name = 'client_connection_check_interval'")
	return out, nil
}

// Close ends the session; it waits at most five seconds, whatever became of the caller's context.
// Its advisory locks are given back first: the server's process, which holds them, outlives the connection for a moment.
func (c *Conn) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if !c.IsClosed() {
		_, _ = c.Exec(ctx, "select pg_advisory_unlock_all()")
	}
	_ = c.Conn.Close(ctx)
}

// Ident quotes a (qualified) identifier.
func Ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

// LockKey turns a name into the key of an advisory lock.
func LockKey(name string) int64 {
	sum := sha256.Sum256([]byte("insitu:" + name))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// EnsureSchema creates the schema unless it exists; steps that start side by side may call it together.
func EnsureSchema(ctx context.Context, c *Conn, schema string) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", LockKey("schema:"+schema)); err != nil {
			return Wrap(err, "lock schema "+strconv.Quote(schema))
		}
		var exists bool
		if err := tx.QueryRow(ctx, "select exists (select 1 from pg_namespace where nspname = $1)", schema).Scan(&exists); err != nil {
			return Wrap(err, "look for schema "+strconv.Quote(schema))
		}
		if exists {
			return nil
		}
		_, err := tx.Exec(ctx, "create schema "+Ident(schema))
		return Wrap(err, "create schema "+strconv.Quote(schema))
	})
}

// TryLock takes the session's advisory lock of that name, waiting at most wait.
// A lock that stays held by another session is a temporary fault.
func TryLock(ctx context.Context, c *Conn, name string, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		var ok bool
		if err := c.QueryRow(ctx, "select pg_try_advisory_lock($1)", LockKey(name)).Scan(&ok); err != nil {
			return Wrap(err, "take advisory lock "+strconv.Quote(name))
		}
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fault.AsTemporary(fmt.Errorf("another session holds the lock %q; it is released when that session ends", name))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Unlock gives back a lock of TryLock before the session ends; a session that is lost has given it back already.
func Unlock(ctx context.Context, c *Conn, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, _ = c.Exec(ctx, "select pg_advisory_unlock($1)", LockKey(name))
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

func quoteConn(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// keywords is the libpq connection string without the password.
func (c Config) keywords() string {
	text := fmt.Sprintf("host=%s port=%d dbname=%s user=%s sslmode=%s",
		quoteConn(c.Host), c.Port, quoteConn(c.Database), quoteConn(c.Username), quoteConn(orDefault(c.SSLMode, "prefer")))
	if c.SSLRootCert != "" {
		text += " sslrootcert=" + quoteConn(c.SSLRootCert)
	}
	return text
}
