package changelog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Schema is one tenant's schema under Liquibase's control.
type Schema struct {
	Database  postgres.Config
	Name      string
	Path      string // the changelog's name in databasechangelog.filename: insitu/training
	Liquibase Liquibase
	LockWait  time.Duration // how long to wait for another deployment of the same schema
	Log       *zap.Logger
}

// Session is the right to change one schema: while it is open, no other session of ours changes it.
type Session struct {
	// Conn holds the advisory lock; callers may query with it.
	Conn   *postgres.Conn
	schema Schema
	target target
}

// Open connects, takes the schema's advisory lock and creates the schema unless it exists.
// What a killed run left behind is cleared away: its database sessions and its lock row.
func Open(ctx context.Context, s Schema) (*Session, error) {
	if err := CheckSchema(s.Name); err != nil {
		return nil, err
	}
	conn, err := postgres.Connect(ctx, s.Database, postgres.Options{})
	if err != nil {
		return nil, err
	}
	out := &Session{Conn: conn, schema: s, target: target{s.Database, s.Name, applicationName(s.Name)}}
	if err := out.prepare(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return out, nil
}

// applicationName is what Liquibase's sessions for a schema are called: one name a schema,
// so that whoever holds the lock knows the sessions that nobody waits for any more.
func applicationName(schema string) string {
	sum := sha256.Sum256([]byte(schema))
	return fmt.Sprintf("insitu-liquibase-%x", sum[:8])
}

func (s *Session) prepare(ctx context.Context) error {
	if err := postgres.TryLock(ctx, s.Conn, "changelog:"+s.schema.Name, s.schema.LockWait); err != nil {
		return err
	}
	if err := s.endOrphans(ctx); err != nil {
		return err
	}
	if err := postgres.EnsureSchema(ctx, s.Conn, s.schema.Name); err != nil {
		return err
	}
	return s.releaseStaleLock(ctx)
}

// Close ends the session and with it the advisory lock.
func (s *Session) Close() { s.Conn.Close() }

// Applied returns the ids of our changesets that the schema has, in the order they were applied; none before the first deployment.
func (s *Session) Applied(ctx context.Context) ([]string, error) {
	if known, err := s.Has(ctx, "databasechangelog"); err != nil || !known {
		return nil, err
	}
	rows, err := s.Conn.Query(ctx, "select id from "+s.table("databasechangelog")+" where author = $1 and filename = $2 order by orderexecuted", Author, s.schema.Path)
	if err != nil {
		return nil, postgres.Wrap(err, "read "+s.table("databasechangelog"))
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, postgres.Wrap(err, "read "+s.table("databasechangelog"))
}

// Has tells whether the schema has that table or view.
func (s *Session) Has(ctx context.Context, table string) (bool, error) {
	var found bool
	err := s.Conn.QueryRow(ctx, "select exists (select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2)",
		s.schema.Name, table).Scan(&found)
	return found, postgres.Wrap(err, "look for table "+s.table(table))
}

// Update applies the changesets the schema does not have yet and returns their ids and the changelog.
func (s *Session) Update(ctx context.Context, sets []Changeset) (added []string, changelog []byte, err error) {
	if changelog, err = Render(s.schema.Path, sets); err != nil {
		return nil, nil, err
	}
	before, err := s.Applied(ctx)
	if err != nil {
		return nil, nil, err
	}
	started := time.Now()
	if err := s.liquibase(ctx, changelog, "update", "--show-summary=OFF"); err != nil {
		return nil, nil, err
	}
	after, err := s.Applied(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range after {
		if !slices.Contains(before, id) {
			added = append(added, id)
		}
	}
	s.schema.Log.Info("changelog applied", zap.String("schema", s.schema.Name), zap.Int("changesets", len(sets)),
		zap.Strings("added", added), zap.Duration("took", time.Since(started)))
	return added, changelog, nil
}

// Record enters a changeset as run, in the caller's transaction, which does itself what the changeset says.
// Liquibase accepts it as its own and adds the checksum at its next update.
func Record(ctx context.Context, tx pgx.Tx, schema, path string, c Changeset) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("changeset %q: %w", c.ID, err)
	}
	table := postgres.Ident(schema, "databasechangelog")
	// Liquibase sorts by the date, then by the order, and its dates are those of the clock on the wall.
	_, err := tx.Exec(ctx, "insert into "+table+` (id, author, filename, dateexecuted, orderexecuted, exectype, md5sum, description, comments, liquibase)
		select $1, $2, $3, greatest($4::timestamp, max(dateexecuted) + interval '1 microsecond'), coalesce(max(orderexecuted), 0) + 1, 'EXECUTED', null, 'sql', $5, 'insitu' from `+table,
		c.ID, Author, path, time.Now(), plain(c.Comment))
	return postgres.Wrap(err, fmt.Sprintf("record changeset %q in %s", c.ID, table))
}

// Tag gives the newest changeset the tag, unless it has one already, and returns the tag it has.
// A changeset that a killed run left untagged is thus tagged by the next run.
func (s *Session) Tag(ctx context.Context, tag string) (string, error) {
	const newest = " order by dateexecuted desc, orderexecuted desc limit 1"
	var has *string
	read := func() error {
		err := s.Conn.QueryRow(ctx, "select tag from "+s.table("databasechangelog")+newest).Scan(&has)
		return postgres.Wrap(err, "read the tag of the newest changeset in "+s.table("databasechangelog"))
	}
	if err := read(); err != nil {
		return "", err
	}
	if has == nil {
		if err := s.liquibase(ctx, nil, "tag", "--tag="+tag); err != nil {
			return "", err
		}
		if err := read(); err != nil {
			return "", err
		}
	}
	if has == nil {
		return "", fmt.Errorf("tag %q: Liquibase set no tag in %s", tag, s.table("databasechangelog"))
	}
	return *has, nil
}

// cleanupTimeout bounds what is done for tidiness after a cancelled run.
const cleanupTimeout = 10 * time.Second

// liquibase runs one command. When ctx is cancelled, Liquibase has ended, its
// database session is gone and its lock row is released before this returns.
func (s *Session) liquibase(ctx context.Context, changelog []byte, command string, args ...string) error {
	err := s.schema.Liquibase.run(ctx, s.target, changelog, command, args...)
	if ctx.Err() == nil {
		return err
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if orphans := s.endOrphans(clean); orphans != nil {
		s.schema.Log.Warn("Liquibase's session may still run", zap.Error(orphans))
	} else if stale := s.releaseStaleLock(clean); stale != nil {
		s.schema.Log.Warn("Liquibase's lock is left to the next run", zap.Error(stale))
	}
	return err
}

// endOrphans ends the sessions of Liquibase processes that were started for this schema and are gone.
// While we hold the advisory lock, a session of that name can only be one of those, or one of ours that was just killed.
func (s *Session) endOrphans(ctx context.Context) error {
	const sessions = " from pg_stat_activity where datname = current_database() and application_name = $1"
	for told := false; ; {
		var ended, left int
		err := s.Conn.QueryRow(ctx, "select count(*) filter (where pg_terminate_backend(pid)), count(*)"+sessions, s.target.application).Scan(&ended, &left)
		if err != nil {
			return postgres.Wrap(err, "end the sessions of an earlier, killed deployment on "+s.target.Address())
		}
		if left == 0 {
			return nil
		}
		if !told {
			s.schema.Log.Warn("ending sessions of a killed deployment", zap.Int("sessions", left))
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// releaseStaleLock frees Liquibase's lock row when it provably belongs to nobody:
// we hold the advisory lock, so no run of ours does; a lock that is not ours
// (a database administrator's Liquibase) counts as stale when no JDBC session is left in this database.
func (s *Session) releaseStaleLock(ctx context.Context) error {
	known, err := s.Has(ctx, "databasechangeloglock")
	if err != nil || !known {
		return err
	}
	table := s.table("databasechangeloglock")
	var by, since *string
	err = s.Conn.QueryRow(ctx, "select lockedby, to_char(lockgranted, 'YYYY-MM-DD HH24:MI:SS') from "+table+" where locked").Scan(&by, &since)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return postgres.Wrap(err, "read "+table)
	}
	var strangers int
	err = s.Conn.QueryRow(ctx, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
		and (application_name ilike '%jdbc%' or application_name ilike '%liquibase%')
		and application_name not like 'insitu-liquibase-%' and $1 not like '%#`+hostMark+` (%'`, text(by)).Scan(&strangers)
	if err != nil {
		return postgres.Wrap(err, "look for the session behind "+table)
	}
	if strangers > 0 {
		return fault.AsTemporary(fmt.Errorf("%s is held by %q since %s, and %d JDBC session(s) are open in the database; "+
			"wait until that Liquibase has ended, or run \"liquibase release-locks\" if there is none", table, text(by), text(since), strangers))
	}
	if _, err := s.Conn.Exec(ctx, "update "+table+" set locked = false, lockedby = null, lockgranted = null where locked"); err != nil {
		return postgres.Wrap(err, "release the stale lock in "+table)
	}
	s.schema.Log.Warn("released the stale lock of a killed deployment", zap.String("table", table), zap.String("lockedby", text(by)), zap.String("since", text(since)))
	return nil
}

func (s *Session) table(name string) string { return postgres.Ident(s.schema.Name, name) }

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}
