package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/localservices"
)

func stopCommand() *cli.Command {
	return &cli.Command{
		Name:  "stop",
		Usage: "stop the local services that insitu run started; their data stays",
		Flags: append(serviceFlags(), &cli.BoolFlag{Name: "purge", Usage: "remove their data too: databases, models, files", DisableDefaultText: true}),
		Action: func(c *cli.Context) error {
			// Nothing is removed but what insitu made.
			if _, _, err := localservices.Status(serviceOptions(c)); errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintf(c.App.Writer, "There are no local services in %s.\n", c.String("state"))
				return nil
			}
			if err := localservices.Stop(c.Context, serviceOptions(c)); err != nil {
				return err
			}
			if c.Bool("purge") {
				if err := os.RemoveAll(c.String("state")); err != nil {
					return fmt.Errorf("remove the local services' data: %w", err)
				}
				fmt.Fprintf(c.App.Writer, "The local services are stopped and %s is removed.\n", c.String("state"))
				return nil
			}
			fmt.Fprintf(c.App.Writer, "The local services are stopped. Their data is in %s.\n", c.String("state"))
			return nil
		},
	}
}
