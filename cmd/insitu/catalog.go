package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/localservices"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/services"
)

const resolveHelp = `Finds the service binding that two tags of a data catalog name, connects to its database, and says where that is.
In the catalog the tags are servicebinding:type:<type> and servicebinding:provider:<provider>; their values are given here, or the whole tags.

A binding is a directory with the files type and provider; postgresql is the same type as postgres.
None or more than one that matches is an error, which names those that were found; so is one whose database does not answer.
The password is never printed: it stays in the binding.

Without --bindings it uses the local services that insitu run started on this machine.

Examples:

  insitu catalog resolve --type greenplum --provider vmware --bindings /bindings
  insitu catalog resolve --type postgres --provider vmware -o json | jq .host
  eval "$(insitu catalog resolve --type postgres --provider vmware -o env)"   # PGHOST and the like
  PGPASSWORD=$(cat "$INSITU_BINDING_DIR/password") psql                       # where the binding has that file`

func catalogCommand() *cli.Command {
	return &cli.Command{
		Name:            "catalog",
		HideHelpCommand: true,
		Usage:           "from a data catalog to the database behind a service binding",
		Subcommands: []*cli.Command{{
			Name:         "resolve",
			Usage:        "find the service binding of two tags, and connect",
			Description:  resolveHelp,
			OnUsageError: usageError,
			Flags: append([]cli.Flag{
				&cli.StringFlag{Name: "type", Usage: "`TYPE` of the service binding, such as greenplum (required)"},
				&cli.StringFlag{Name: "provider", Usage: "`PROVIDER` of the service binding, such as vmware", DefaultText: "any"},
				&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT`: text, json, or env for a shell", Value: "text"},
				&cli.StringFlag{Name: "bindings", Usage: "`DIRECTORY` with service bindings", EnvVars: []string{"SERVICE_BINDING_ROOT"}},
			}, serviceFlags()...),
			Action: func(c *cli.Context) error {
				r, err := resolveTags(c)
				if err != nil {
					return err
				}
				return r.write(c.App.Writer, c.String("output"))
			},
		}},
	}
}

// resolved is a binding whose database answered.
type resolved struct {
	Binding   string `json:"binding"` // name of its directory
	Directory string `json:"directory"`
	Type      string `json:"type"`
	Provider  string `json:"provider"`
	Platform  string `json:"platform"` // what the server is: greenplum or postgres
	Version   string `json:"version"`
	Host      string `json:"host"`
	Port      int    `json:"port"`
	Database  string `json:"database"`
	Username  string `json:"username"`
	SSLMode   string `json:"sslmode,omitempty"`
	SSLRoot   string `json:"sslrootcert,omitempty"`
	url       string
}

func resolveTags(c *cli.Context) (resolved, error) {
	kind := strings.TrimPrefix(c.String("type"), "servicebinding:type:")
	provider := strings.TrimPrefix(c.String("provider"), "servicebinding:provider:")
	var problems []error
	if c.NArg() > 0 {
		problems = append(problems, fmt.Errorf("%q: expected flags only", c.Args().Slice()))
	}
	if kind == "" || strings.Contains(kind, "/") {
		problems = append(problems, fmt.Errorf("--type is %q, expected the value of a tag servicebinding:type:<type>, such as greenplum", kind))
	}
	if format := c.String("output"); format != "text" && format != "json" && format != "env" {
		problems = append(problems, fmt.Errorf("--output is %q, expected text, json or env", format))
	}
	if err := errors.Join(problems...); err != nil {
		return resolved{}, fault.AsConfiguration(err)
	}
	root := c.String("bindings")
	if root == "" {
		local, _, err := localservices.Status(serviceOptions(c))
		if errors.Is(err, fs.ErrNotExist) || err == nil && local.BindingRoot == "" {
			return resolved{}, fault.AsConfiguration(fmt.Errorf("no service bindings, and no local services in %s: set --bindings, or start the local services with insitu services start", c.String("state")))
		}
		if err != nil {
			return resolved{}, err
		}
		root = local.BindingRoot
	}
	return resolve(c.Context, root, strings.TrimSuffix(kind+"/"+provider, "/"))
}

func resolve(ctx context.Context, root, selector string) (resolved, error) {
	b, err := binding.Find(root, selector)
	if err != nil {
		return resolved{}, fault.AsConfiguration(err)
	}
	config, err := databaseConfig(root, selector)
	if err != nil {
		return resolved{}, err
	}
	conn, err := postgres.Connect(ctx, config, postgres.Options{})
	if err != nil {
		return resolved{}, fmt.Errorf("the service binding in %s: %w", b.Dir, err)
	}
	defer conn.Close()
	dir, err := filepath.Abs(b.Dir)
	if err != nil {
		return resolved{}, err
	}
	return resolved{
		Binding: filepath.Base(dir), Directory: dir, Type: b.Type, Provider: b.Provider, Platform: services.Platform(conn.Dialect), Version: conn.Dialect.Version,
		Host: config.Host, Port: config.Port, Database: config.Database, Username: config.Username, SSLMode: config.SSLMode, SSLRoot: config.SSLRootCert, url: config.URL(),
	}, nil
}

func (r resolved) write(w io.Writer, format string) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case "env":
		for _, v := range []struct{ name, value string }{
			{"INSITU_BINDING_DIR", r.Directory}, {"PGHOST", r.Host}, {"PGPORT", strconv.Itoa(r.Port)}, {"PGDATABASE", r.Database},
			{"PGUSER", r.Username}, {"PGSSLMODE", r.SSLMode}, {"PGSSLROOTCERT", r.SSLRoot},
		} {
			if v.value != "" {
				fmt.Fprintf(w, "export %s='%s'\n", v.name, strings.ReplaceAll(v.value, "'", `'\''`))
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(table, "Service binding\t%s (type %s, provider %s) in %s\n", r.Binding, r.Type, r.Provider, r.Directory)
	fmt.Fprintf(table, "Database\t%s\n", r.url)
	fmt.Fprintf(table, "Server\tanswers; %s: %s\n", r.Platform, r.Version)
	return table.Flush()
}
