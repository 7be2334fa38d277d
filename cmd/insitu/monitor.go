package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/localservices"
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/steps/monitor"
)

// exitCrossed is the exit code of insitu monitor --exit-code when there is something to do.
const exitCrossed = 3

// monitorCommand runs a step that has no program of its own, and prints its report.
// Without service bindings it uses the local services, like the other commands.
func monitorCommand() *cli.Command {
	name := monitor.Spec(nil).Name
	return &cli.Command{
		Name:            name,
		Usage:           "measure drift and live accuracy of the model in service, and ask for a retraining",
		SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			signals := make(chan os.Signal, 2)
			signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
			defer signal.Stop(signals)
			var report monitor.Report
			spec := monitor.Spec(func(r monitor.Report) { report = r })
			code := step.Execute(spec, step.Env{
				Args: c.Args().Slice(), LookupEnv: localBindings(os.LookupEnv), Stdout: c.App.Writer, Stderr: c.App.ErrWriter, Signals: signals, Exit: os.Exit,
			})
			fmt.Fprint(c.App.Writer, report.Text)
			switch {
			case code != 0:
				return exitError(code)
			case report.Signal:
				return exitError(exitCrossed)
			}
			return nil
		},
	}
}

// localBindings adds those of the local services to an environment without service bindings, if these services run.
func localBindings(env func(string) (string, bool)) func(string) (string, bool) {
	for _, name := range []string{"SERVICE_BINDING_ROOT", "INSITU_INFERENCE_HOST"} {
		if value, _ := env(name); value != "" {
			return env
		}
	}
	state, _ := env("INSITU_STATE")
	if state == "" {
		state = localservices.DefaultState()
	}
	services, running, err := localservices.Status(localservices.Options{State: state, Tools: localservices.DefaultTools()})
	if err != nil || !running["inference"] {
		return env
	}
	return func(name string) (string, bool) {
		value, ok := env(name)
		switch {
		case value != "":
			return value, ok
		case name == "SERVICE_BINDING_ROOT":
			return services.BindingRoot, true
		case name == "INSITU_INFERENCE_BINDING":
			return localservices.InferenceBinding, true
		}
		return value, ok
	}
}
