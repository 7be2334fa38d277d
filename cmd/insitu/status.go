package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/localservices"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/status"
)

const statusHelp = `Shows in one table what runs where: the newest pipeline runs with commit and result, the App CR, the inference API, pgAdmin,
MLflow and the databases.

With a kubeconfig, or in a pod, it is about a namespace of that Kubernetes cluster; else, and with --local, about this machine:
the last insitu run, and the services that it started or those of --bindings.
A part that does not answer within seconds, or that you may not look at, is a row that says so. Nothing is changed.

In the cluster it reads Deployments, Services, Workflows, Apps and the Secrets of the service bindings, and asks the services
through the API server, as far as you have the right to.

STATE is ready, not ready, not there (optional, not installed or not started) or unknown (it cannot be told from here);
of runs and Apps it is Pending, Running, Succeeded, Failed or Error.

Exit codes: 0 all that is there is ready, and neither the newest run nor an App failed; 1 something is not ready or failed;
2 settings are wrong; 75 the cluster does not answer.

Examples:

  insitu status
  insitu status -n ml
  insitu status --local -o json
  insitu status -n ml -o json | jq -r '.parts[] | select(.part == "run") | .sha + " " + .state'`

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:        "status",
		Usage:       "show what runs where",
		Description: statusHelp,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT`: table or json", Value: "table"},
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "`NAME` of the Kubernetes namespace", DefaultText: "that of the kubeconfig's context"},
			&cli.StringFlag{Name: "kubeconfig", Usage: "`FILE` as for kubectl", DefaultText: "KUBECONFIG, then ~/.kube/config"},
			&cli.BoolFlag{Name: "local", Usage: "about this machine, whatever the kubeconfig", DisableDefaultText: true},
			&cli.StringFlag{Name: "runs", Usage: "`DIRECTORY` that insitu run wrote run.json to", Value: ".insitu"},
			&cli.StringFlag{Name: "bindings", Usage: "`DIRECTORY` with service bindings; this machine's local services are then left out", EnvVars: []string{"SERVICE_BINDING_ROOT"}},
			&cli.StringFlag{Name: "training-binding", Usage: "`TYPE` or TYPE/PROVIDER of the training database's service binding", DefaultText: trainingProvider, EnvVars: []string{"INSITU_TRAINING_BINDING"}},
			&cli.StringFlag{Name: "inference-binding", Usage: "`TYPE` or TYPE/PROVIDER of the inference database's service binding", DefaultText: inferenceProvider, EnvVars: []string{"INSITU_INFERENCE_BINDING"}},
			&cli.StringFlag{Name: "mlflow-binding", Usage: "`TYPE` or TYPE/PROVIDER of the model registry's service binding", Value: "mlflow", EnvVars: []string{"INSITU_MLFLOW_BINDING"}},
			&cli.StringFlag{Name: "api-url", Usage: "`URL` of insitu serve on this machine", Value: "http://127.0.0.1:8080", EnvVars: []string{"INSITU_API_URL"}},
			&cli.StringFlag{Name: "pgadmin-url", Usage: "`URL` of pgAdmin on this machine", Value: "http://127.0.0.1:5050", EnvVars: []string{"INSITU_PGADMIN_URL"}},
		}, serviceFlags()...),
		Action: func(c *cli.Context) error {
			format := c.String("output")
			switch {
			case c.NArg() > 0:
				return fault.AsConfiguration(fmt.Errorf("%q: expected flags only", c.Args().Slice()))
			case format != "table" && format != "json":
				return fault.AsConfiguration(fmt.Errorf("-o %q: expected table or json", format))
			case c.Bool("local") && (c.IsSet("kubeconfig") || c.IsSet("namespace")):
				return fault.AsConfiguration(errors.New("--local is about this machine: expected no --kubeconfig and no --namespace with it"))
			}
			report, err := lookAround(c)
			if err != nil {
				return err
			}
			if format == "json" {
				encoder := json.NewEncoder(c.App.Writer)
				encoder.SetIndent("", "  ")
				encoder.SetEscapeHTML(false)
				err = encoder.Encode(report)
			} else {
				err = report.Write(c.App.Writer)
			}
			if err != nil {
				return err
			}
			if !report.Well() {
				return exitError(exitFailed)
			}
			return nil
		},
	}
}

func lookAround(c *cli.Context) (status.Report, error) {
	if c.Bool("local") {
		return localStatus(c)
	}
	cluster, err := status.NewCluster(c.String("kubeconfig"), c.String("namespace"))
	switch {
	case err == nil:
		return clusterStatus(c, cluster)
	case errors.Is(err, status.ErrNoCluster) && c.String("namespace") == "":
		return localStatus(c)
	case errors.Is(err, status.ErrNoCluster):
		return status.Report{}, fault.AsConfiguration(fmt.Errorf("--namespace: %w", err))
	}
	return status.Report{}, err
}

// bound are the parts that service bindings name. Their files are in root.
type bound struct{ root, training, inference, mlflow string }

func (b bound) database(ctx context.Context, part, selector string) status.Part {
	p := status.Part{Part: part}
	config, err := databaseConfig(b.root, selector)
	if err != nil {
		p.State, p.Detail = status.Unknown, err.Error()
		return p
	}
	p.Name = config.Database
	return status.CheckDatabase(ctx, config, p)
}

func (b bound) registry(ctx context.Context) status.Part {
	p := status.Part{Part: status.MLflow}
	v, err := settings(b.root, b.mlflow, "uri", "username", "password", "token")
	if err != nil {
		p.State, p.Detail = status.Unknown, err.Error()
		return p
	}
	m := services.MLflowConfig{URI: v["uri"], Username: v["username"], Password: v["password"], Token: v["token"]}.WithoutCredentials()
	p.URL = strings.TrimRight(m.URI, "/")
	return status.CheckMLflow(ctx, status.Site{Client: http.DefaultClient, URL: p.URL, Username: m.Username, Password: m.Password, Token: m.Token}, p)
}

func (b bound) checks(ctx context.Context) []func() []status.Part {
	return []func() []status.Part{
		func() []status.Part { return []status.Part{b.registry(ctx)} },
		func() []status.Part { return []status.Part{b.database(ctx, status.Training, b.training)} },
		func() []status.Part { return []status.Part{b.database(ctx, status.Inference, b.inference)} },
	}
}

func localStatus(c *cli.Context) (status.Report, error) {
	r := status.Report{Where: "This machine"}
	b := bound{c.String("bindings"), cmp.Or(c.String("training-binding"), trainingProvider), cmp.Or(c.String("inference-binding"), inferenceProvider), c.String("mlflow-binding")}
	var services []func() []status.Part
	if b.root == "" {
		local, _, err := localservices.Status(serviceOptions(c))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			services = append(services, func() (parts []status.Part) {
				for _, part := range []string{status.MLflow, status.Training, status.Inference} {
					parts = append(parts, status.Part{Part: part, State: status.Absent, Detail: "no local services in " + c.String("state")})
				}
				return parts
			})
		case err != nil:
			return r, err
		default:
			b.root, b.training, b.inference = local.BindingRoot, cmp.Or(c.String("training-binding"), localservices.TrainingBinding), cmp.Or(c.String("inference-binding"), localservices.InferenceBinding)
		}
	}
	if b.root != "" {
		services = b.checks(c.Context)
	}
	ask := func(flag string, check func(context.Context, status.Site, status.Part) status.Part) func() []status.Part {
		return func() []status.Part {
			s, p := status.Site{Client: http.DefaultClient, URL: strings.TrimRight(c.String(flag), "/")}, status.Part{}
			if u, err := url.Parse(s.URL); err == nil {
				p.URL = u.Redacted()
			}
			return []status.Part{check(c.Context, s, p)}
		}
	}
	r.Parts = status.Together(append([]func() []status.Part{
		func() []status.Part { return []status.Part{lastRun(c.String("runs"))} },
		ask("api-url", status.CheckAPI),
		ask("pgadmin-url", status.CheckPgAdmin),
	}, services...)...)
	return r, nil
}

// lastRun is the newest insitu run whose files are in dir.
func lastRun(dir string) status.Part {
	p := status.Part{Part: status.Run}
	file := filepath.Join(dir, "run.json")
	text, err := os.ReadFile(file)
	var s runJSON
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.State, p.Detail = status.Absent, "insitu run has not ended a run in "+dir
	case err != nil:
		p.State, p.Detail = status.Unknown, err.Error()
		return p
	default:
		if err := json.Unmarshal(text, &s); err != nil {
			p.State, p.Detail = status.Unknown, fmt.Sprintf("read %s: %v", file, err)
			return p
		}
		p.Name, p.State, p.SHA, p.URL = s.Workflow, "Succeeded", s.GitSHA, s.Report
		if s.ExitCode != 0 {
			p.State, p.Detail = "Failed", fmt.Sprintf("exit code %d", s.ExitCode)
		} else if s.Model.Name != "" {
			p.Detail = fmt.Sprintf("%s version %s, %s", s.Model.Name, s.Model.Version, orText(aliasText(s.Model.Alias), "not promoted"))
		}
	}
	if newer := unfinished(dir, file, s.Workflow); newer != "" {
		return status.Part{Part: status.Run, Name: newer, State: "Running", Detail: "or broken off: " + file + " does not know it yet"}
	}
	return p
}

// unfinished is the newest run with files in dir that began after the run of the file ended, "" for none.
func unfinished(dir, file, known string) (name string) {
	entries, err := os.ReadDir(filepath.Join(dir, "runs"))
	if err != nil {
		return ""
	}
	var newest os.FileInfo
	if ended, err := os.Stat(file); err == nil {
		newest = ended
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.Name() != known && (newest == nil || info.ModTime().After(newest.ModTime())) {
			newest, name = info, e.Name()
		}
	}
	return name
}

func clusterStatus(c *cli.Context, cluster *status.Cluster) (status.Report, error) {
	ctx := c.Context
	r := status.Report{Where: cluster.String()}
	in, err := cluster.Look(ctx)
	if err != nil {
		return r, err
	}
	root, err := os.MkdirTemp("", "insitu-status-") // mode 0700: passwords
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(root)
	if err := writeBindings(root, in.Bindings); err != nil {
		return r, err
	}
	// A part of a binding that the chart does not run itself is asked from here.
	outside := func(name string, check func(bound, string) status.Part, p status.Part) status.Part {
		files, ok := in.Bindings[name]
		if !ok {
			p.State, p.Detail = status.Unknown, in.Missing(name)
			return p
		}
		// Each is looked up in a directory of its own, by the type that it says.
		return check(bound{root: filepath.Join(root, name), mlflow: string(files["type"])}, string(files["type"]))
	}
	database := func(part, name string) func() []status.Part {
		return func() []status.Part {
			if p, ok := in.Database(part, name); ok {
				return []status.Part{p}
			}
			return []status.Part{outside(name, func(b bound, selector string) status.Part { return b.database(ctx, part, selector) }, status.Part{Part: part})}
		}
	}
	r.Parts = status.Together(
		func() []status.Part { return cluster.Runs(ctx) },
		func() []status.Part { return cluster.Apps(ctx) },
		func() []status.Part { return []status.Part{in.API(ctx)} },
		func() []status.Part { return []status.Part{in.PgAdmin(ctx)} },
		func() []status.Part {
			if p, ok := in.MLflow(ctx); ok {
				return []status.Part{p}
			}
			return []status.Part{outside("mlflow", func(b bound, _ string) status.Part { return b.registry(ctx) }, status.Part{Part: status.MLflow})}
		},
		database(status.Training, "training"),
		database(status.Inference, "inference"),
	)
	return r, nil
}

// writeBindings writes the files of Secrets as they would be mounted, one root a binding.
func writeBindings(root string, bindings map[string]map[string][]byte) error {
	for name, files := range bindings {
		dir := filepath.Join(root, name, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		for file, content := range files {
			if !filepath.IsLocal(file) || len(content) > binding.MaxFileBytes {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}
