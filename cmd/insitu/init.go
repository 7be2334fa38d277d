package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/newapp"
	"github.com/insitu-ml/insitu/internal/serve"
)

const initHelp = `Writes a new ML app into FOLDER: a learner with tests and sample data, insitu.yaml, and the files for GitOps and portals.
It runs as it is, with insitu run.

On a terminal it asks for what no flag says; --yes takes the defaults instead.
Files that are there with other content are left alone, and then nothing is written: --force overwrites them.
With --format, FOLDER gets a template that makes the same files in Backstage or TAP; the other flags are the defaults of its form.

Examples:

  insitu init                                              # asks
  insitu init harvests --learner boosting --yes
  insitu init ml/digits --name digits --learner cnn --repository https://git.example.com/ml/digits --branch main --yes
  insitu init heat --learner regression --dataset s3://data/heat.csv --approval required --yes
  insitu init templates --format backstage --owner group:default/data-science
  insitu init templates --format accelerator`

// What insitu init writes, by the flag --format.
const (
	formatApp         = "app"
	formatBackstage   = "backstage"
	formatAccelerator = "accelerator"
)

func initCommand() *cli.Command {
	flags := []cli.Flag{
		&cli.StringFlag{Name: "format", Usage: "`WHAT` is written: app, or a template that makes apps: backstage, accelerator (TAP)", Value: formatApp},
		&cli.BoolFlag{Name: "force", Usage: "overwrite files that are there with other content", DisableDefaultText: true},
		&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "ask nothing: what no flag says has its default", DisableDefaultText: true},
	}
	for _, o := range newapp.Options() {
		usage := o.Description
		for _, c := range o.Choices {
			usage += fmt.Sprintf(" %s: %s;", c.Value, c.Title)
		}
		usage = strings.TrimSuffix(strings.TrimSuffix(usage, ";"), ".")
		if o.Name == "name" {
			usage += "; by default that of the folder"
		}
		flags = append(flags, &cli.StringFlag{Name: o.Name, Usage: usage, DefaultText: o.Default})
	}
	return &cli.Command{
		Name:        "init",
		Usage:       "write a new ML app, or a template for portals that writes one",
		ArgsUsage:   "[FOLDER]",
		Description: initHelp,
		Flags:       flags,
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return fault.AsConfiguration(fmt.Errorf("%q: expected one folder", c.Args().Slice()))
			}
			values := newapp.Values{}
			for _, o := range newapp.Options() {
				if c.IsSet(o.Name) {
					values[o.Name] = c.String(o.Name)
				}
			}
			switch format := c.String("format"); format {
			case formatApp:
				return initApp(c, values)
			case formatBackstage:
				return initTemplate(c, values, newapp.Backstage)
			case formatAccelerator:
				return initTemplate(c, values, newapp.Accelerator)
			default:
				return fault.AsConfiguration(fmt.Errorf("--format %q: expected %s, %s or %s", format, formatApp, formatBackstage, formatAccelerator))
			}
		},
	}
}

// initApp writes an ML app, after asking for what is missing.
func initApp(c *cli.Context, values newapp.Values) error {
	dir := c.Args().First()
	if _, given := values["name"]; !given && dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return fault.AsConfiguration(err)
		}
		values["name"] = filepath.Base(abs)
	}
	if stdin, ok := c.App.Reader.(*os.File); ok && term.IsTerminal(int(stdin.Fd())) && !c.Bool("yes") {
		if err := ask(stdin, c.App.ErrWriter, values); err != nil {
			return err
		}
	}
	if values["name"] == "" {
		return fault.AsConfiguration(errors.New("the ML app has no name: expected a folder, as in insitu init my-app, or --name"))
	}
	if dir == "" {
		dir = values["name"]
	}
	files, err := newapp.App(values, serve.OpenAPI())
	if err != nil {
		return err
	}
	written, err := newapp.Write(dir, files, c.Bool("force"))
	if err != nil {
		return err
	}
	printWritten(c.App.Writer, fmt.Sprintf("ML app %s in %s", values["name"], dir), written)
	fmt.Fprintf(c.App.Writer, "\nNext:\n  insitu run --app %s   # the whole pipeline on this machine\n  cd %s && python3 -m pytest   # the learner alone\n", dir, dir)
	if values["dataset"] != "" {
		fmt.Fprintf(c.App.Writer, "  describe %s under input and dataset in %s\n", values["dataset"], filepath.Join(dir, "insitu.yaml"))
	}
	for _, o := range newapp.Options() {
		if chosen := values[o.Name]; o.Name == "repository" && (chosen == "" || chosen == o.Default) {
			fmt.Fprintf(c.App.Writer, "  set the URL of your repository in %s before kapp deploys it\n", filepath.Join(dir, "pipeline_app.yaml"))
		}
	}
	return nil
}

