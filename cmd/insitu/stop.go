package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/localservices"
)

func stopCommand() *cli.Command {
	return &cli.Command{
		Name:  "stop",
		Usage: "stop the local services that insitu run started; their data stays",
		Flags: serviceFlags(),
		Action: func(c *cli.Context) error {
			if err := localservices.Stop(c.Context, serviceOptions(c)); err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "The local services are stopped. Their data is in %s.\n", c.String("state"))
			return nil
		},
	}
}
