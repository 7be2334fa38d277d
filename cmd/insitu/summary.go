package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/summary"
)

const summaryHelp = `The exit handler of the pipeline: says how a workflow ended, which steps failed, and what to do about each.

Argo gives it {{workflow.name}}, {{workflow.namespace}}, {{workflow.status}}, {{workflow.duration}} and {{workflow.failures}}.
It ends with exit code 0 whatever they hold: an exit handler that fails would make a workflow that succeeded a failed one.`

func summaryCommand() *cli.Command {
	flag := func(name, usage string, env string) cli.Flag {
		return &cli.StringFlag{Name: name, Usage: usage, EnvVars: []string{env}}
	}
	return &cli.Command{
		Name:        "summary",
		Usage:       "say how a workflow ended: its exit handler",
		Description: summaryHelp,
		Flags: []cli.Flag{
			flag("workflow", "`NAME` of the workflow", "INSITU_WORKFLOW"),
			flag("namespace", "its `NAMESPACE`", "INSITU_NAMESPACE"),
			flag("status", "`STATUS` it ends with: Succeeded, Failed or Error", "INSITU_STATUS"),
			flag("duration", "`SECONDS` it took", "INSITU_DURATION"),
			flag("failures", "`JSON` of the nodes that failed", "INSITU_FAILURES"),
		},
		Action: func(c *cli.Context) error {
			run, err := summary.FromArgo(c.String("workflow"), c.String("namespace"), c.String("status"), c.String("duration"), c.String("failures"))
			if err != nil {
				fmt.Fprintln(c.App.ErrWriter, "insitu:", err)
			}
			return run.Write(c.App.Writer)
		},
	}
}
