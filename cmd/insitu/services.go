package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/localservices"
)

// serviceFlags say where local services keep their state and find their programs.
func serviceFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "state", Usage: "`DIRECTORY` with the local services' data", Value: localservices.DefaultState(), EnvVars: []string{"INSITU_STATE"}},
		&cli.StringFlag{Name: "tools", Usage: "`DIRECTORY` with the programs that scripts/install.sh installed", Value: localservices.DefaultTools(), EnvVars: []string{"INSITU_TOOLS"}},
	}
}

func serviceOptions(c *cli.Context) localservices.Options {
	return localservices.Options{
		State: c.String("state"), Tools: c.String("tools"),
		Log: func(format string, args ...any) { fmt.Fprintf(c.App.ErrWriter, "insitu: "+format+"\n", args...) },
	}
}

func servicesCommand() *cli.Command {
	throwaway := &cli.BoolFlag{Name: "throwaway", Usage: "faster, but a crash of the machine may lose the data: for tests", DisableDefaultText: true}
	return &cli.Command{
		Name:            "services",
		HideHelpCommand: true,
		Usage:           "local PostgreSQL servers, S3 server and MLflow server for first tries and tests",
		Subcommands: []*cli.Command{
			{
				Name: "start", Usage: "start what does not run, wait until it answers, print the service bindings' directory",
				Flags: append(serviceFlags(), throwaway),
				Action: func(c *cli.Context) error {
					o := serviceOptions(c)
					o.Throwaway = c.Bool("throwaway")
					s, err := localservices.Start(c.Context, o)
					if err != nil {
						return err
					}
					fmt.Fprintln(c.App.Writer, s.BindingRoot)
					return nil
				},
			},
			{
				Name: "stop", Usage: "stop them; their data stays (insitu stop --purge removes it)", Flags: serviceFlags(),
				Action: func(c *cli.Context) error { return localservices.Stop(c.Context, serviceOptions(c)) },
			},
			{
				Name: "status", Usage: "say which of them run, and where", Flags: serviceFlags(),
				Action: func(c *cli.Context) error {
					s, running, err := localservices.Status(serviceOptions(c))
					if err != nil {
						return err
					}
					where := map[string]string{
						"training":  fmt.Sprintf("127.0.0.1:%d", s.Training),
						"inference": fmt.Sprintf("127.0.0.1:%d", s.Inference),
						"s3":        s.S3Endpoint, "mlflow": s.MLflowURL,
					}
					for _, name := range slices.Sorted(maps.Keys(running)) {
						state := "stopped"
						if running[name] {
							state = "running"
						}
						fmt.Fprintf(c.App.Writer, "%-10s %-8s %s\n", name, state, where[name])
					}
					return nil
				},
			},
		},
	}
}
