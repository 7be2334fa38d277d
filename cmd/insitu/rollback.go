package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/services"
)

const rollbackHelp = `Goes back to a version that was active before: the inference database and the registry's alias, within seconds.
Without --to it is the version that was active before the present one; doing it again goes one further back.

It needs the inference database and, for the alias, the registry. The training database may be down.
The version is first asked for the predictions that it gave when it was deployed; one that gives others is not switched to.
One transaction then switches, and enters the rollback into the tables deployments and databasechangelog.
If the registry is down, the database is switched all the same, and the exit code is 75: run it again, and the alias follows.
A version whose bytes were pruned is fetched from the registry.

A rollback that did not get to its end is finished before another one begins; so is one by Liquibase, which does not know the registry. Give --to in scripts: it can be run any number of times.

Without --bindings it uses the local services that insitu run started on this machine.

Examples:

  insitu rollback --inference-schema digits --dry-run
  insitu rollback --inference-schema digits
  insitu rollback --inference-schema team-a --bindings /etc/bindings --to 3
  insitu rollback --inference-schema team-a --bindings /etc/bindings --to 5    # forward again`

func rollbackCommand() *cli.Command {
	return &cli.Command{
		Name:        "rollback",
		Usage:       "serve a version again that was active before",
		Description: rollbackHelp,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "inference-schema", Usage: "`SCHEMA` in the inference database (required)", EnvVars: []string{"INSITU_INFERENCE_SCHEMA"}},
			&cli.IntFlag{Name: "to", Usage: "`VERSION` to go back to", DefaultText: "the one that was active before"},
			&cli.StringFlag{Name: "alias", Usage: "`NAME` of the registry's alias that must name the active version", Value: "staging", EnvVars: []string{"INSITU_ALIAS"}},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, and change nothing", DisableDefaultText: true},
			&cli.StringFlag{Name: "bindings", Usage: "`DIRECTORY` with service bindings", EnvVars: []string{"SERVICE_BINDING_ROOT"}},
			&cli.StringFlag{Name: "inference-binding", Usage: "`TYPE` or TYPE/PROVIDER of the inference database's service binding", DefaultText: inferenceProvider, EnvVars: []string{"INSITU_INFERENCE_BINDING"}},
			&cli.StringFlag{Name: "mlflow-binding", Usage: "`TYPE` or TYPE/PROVIDER of the model registry's service binding", Value: "mlflow", EnvVars: []string{"INSITU_MLFLOW_BINDING"}},
			&cli.DurationFlag{Name: "lock-wait", Usage: "how long to wait for a deployment to the same schema", Value: time.Minute, EnvVars: []string{"INSITU_LOCK_WAIT"}},
		}, serviceFlags()...),
		Action: func(c *cli.Context) error {
			b, err := rollbackConfig(c)
			if err != nil {
				return err
			}
			return b.run(c.Context)
		},
	}
}

// backing goes back to a version that was active before.
type backing struct {
	database      postgres.Config
	models        *registry.Client
	schema, alias string
	to            int // 0: the version before
	dryRun        bool
	lockWait      time.Duration
	out           io.Writer
}

func rollbackConfig(c *cli.Context) (b backing, err error) {
	if c.NArg() > 0 {
		return b, fault.AsConfiguration(fmt.Errorf("%q: expected flags only", c.Args().Slice()))
	}
	b = backing{schema: c.String("inference-schema"), alias: c.String("alias"), to: c.Int("to"), dryRun: c.Bool("dry-run"), lockWait: c.Duration("lock-wait"), out: c.App.Writer}
	if b.schema == "" {
		return b, fault.AsConfiguration(errors.New("--inference-schema: expected the schema that the model was deployed to"))
	}
	if c.IsSet("to") && b.to < 1 {
		return b, fault.AsConfiguration(fmt.Errorf("--to is %d, expected a version such as 3", b.to))
	}
	if err := registry.CheckAlias(b.alias); err != nil {
		return b, fault.AsConfiguration(err)
	}
	root, selector, _, err := inferenceBinding(c)
	if err != nil {
		return b, err
	}
	if b.database, err = databaseConfig(root, selector); err != nil {
		return b, err
	}
	v, err := settings(root, c.String("mlflow-binding"), "uri", "username", "password", "token")
	if err != nil {
		return b, err
	}
	mlflow := services.MLflowConfig{URI: v["uri"], Username: v["username"], Password: v["password"], Token: v["token"]}.WithoutCredentials()
	if err := mlflow.Check(); err != nil {
		return b, fault.AsConfiguration(err)
	}
	b.models, err = registry.New(mlflow.Registry())
	return b, err
}

func (b backing) run(ctx context.Context) error {
	conn, err := postgres.Connect(ctx, b.database, postgres.Options{})
	if err != nil {
		return err
	}
	defer conn.Close()
	// Deployments take the same lock: none of them is half done while this plans.
	if err := postgres.TryLock(ctx, conn, "changelog:"+b.schema, b.lockWait); err != nil {
		return err
	}
	plan, err := inference.PlanRollback(ctx, conn, b.schema, b.to)
	if err != nil {
		return err
	}
	to := plan.To
	switch {
	case plan.Finish:
		b.say("Schema %s serves %s version %d since a rollback whose alias did not follow yet.", b.schema, to.Name, to.Version)
	case plan.From == to:
		b.say("Schema %s serves %s version %d already.", b.schema, to.Name, to.Version)
	default:
		b.say("Schema %s serves %s version %d and goes back to version %d.", b.schema, plan.From.Name, plan.From.Version, to.Version)
	}
	if b.dryRun {
		if plan.Pruned {
			b.say("Its bytes were pruned; they would be fetched from the registry, %s.", b.models.Address())
		}
		b.say("Nothing was changed (--dry-run).")
		return nil
	}
	if plan.Pruned {
		b.say("Its bytes were pruned; fetching them from the registry, %s.", b.models.Address())
		if err := inference.Restore(ctx, conn, b.schema, b.models, to); err != nil {
			return fmt.Errorf("version %d cannot be gone back to without its bytes; select version from %s where not pruned lists the versions that can: %w",
				to.Version, postgres.Ident(b.schema, "model_versions"), err)
		}
	}
	if plan.From != to {
		started := time.Now()
		if err := inference.CheckProbe(ctx, inference.Place{Conn: conn, Schema: b.schema}, to); err != nil {
			return fmt.Errorf("version %d stays active: %w", plan.From.Version, err)
		}
		if _, err := inference.SwitchBack(ctx, conn, b.schema, to, fmt.Sprintf("from version %d", plan.From.Version)); err != nil {
			return err
		}
		b.say("Version %d is active (%s).", to.Version, time.Since(started).Round(time.Millisecond))
	}
	moved, err := inference.MoveAlias(ctx, conn, b.schema, b.models, b.alias, to)
	if err != nil {
		return fmt.Errorf("the database serves version %d, but the alias %q does not name it yet; run insitu rollback --to %d again to move it: %w", to.Version, b.alias, to.Version, err)
	}
	if moved {
		b.say("The alias %s names version %d.", b.alias, to.Version)
	} else {
		b.say("The alias %s named version %d already.", b.alias, to.Version)
	}
	return nil
}

func (b backing) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }
