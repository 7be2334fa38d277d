package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/localrun"
	"github.com/insitu-ml/insitu/internal/localservices"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/steps"
)

const defaultWorkflow = "in-database-pipeline.yaml"

// explainFlag stands for --help of run: cli/v2 would answer that before it knows the workflow, whose parameters belong in the help.
const explainFlag = "explain"

const runHelp = `Runs a WorkflowTemplate, the same file that Argo Workflows runs on Kubernetes, as processes of this machine.

Without --bindings it first starts local services: PostgreSQL for training and for inference, an S3 server, MLflow.
They keep running for the next run; insitu stop ends them.

Examples:

  insitu run --app examples/digits
  insitu run --app examples/digits -p epochs=3 -p 'parameters={"learning_rate": 0.01}'
  insitu run --app examples/digits -p 'sweep={"learning_rate": [0.01, 0.003], "epochs": [5, 10]}'
  insitu run --app examples/cifar10 --dataset https://example.org/cifar-10-binary.tar.gz
  insitu run my-workflow.yaml --app my-app -p min-accuracy=0.9
  insitu run --app my-app --bindings /etc/bindings -p training-binding=greenplum`

func runCommand(kill <-chan struct{}) *cli.Command {
	flags := append([]cli.Flag{
		&cli.StringFlag{Name: "app", Usage: "`FOLDER` of the ML app", Value: "."},
		&cli.StringFlag{Name: "dataset", Usage: "`PATH` or URL of the data, instead of what the ML app names"},
		&cli.StringSliceFlag{Name: "parameter", Aliases: []string{"p"}, Usage: "workflow parameter, `NAME=VALUE`; may be repeated"},
		&cli.StringFlag{Name: "bindings", Usage: "`DIRECTORY` with service bindings of your own services; no local services are started", EnvVars: []string{"SERVICE_BINDING_ROOT"}},
		&cli.StringFlag{Name: "bin", Usage: "`DIRECTORY` with the steps' programs; by default that of insitu itself"},
		&cli.StringFlag{Name: "output", Usage: "`DIRECTORY` for run.json, logs and reports", Value: ".insitu"},
		&cli.BoolFlag{Name: "in-memory", Usage: "afterwards train once more outside the database, on the same packs, and compare the results bit for bit", DisableDefaultText: true},
		&cli.StringFlag{Name: "python", Usage: "`PROGRAM` for --in-memory; by default the one that scripts/install.sh set up"},
		&cli.BoolFlag{Name: "plain", Usage: "a line for each event instead of progress bars, as without a terminal and with NO_COLOR or CI set", DisableDefaultText: true},
		&cli.BoolFlag{Name: explainFlag, Hidden: true},
	}, serviceFlags()...)
	return &cli.Command{
		Name:        "run",
		Usage:       "run the pipeline on this machine",
		ArgsUsage:   "[WORKFLOW.yaml]",
		Description: runHelp,
		Flags:       flags,
		Action: func(c *cli.Context) error {
			if c.Bool(explainFlag) {
				return showRunHelp(c)
			}
			r := &pipelineRun{c: c, kill: kill, stdout: c.App.Writer, stderr: c.App.ErrWriter}
			return r.run(c.Context)
		},
	}
}

// pipelineRun is one insitu run.
type pipelineRun struct {
	c              *cli.Context
	kill           <-chan struct{}
	stdout, stderr io.Writer

	workflow *localrun.Workflow
	app      *mlapp.App
	set      map[string]bool // parameters the user chose
	services *localservices.Services
	bindings string
}

func (r *pipelineRun) run(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	bin, err := r.bin()
	if err != nil {
		return err
	}
	if err := r.findServices(ctx); err != nil {
		return err
	}
	store, err := openStore(ctx, r.bindings)
	if err != nil {
		return err
	}
	if err := r.uploadApp(ctx, store); err != nil {
		return err
	}
	output, err := filepath.Abs(r.c.String("output"))
	if err != nil {
		return err
	}
	name := r.workflow.Name + "-" + suffix()
	tasks := r.workflow.Tasks()
	show := r.display(tasks)
	began := time.Now()
	result, err := r.workflow.Run(ctx, localrun.Options{
		Name: name, Bin: bin, Dir: filepath.Join(output, "runs", name),
		Mounts: map[string]string{"/bindings": r.bindings}, Env: r.environment(),
		Artifacts: store, Kill: r.kill,
		Observe: func(e localrun.Event) {
			if e.Task != localrun.ExitTask || e.Changed { // what the exit handler says is in its log, and much of it below
				show.observe(e)
			}
		},
	})
	show.close()
	if result == nil {
		return err
	}
	s := r.summarise(result, time.Since(began))
	if writeErr := s.write(filepath.Join(output, "run.json")); writeErr != nil {
		err = errors.Join(err, writeErr)
	}
	if err != nil && result.ExitCode == 0 {
		return err
	}
	if result.ExitCode != 0 {
		if ctx.Err() != nil {
			fmt.Fprintln(r.stderr, "\ninsitu: stopped; the same command goes on where this run ended")
			return exitError(exitInterrupted)
		}
		if err := printFailure(r.stderr, result, time.Since(began), filepath.Join(output, "runs", name)); err != nil {
			return err
		}
		return exitError(result.ExitCode)
	}
	r.printSummary(ctx, s, result, filepath.Join(output, "run.json"))
	if r.c.Bool("in-memory") {
		return r.compareInMemory(ctx, result)
	}
	return nil
}

// prepare reads the workflow and the ML app and checks all that can be checked before anything is touched.
func (r *pipelineRun) prepare(ctx context.Context) error {
	if r.c.NArg() > 1 {
		return fault.AsConfiguration(fmt.Errorf("%q: expected one workflow file; parameters are given as -p name=value", r.c.Args().Slice()))
	}
	file, err := workflowFile(r.c.Args().First())
	if err != nil {
		return fault.AsConfiguration(err)
	}
	if r.workflow, err = localrun.Load(file); err != nil {
		return fault.AsConfiguration(err)
	}
	if r.set, err = setParameters(r.workflow, r.c.StringSlice("parameter")); err != nil {
		return err
	}
	if r.app, err = mlapp.Load(r.c.String("app")); err != nil {
		return fault.AsConfiguration(err)
	}
	schema := tenant(r.app.Manifest.Name)
	defaults := map[string]string{
		"app": r.c.String("app"), "schema": schema, "inference-schema": schema, "git-sha": commit(ctx, r.c.String("app")),
	}
	if dataset := r.c.String("dataset"); dataset != "" {
		defaults["dataset"] = dataset
	}
	if r.c.String("bindings") == "" {
		defaults["training-binding"], defaults["inference-binding"] = localservices.TrainingBinding, localservices.InferenceBinding
	}
	for _, p := range r.workflow.Parameters() {
		value, has := defaults[p.Name]
		if !has || r.set[p.Name] {
			continue
		}
		if err := r.workflow.Set(p.Name, value); err != nil {
			return fault.AsConfiguration(err)
		}
	}
	if r.has("dataset") {
		dataset, err := sourceURL(r.workflow.Value("dataset"))
		if err != nil {
			return fault.AsConfiguration(err)
		}
		if u, err := url.Parse(dataset); err == nil && u.Scheme == "file" {
			if _, err := os.Stat(u.Path); err != nil {
				return fault.AsConfiguration(fmt.Errorf("dataset: %w", err))
			}
		}
		if err := r.workflow.Set("dataset", dataset); err != nil {
			return fault.AsConfiguration(err)
		}
	}
	if err := checkParameters(r.workflow, steps.All()); err != nil {
		return err
	}
	if err := r.workflow.Waits(); err != nil {
		return fault.AsConfiguration(err)
	}
	return checkHyperParameters(r.workflow, &r.app.Manifest)
}

func (r *pipelineRun) has(parameter string) bool {
	for _, p := range r.workflow.Parameters() {
		if p.Name == parameter {
			return true
		}
	}
	return false
}

// workflowFile is the named file, else the pipeline that ships: below the current directory or beside the program.
func workflowFile(name string) (string, error) {
	if name != "" {
		return name, nil
	}
	candidates := []string{filepath.Join("workflows", defaultWorkflow)}
	if exe, err := os.Executable(); err == nil {
		candidates = append(candidates, filepath.Join(filepath.Dir(exe), "..", "workflows", defaultWorkflow), filepath.Join(filepath.Dir(exe), "workflows", defaultWorkflow))
	}
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			return c, nil
		}
	}
	return "", fmt.Errorf("no %s in the folder workflows here or beside the program: name a workflow file", defaultWorkflow)
}

// bin is the directory of the steps' programs.
func (r *pipelineRun) bin() (string, error) {
	if dir := r.c.String("bin"); dir != "" {
		return filepath.Abs(dir)
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the steps' programs: %w", err)
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return "", fmt.Errorf("find the steps' programs: %w", err)
	}
	return filepath.Dir(exe), nil
}

// findServices uses the user's service bindings, else starts local services.
func (r *pipelineRun) findServices(ctx context.Context) error {
	if dir := r.c.String("bindings"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return fault.AsConfiguration(err)
		}
		if _, err := os.Stat(abs); errors.Is(err, fs.ErrNotExist) {
			return fault.AsConfiguration(fmt.Errorf("service bindings: there is no directory %s", abs))
		}
		r.bindings = abs
		return nil
	}
	services, err := localservices.Start(ctx, serviceOptions(r.c))
	if err != nil {
		return fmt.Errorf("local services: %w", err)
	}
	r.services, r.bindings = services, services.BindingRoot
	return nil
}

// uploadApp puts the ML app where every step finds the same files, named by their content.
func (r *pipelineRun) uploadApp(ctx context.Context, store fileStore) error {
	if !r.has("app") || r.set["app"] {
		return nil
	}
	packed, err := mlapp.Pack(r.c.String("app"))
	if err != nil {
		return err
	}
	url, err := store.putApp(ctx, packed)
	if err != nil {
		return fmt.Errorf("upload ML app: %w", err)
	}
	return r.workflow.Set("app", url)
}

// environment is what the steps see of the user's: where programs are and how the network and data catalogs are reached.
func (r *pipelineRun) environment() []string {
	pass := []string{"PATH", "LANG", "LC_ALL", "TZ", "JAVA_HOME", "INSITU_LIQUIBASE", "INSITU_TOOLS", "SSL_CERT_FILE", "SSL_CERT_DIR",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
		"OPENLINEAGE_URL", "OPENLINEAGE_ENDPOINT", "OPENLINEAGE_API_KEY", "OPENLINEAGE_NAMESPACE", "DATAHUB_GMS_URL", "DATAHUB_GMS_TOKEN"}
	var out []string
	for _, name := range pass {
		if value, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+value)
		}
	}
	if _, set := os.LookupEnv("INSITU_LIQUIBASE"); !set {
		installed := filepath.Join(r.c.String("tools"), "liquibase")
		if _, err := os.Stat(installed); err == nil {
			out = append(out, "INSITU_LIQUIBASE="+installed)
		}
	}
	return out
}

// display is bars on a terminal that is high enough, else plain lines.
func (r *pipelineRun) display(tasks []string) display {
	f, ok := r.stderr.(*os.File)
	if r.c.Bool("plain") || !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("CI") != "" || os.Getenv("TERM") == "dumb" {
		return newPlain(r.stderr, tasks)
	}
	if _, height, err := term.GetSize(int(f.Fd())); err != nil || height <= len(tasks) {
		return newPlain(r.stderr, tasks)
	}
	return newBars(r.stderr, tasks)
}

// suffix tells runs apart: the time, and chance for two in one second.
func suffix() string {
	b := make([]byte, 2)
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
	return time.Now().UTC().Format("20060102-150405") + "-" + hex.EncodeToString(b)
}

// showRunHelp prints the command's help and the workflow's parameters.
func showRunHelp(c *cli.Context) error {
	cli.HelpPrinter(c.App.Writer, cli.CommandHelpTemplate, c.Command)
	file, err := workflowFile(c.Args().First())
	if err != nil {
		return fault.AsConfiguration(err)
	}
	w, err := localrun.Load(file)
	if err != nil {
		return fault.AsConfiguration(err)
	}
	fmt.Fprintf(c.App.Writer, "\nPARAMETERS of %s (-p name=value):\n\n", file)
	for _, p := range w.Parameters() {
		fmt.Fprintf(c.App.Writer, "   %-18s %s", p.Name, p.Description)
		switch {
		case p.Required || localDefault(p.Name) != "":
			fmt.Fprintf(c.App.Writer, " (default: %s)", orText(localDefault(p.Name), "none"))
		case p.Default != "":
			fmt.Fprintf(c.App.Writer, " (default: %s)", p.Default)
		}
		if len(p.Enum) > 0 {
			fmt.Fprintf(c.App.Writer, " One of: %s.", strings.TrimPrefix(strings.Join(p.Enum, ", "), ", "))
		}
		fmt.Fprintln(c.App.Writer)
	}
	if app, err := mlapp.Load(c.String("app")); err == nil {
		fmt.Fprintf(c.App.Writer, "\nHYPER-PARAMETERS of the ML app %q (-p 'parameters={\"name\": value}'):\n\n", app.Manifest.Name)
		all := app.Manifest.AllParameters()
		for _, name := range slices.Sorted(maps.Keys(all)) {
			fmt.Fprintf(c.App.Writer, "   %-18s %s (%s, default: %v)\n", name, all[name].Description, all[name].Type, all[name].Default)
		}
	}
	return nil
}

// localDefault says what insitu run gives a parameter that is not set.
func localDefault(name string) string {
	switch name {
	case "app":
		return "the folder of --app, uploaded to object storage"
	case "schema", "inference-schema":
		return "the ML app's name"
	case "git-sha":
		return "the commit of the ML app's folder, if it has no other changes"
	case "training-binding":
		return localservices.TrainingBinding + " without --bindings"
	case "inference-binding":
		return localservices.InferenceBinding + " without --bindings"
	}
	return ""
}

func orText(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
