package deploytrainingcode

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// lookAtPython leaves what it finds in the setting "insitu.python": a DO block cannot return anything.
//
//go:embed python.sql
var lookAtPython string

// checkServer makes sure that the server can run what is about to be deployed, before anything is.
// pending are the changesets that are still to come.
func checkServer(ctx context.Context, c *postgres.Conn, database string, pending []changelog.Changeset, log *zap.Logger) error {
	var installed, available, superuser bool
	var user, encoding string
	err := c.QueryRow(ctx, `select exists (select 1 from pg_language where lanname = 'plpython3u'),
		exists (select 1 from pg_available_extensions where name = 'plpython3u'),
		current_setting('is_superuser') = 'on', current_user, current_setting('server_encoding')`).Scan(&installed, &available, &superuser, &user, &encoding)
	if err != nil {
		return postgres.Wrap(err, "look for plpython3u")
	}
	functions := slices.ContainsFunc(pending, func(s changelog.Changeset) bool { return strings.Contains(s.SQL, "language plpython3u") })
	switch {
	case encoding != "UTF8":
		return fault.AsConfiguration(fmt.Errorf("database %q has the encoding %s; expected UTF8, since learners are UTF-8 text", database, encoding))
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
		if _, err := c.Exec(ctx, "create extension if not exists plpython3u"); err != nil {
			return postgres.Wrap(err, fmt.Sprintf("create extension plpython3u in database %q", database))
		}
	}
	return checkPackages(ctx, c, log)
}

// onlySuperusers is what PostgreSQL demands and what can be done about it.
const onlySuperusers = "PostgreSQL lets only superusers create functions in an untrusted language such as plpython3u. Either\n" +
	"  - run this step with the credentials of a superuser, each time Insitu itself is upgraded; or\n" +
	"  - run it so once, then give the schema's tables to the everyday role (docs/databases.md says how): new releases of an ML app are rows and need no superuser."

func checkPackages(ctx context.Context, c *postgres.Conn, log *zap.Logger) error {
	if _, err := c.Exec(ctx, lookAtPython, pgx.QueryExecModeSimpleProtocol); err != nil {
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

// grant lets the roles train: on what is there, and on the pack tables that upload-dataset makes later with the same credentials.
func grant(ctx context.Context, c *postgres.Conn, schema string, roles []string) error {
	for _, role := range roles {
		doing := fmt.Sprintf("grant training in schema %q to role %q", schema, role)
		var exists bool
		if err := c.QueryRow(ctx, "select exists (select 1 from pg_roles where rolname = $1)", role).Scan(&exists); err != nil {
			return postgres.Wrap(err, doing)
		}
		if !exists {
			return fault.AsConfiguration(fmt.Errorf("%s: there is no such role; create it first", doing))
		}
		if _, err := c.Exec(ctx, "select "+postgres.Ident(schema, "grant_training")+"($1)", role); err != nil {
			return postgres.Wrap(err, doing)
		}
		if _, err := c.Exec(ctx, "alter default privileges in schema "+postgres.Ident(schema)+" grant select on tables to "+postgres.Ident(role)); err != nil {
			return postgres.Wrap(err, doing)
		}
	}
	return nil
}
