// Command insitu is the user's tool: it writes new ML apps, runs the pipeline on this machine, starts and stops local services, serves predictions, goes back to former models, finds the databases that data catalogs name, and shows what runs where.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/fault"
)

func main() {
	ctx, kill, stop := interruptible()
	code := execute(ctx, kill, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Exit codes, as those of the steps.
const (
	exitFailed        = 1
	exitConfiguration = 2
	exitTemporary     = 75
	exitInterrupted   = 130
)

// exitError carries the exit code of something that has already been reported.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// execute runs one command line and returns its exit code. kill is closed when the user insists on ending at once.
func execute(ctx context.Context, kill <-chan struct{}, args []string, stdout, stderr io.Writer) int {
	app := &cli.App{
		Name:                      "insitu",
		Usage:                     "train, gate and serve models inside Greenplum and PostgreSQL",
		Writer:                    stdout,
		ErrWriter:                 stderr,
		HideHelpCommand:           true,
		DisableSliceFlagSeparator: true, // -p split=0.7,0.15,0.15 is one value
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              usageError,
		Commands:                  []*cli.Command{initCommand(), runCommand(kill), stopCommand(), servicesCommand(), summaryCommand(), smokeCommand(), monitorCommand(), serveCommand(kill), rollbackCommand(), pgadminCommand(), statusCommand(), catalogCommand()},
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return fault.AsConfiguration(fmt.Errorf("no command %q; insitu --help lists them", name))
			}
			return cli.ShowAppHelp(c)
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = usageError
	}
	err := app.RunContext(ctx, flagsFirst(app, args))
	var done exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &done):
		return int(done)
	}
	fmt.Fprintln(stderr, "insitu:", err)
	if ctx.Err() != nil {
		return exitInterrupted
	}
	switch fault.Of(err) {
	case fault.Configuration:
		return exitConfiguration
	case fault.Temporary:
		return exitTemporary
	}
	return exitFailed
}

func usageError(c *cli.Context, err error, _ bool) error {
	return fault.AsConfiguration(fmt.Errorf("%w; see %s --help", err, c.Command.HelpName))
}

// flagsFirst puts the flags of a command before its other arguments: cli/v2 takes everything after the first
// argument that is no flag for an argument.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) < 2 {
		return args
	}
	command := app.Command(args[1])
	if command == nil || len(command.Subcommands) > 0 || command.SkipFlagParsing {
		return args
	}
	takesValue := map[string]bool{}
	for _, f := range command.Flags {
		d, ok := f.(cli.DocGenerationFlag)
		for _, name := range f.Names() {
			takesValue[name] = ok && d.TakesValue()
		}
	}
	out, rest := append([]string{}, args[:2]...), []string{}
	for i := 2; i < len(args); i++ {
		name := trimDashes(args[i])
		switch {
		case command.Name == "run" && (name == "help" || name == "h") && name != args[i]:
			out = append(out, "--"+explainFlag)
		case args[i] == "--":
			return append(append(out, args[i]), append(rest, args[i+1:]...)...)
		case name == args[i] || name == "":
			rest = append(rest, args[i])
		case takesValue[name] && i+1 < len(args):
			out = append(out, args[i], args[i+1])
			i++
		default:
			out = append(out, args[i])
		}
	}
	return append(out, rest...)
}

func trimDashes(arg string) string {
	for range 2 {
		if len(arg) > 0 && arg[0] == '-' {
			arg = arg[1:]
		}
	}
	return arg
}

// interruptible returns a context that the first SIGINT or SIGTERM cancels, and a channel that the second closes.
func interruptible() (ctx context.Context, kill <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	second := make(chan struct{})
	go func() {
		<-signals
		cancel()
		<-signals
		close(second)
	}()
	return ctx, second, func() { signal.Stop(signals); cancel() }
}
