package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps/smoke"
)

// smokeCommand runs a step of the pipeline that has no program of its own: its flags, log, signals and exit codes are a step's.
func smokeCommand() *cli.Command {
	spec := smoke.Spec()
	return &cli.Command{
		Name:            spec.Name,
		Usage:           "ask the inference database, and the API, for predictions after a deployment",
		SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			signals := make(chan os.Signal, 2)
			signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
			defer signal.Stop(signals)
			code := step.Execute(spec, step.Env{
				Args: c.Args().Slice(), LookupEnv: os.LookupEnv, Stdout: c.App.Writer, Stderr: c.App.ErrWriter, Signals: signals, Exit: os.Exit,
			})
			if code != 0 {
				return exitError(code)
			}
			return nil
		},
	}
}
