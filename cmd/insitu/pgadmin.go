package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/localservices"
	"github.com/insitu-ml/insitu/internal/pgadmin"
)

// trainingProvider is the binding on a platform, as for the steps.
const trainingProvider = "greenplum/vmware"

// localNamespace names the server groups of this machine's local services.
const localNamespace = "local"

const pgadminServersHelp = `Writes what pgAdmin 4 imports to open the training and the inference database, and prints the import file:

  servers.json   the two servers, in "Server Group Training NAMESPACE" and "Server Group Inference NAMESPACE"; no password
  pgpass         their passwords, for libpq: host:port:database:username:password; mode 0600
  *-ca.pem       the CA certificates, if a service binding has some
  import.py      for a pgAdmin elsewhere: copy the directory there, and run this with the Python that pgAdmin runs with

Where pgAdmin is on this machine, insitu pgadmin import does all of it.
A service binding that is missing is an error (exit code 2), and then nothing is written.

Without --bindings it is about the local services that insitu run started on this machine.

Examples:

  insitu pgadmin servers
  insitu pgadmin servers --bindings /etc/bindings --namespace team-a --output team-a
  pgadmin4-cli load-servers .insitu/pgadmin/servers.json     # into a new pgAdmin in desktop mode`

const pgadminImportHelp = `Brings the training and the inference database into pgAdmin 4 on this machine, which may run meanwhile: refresh its page.
Opening one of them then asks for no password.

Servers are known by group and name. Those that pgAdmin lacks are added, those that differ are changed, and all others stay.
Run it again any time, after a password has changed, too.
The password and the CA certificates go to a folder that pgAdmin reads: that of the user in its storage (server mode), or
pgAdmin's own (desktop mode).

--python is the Python that pgAdmin runs with. Without it these are tried: that of scripts/install.sh, that of pgAdmin's
Debian and RPM packages, and that of its container image.

Exit code 75: pgAdmin has not been started yet, or its configuration is locked; try again.

Examples:

  insitu pgadmin import --desktop
  insitu pgadmin import --python ~/pgadmin/bin/python --user me@example.com
  insitu pgadmin import --bindings /etc/bindings --namespace team-a --user me@example.com`

func pgadminCommand() *cli.Command {
	flags := append([]cli.Flag{
		&cli.StringFlag{Name: "namespace", Usage: "`NAME` of the tenant or Kubernetes namespace, which the server groups are named after (required with --bindings)", DefaultText: localNamespace + " without --bindings", EnvVars: []string{"INSITU_NAMESPACE"}},
		&cli.StringFlag{Name: "bindings", Usage: "`DIRECTORY` with service bindings", EnvVars: []string{"SERVICE_BINDING_ROOT"}},
		&cli.StringFlag{Name: "training-binding", Usage: "`TYPE` or TYPE/PROVIDER of the training database's service binding", DefaultText: trainingProvider, EnvVars: []string{"INSITU_TRAINING_BINDING"}},
		&cli.StringFlag{Name: "inference-binding", Usage: "`TYPE` or TYPE/PROVIDER of the inference database's service binding", DefaultText: inferenceProvider, EnvVars: []string{"INSITU_INFERENCE_BINDING"}},
	}, serviceFlags()...)
	return &cli.Command{
		Name:            "pgadmin",
		HideHelpCommand: true,
		Usage:           "open the databases in pgAdmin 4",
		Subcommands: []*cli.Command{
			{
				Name: "servers", Usage: "write and print a server import file, with a password file beside it", Description: pgadminServersHelp, OnUsageError: usageError,
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "output", Usage: "`DIRECTORY` for the files", Value: filepath.Join(".insitu", "pgadmin")},
				}, flags...),
				Action: func(c *cli.Context) error {
					d, err := pgadminDatabases(c)
					if err != nil {
						return err
					}
					text, err := pgadmin.Write(c.String("output"), d)
					if err != nil {
						return err
					}
					fmt.Fprintf(c.App.ErrWriter, "insitu: %s, and beside it %s, which holds the passwords\n", filepath.Join(c.String("output"), pgadmin.ServersFile), pgadmin.PassFile)
					_, err = c.App.Writer.Write(text)
					return err
				},
			},
			{
				Name: "import", Usage: "bring the databases into pgAdmin beside what it has", Description: pgadminImportHelp, OnUsageError: usageError,
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "python", Usage: "`PROGRAM` that pgAdmin runs with", DefaultText: "see above", EnvVars: []string{"INSITU_PGADMIN_PYTHON"}},
					&cli.StringFlag{Name: "user", Usage: "`NAME` of the pgAdmin user who gets the servers", DefaultText: "the only one", EnvVars: []string{"INSITU_PGADMIN_USER"}},
					&cli.BoolFlag{Name: "desktop", Usage: "pgAdmin runs in desktop mode", DisableDefaultText: true},
				}, flags...),
				Action: func(c *cli.Context) error {
					d, err := pgadminDatabases(c)
					if err != nil {
						return err
					}
					t := pgadmin.Target{User: c.String("user"), Env: os.Environ(), Output: c.App.Writer}
					if c.Bool("desktop") {
						t.Env = append(t.Env, "PGADMIN_SERVER_MODE=OFF")
					}
					if t.Python, err = pgadminPython(c.String("python"), c.String("tools")); err != nil {
						return err
					}
					return pgadmin.Import(c.Context, t, d)
				},
			},
		},
	}
}

// pgadminDatabases are those of the service bindings, the given ones or those of this machine's local services.
func pgadminDatabases(c *cli.Context) (d pgadmin.Databases, err error) {
	if c.NArg() > 0 {
		return d, fault.AsConfiguration(fmt.Errorf("%q: expected flags only", c.Args().Slice()))
	}
	root, training, inference := c.String("bindings"), cmp.Or(c.String("training-binding"), trainingProvider), cmp.Or(c.String("inference-binding"), inferenceProvider)
	d.Namespace = c.String("namespace")
	switch {
	case root == "":
		services, _, err := localservices.Status(serviceOptions(c))
		if errors.Is(err, fs.ErrNotExist) {
			return d, fault.AsConfiguration(fmt.Errorf("no service bindings and no local services in %s: set --bindings, or start the local services with insitu services start", c.String("state")))
		}
		if err != nil {
			return d, err
		}
		root, training, inference = services.BindingRoot, cmp.Or(c.String("training-binding"), localservices.TrainingBinding), cmp.Or(c.String("inference-binding"), localservices.InferenceBinding)
		d.Namespace = cmp.Or(d.Namespace, localNamespace)
	case d.Namespace == "":
		return d, fault.AsConfiguration(errors.New("--namespace: expected the tenant or Kubernetes namespace, which the server groups are named after"))
	}
	var err1, err2 error
	d.Training, err1 = databaseConfig(root, training)
	d.Inference, err2 = databaseConfig(root, inference)
	if err := errors.Join(err1, err2); err != nil {
		return d, fault.AsConfiguration(err)
	}
	return d, nil
}

// pgadminPython is the given program, else the first that is installed.
func pgadminPython(given, tools string) (string, error) {
	if given != "" {
		return given, nil
	}
	candidates := []string{filepath.Join(tools, "pgadmin-venv", "bin", "python"), "/usr/pgadmin4/venv/bin/python3", "/venv/bin/python3"}
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fault.AsConfiguration(fmt.Errorf("no pgAdmin at %q: name the Python that pgAdmin runs with in --python", candidates))
}
