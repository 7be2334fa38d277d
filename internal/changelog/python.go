package changelog

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// lookAtPython takes the modules to import from the setting "insitu.python" and leaves there what it
// finds: a DO block has no parameters and returns nothing.
//
//go:embed python.sql
var lookAtPython string

// CheckServer makes sure that the server can run what is about to be deployed, before anything is:
// that it has PL/Python, that the role may create the functions that are still to come, and that its Python imports the modules.
// It creates the extension if that is all that is missing.
func (s *Session) CheckServer(ctx context.Context, sets []Changeset, modules []string) error {
	applied, err := s.Applied(ctx)
	if err != nil {
		return err
	}
	pending := slices.DeleteFunc(slices.Clone(sets), func(c Changeset) bool { return slices.Contains(applied, c.ID) })
	return checkServer(ctx, s.Conn, s.schema.Database.Database, pending, modules, s.schema.Log)
}

func checkServer(ctx context.Context, c *postgres.Conn, database string, pending []Changeset, modules []string, log *zap.Logger) error {
	var installed, available, superuser bool
	var user, encoding string
	err := c.QueryRow(ctx, `select exists (select 1 from pg_language where lanname = 'plpython3u'),
		exists (select 1 from pg_available_extensions where name = 'plpython3u'),
		current_setting('is_superuser') = 'on', current_user, current_setting('server_encoding')`).Scan(&installed, &available, &superuser, &user, &encoding)
	if err != nil {
		return postgres.Wrap(err, "look for plpython3u")
	}
	functions := slices.ContainsFunc(pending, func(s Changeset) bool { return strings.Contains(s.SQL, "language plpython3u") })
	switch {
	case encoding != "UTF8":
		return fault.AsConfiguration(fmt.Errorf("database %q has the encoding %s; expected UTF8, since what is deployed is UTF-8 text", database, encoding))
	case !installed && !available:
		return fault.AsConfiguration(fmt.Errorf("database %q: the server has no PL/Python; install the package that holds the extension plpython3u on the database server "+
			"(Debian: postgresql-plpython3-<major version>), then run this step again", database))
	case !installed && !superuser:
		return fault.AsConfiguration(fmt.Errorf("database %q has no plpython3u and %q may not create it; a superuser must run in database %q:\n  create extension plpython3u;\n%s",
			database, user, database, onlySuperusers))
	case functions && !superuser:
		return fault.AsConfiguration(fmt.Errorf("database %q: %q is not a superuser, and changesets with plpython3u functions are still to be deployed\n%s", database, user, onlySuperusers))
	case !superuser:
		log.Info("Python packages not checked: only a superuser may run Python that is not deployed")
		return nil
	}
	if !installed {
		if err := createLanguage(ctx, c, database); err != nil {
			return err
		}
	}
	return checkModules(ctx, c, modules, log)
}

// createLanguage waits its turn: two tenants' first deployments may come together, and "if not exists" does not keep them apart.
func createLanguage(ctx context.Context, c *postgres.Conn, database string) error {
	err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", postgres.LockKey("extension:plpython3u")); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "create extension if not exists plpython3u")
		return err
	})
	return postgres.Wrap(err, fmt.Sprintf("create extension plpython3u in database %q", database))
}

// onlySuperusers is what PostgreSQL demands and what can be done about it.
const onlySuperusers = "PostgreSQL lets only superusers create functions in an untrusted language such as plpython3u. Either\n" +
	"  - run this step with the credentials of a superuser, each time Insitu itself is upgraded; or\n" +
	"  - run it so once, then give the schema's tables to the everyday role (docs/databases.md says how): new releases and models are rows and need no superuser."

func checkModules(ctx context.Context, c *postgres.Conn, modules []string, log *zap.Logger) error {
	if _, err := c.Exec(ctx, "select set_config('insitu.python', $1, false)", strings.Join(modules, " ")); err != nil {
		return postgres.Wrap(err, "ask the database's Python for its packages")
	}
	if _, err := c.Exec(ctx, lookAtPython); err != nil {
		return postgres.Wrap(err, "start Python in the database")
	}
	var text string
	if err := c.QueryRow(ctx, "select current_setting('insitu.python')").Scan(&text); err != nil {
		return postgres.Wrap(err, "ask the database's Python for its packages")
	}
	var found struct {
		Python, Prefix string
		Path           []string
		Packages       map[string]string
		Missing        map[string]string
	}
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return fmt.Errorf("ask the database's Python for its packages: %q: %w", text, err)
	}
	if len(found.Missing) == 0 {
		log.Info("Python in the database", zap.String("version", found.Python), zap.Any("packages", found.Packages))
		return nil
	}
	var missing, why []string
	for name, reason := range found.Missing {
		missing, why = append(missing, name), append(why, name+": "+reason)
	}
	slices.Sort(missing)
	slices.Sort(why)
	return fault.AsConfiguration(fmt.Errorf("the database server's Python %s (%s) cannot import %s; install them where this interpreter looks, "+
		"such as a virtual environment made with --system-site-packages whose site-packages directory is in the server's PYTHONPATH, and restart the server\n  %s\n  it looks in: %s",
		found.Python, found.Prefix, strings.Join(missing, ", "), strings.Join(why, "\n  "), strings.Join(found.Path, ", ")))
}