// initTemplate writes a template for a portal. There is nothing to ask: who uses the template is asked.
func initTemplate(c *cli.Context, values newapp.Values, template func(newapp.Values, []byte) (map[string][]byte, error)) error {
	dir := c.Args().First()
	if dir == "" {
		return fault.AsConfiguration(errors.New("expected the folder that the template is written to, as in insitu init templates --format " + c.String("format")))
	}
	files, err := template(values, serve.OpenAPI())
	if err != nil {
		return err
	}
	written, err := newapp.Write(dir, files, c.Bool("force"))
	if err != nil {
		return err
	}
	printWritten(c.App.Writer, fmt.Sprintf("Template for %s in %s", c.String("format"), dir), written)
	return nil
}

func printWritten(out io.Writer, what string, w newapp.Written) {
	if len(w.New)+len(w.Changed) == 0 {
		fmt.Fprintf(out, "%s: nothing to do, all %d files are as they should be.\n", what, len(w.Same))
		return
	}
	fmt.Fprintf(out, "%s: %d files new, %d overwritten, %d as they should be.\n", what, len(w.New), len(w.Changed), len(w.Same))
	for _, name := range w.New {
		fmt.Fprintln(out, "  new         ", name)
	}
	for _, name := range w.Changed {
		fmt.Fprintln(out, "  overwritten ", name)
	}
}

// ask puts a question for each option that has no value yet, again until the answer will do. An empty answer is the default.
func ask(in io.Reader, out io.Writer, values newapp.Values) error {
	var problems []error // of the flags, before any question
	for _, o := range newapp.Options() {
		if value, given := values[o.Name]; given {
			problems = append(problems, o.Check(value))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fault.AsConfiguration(err)
	}
	lines, page := bufio.NewScanner(in), ""
	for _, o := range newapp.Options() {
		if _, given := values[o.Name]; given {
			continue
		}
		if o.Page != page {
			page = o.Page
			fmt.Fprintf(out, "\n%s\n", page)
		}
		for {
			question(out, o)
			if !lines.Scan() {
				fmt.Fprintln(out)
				return fault.AsConfiguration(errors.Join(fmt.Errorf("no answer for %s: nothing was written", o.Name), lines.Err()))
			}
			value := strings.TrimSpace(lines.Text())
			if n, err := strconv.Atoi(value); err == nil && n >= 1 && n <= len(o.Choices) {
				value = o.Choices[n-1].Value
			}
			if value == "" {
				value = o.Default
			}
			err := o.Check(value)
			if err == nil {
				values[o.Name] = value
				break
			}
			fmt.Fprintf(out, "  %v\n", err)
		}
	}
	return nil
}

func question(out io.Writer, o newapp.Option) {
	fmt.Fprintf(out, "  %s: %s\n", o.Title, o.Description)
	width := 0
	for _, c := range o.Choices {
		width = max(width, len(c.Value))
	}
	for i, c := range o.Choices {
		fmt.Fprintf(out, "    %d  %-*s  %s\n", i+1, width, c.Value, c.Title)
	}
	if o.Default != "" {
		fmt.Fprintf(out, "  [%s]", o.Default)
	}
	fmt.Fprint(out, "  > ")
}
