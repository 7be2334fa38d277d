package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/localservices"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/serve"
)

// inferenceProvider is the binding on a platform, as for the steps.
const inferenceProvider = "postgres/vmware"

// tokenEnv is no flag: the process list shows those.
const tokenEnv = "INSITU_TOKEN"

const serveHelp = `Serves the active model of a schema in the inference database: a page at / to drop pictures on, POST /inference, POST /v1/predict, GET /v1/model;
/docs describes them. The model stays in the database; its SQL functions answer.

Without --bindings it uses the local services that insitu run started on this machine.

INSITU_TOKEN, or the file named by INSITU_TOKEN_FILE, is a bearer token that predicting then takes.

The first SIGTERM or SIGINT turns /readyz to 503; after --drain no new requests are taken, and those under way are finished.
A second one exits at once.

Examples:

  insitu run --app examples/digits && insitu serve --inference-schema digits
  curl -F file=@picture.png http://127.0.0.1:8080/inference
  insitu serve --inference-schema team-a --bindings /etc/bindings --listen :8080 --sessions 8
  INSITU_TOKEN_FILE=/run/secrets/token insitu serve --inference-schema team-a --bindings /etc/bindings`

func serveCommand(kill <-chan struct{}) *cli.Command {
	return &cli.Command{
		Name:        "serve",
		Usage:       "answer HTTP requests with predictions of the inference database",
		Description: serveHelp,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "inference-schema", Usage: "`SCHEMA` in the inference database (required)", EnvVars: []string{"INSITU_INFERENCE_SCHEMA"}},
			&cli.StringFlag{Name: "bindings", Usage: "`DIRECTORY` with service bindings", EnvVars: []string{"SERVICE_BINDING_ROOT"}},
			&cli.StringFlag{Name: "inference-binding", Usage: "`TYPE` or TYPE/PROVIDER of the inference database's service binding", DefaultText: inferenceProvider, EnvVars: []string{"INSITU_INFERENCE_BINDING"}},
			&cli.StringFlag{Name: "listen", Usage: "`HOST:PORT` to accept connections on; :8080 is every address of the machine", Value: "127.0.0.1:8080", EnvVars: []string{"INSITU_LISTEN"}},
			&cli.IntFlag{Name: "sessions", Usage: "database sessions: how many requests are predicted at the same time", Value: 4, EnvVars: []string{"INSITU_SESSIONS"}},
			&cli.IntFlag{Name: "queue", Usage: "requests that may wait for a session; more get status 503", Value: 16, EnvVars: []string{"INSITU_QUEUE"}},
			&cli.DurationFlag{Name: "request-timeout", Usage: "for reading a request, waiting and predicting", Value: 10 * time.Second, EnvVars: []string{"INSITU_REQUEST_TIMEOUT"}},
			&cli.Int64Flag{Name: "max-request-bytes", Usage: "larger requests get status 413", Value: 10 << 20, EnvVars: []string{"INSITU_MAX_REQUEST_BYTES"}},
			&cli.StringSliceFlag{Name: "cors-origin", Usage: "`ORIGIN` of another site whose pages may read answers, such as https://app.example.com; repeated, or separated by commas", EnvVars: []string{"INSITU_CORS_ORIGIN"}},
			&cli.StringFlag{Name: "mlflow-url", Usage: "`URL` of MLflow's pages, as the users' browsers reach it: the page at / then leads to the model's evaluation report", DefaultText: "that of the local services, if those are used", EnvVars: []string{"INSITU_MLFLOW_URL"}},
			&cli.DurationFlag{Name: "drain", Usage: "how long requests are still taken after the first signal", Value: 5 * time.Second, EnvVars: []string{"INSITU_DRAIN"}},
			&cli.StringFlag{Name: "log-level", Usage: "`LEVEL` of the log on standard error: debug, info, warn, error", Value: "info", EnvVars: []string{"INSITU_LOG_LEVEL"}},
		}, serviceFlags()...),
		Action: func(c *cli.Context) error {
			config, err := serveConfig(c)
			if err != nil {
				return err
			}
			ended := make(chan error, 1)
			go func() { ended <- serve.Run(c.Context, config) }()
			select {
			case err := <-ended:
				return err
			case <-kill:
				return exitError(exitInterrupted)
			}
		},
	}
}

func serveConfig(c *cli.Context) (serve.Config, error) {
	if c.NArg() > 0 {
		return serve.Config{}, fault.AsConfiguration(fmt.Errorf("%q: expected flags only", c.Args().Slice()))
	}
	schema := c.String("inference-schema")
	if schema == "" {
		return serve.Config{}, fault.AsConfiguration(errors.New("--inference-schema: expected the schema that the model was deployed to"))
	}
	level, err := zapcore.ParseLevel(c.String("log-level"))
	if err != nil {
		return serve.Config{}, fault.AsConfiguration(fmt.Errorf("--log-level: %w", err))
	}
	token, err := secret(tokenEnv)
	if err != nil {
		return serve.Config{}, fault.AsConfiguration(err)
	}
	root, selector, mlflow, err := inferenceBinding(c)
	if err != nil {
		return serve.Config{}, err
	}
	database := func() (postgres.Config, error) { return databaseConfig(root, selector) }
	if _, err := database(); err != nil {
		return serve.Config{}, err
	}
	return serve.Config{
		Listen: c.String("listen"), Database: database, Schema: schema, Token: token,
		Origins: c.StringSlice("cors-origin"), MLflowURL: cmp.Or(c.String("mlflow-url"), mlflow),
		Sessions: c.Int("sessions"), Queue: c.Int("queue"), RequestTimeout: c.Duration("request-timeout"),
		MaxRequestBytes: c.Int64("max-request-bytes"), Drain: c.Duration("drain"), Log: jsonLog(c.App.ErrWriter, level),
	}, nil
}

// inferenceBinding is where the inference database's binding is: the given one, or that of this machine's local services.
// Of these, mlflow is where MLflow's pages are.
func inferenceBinding(c *cli.Context) (root, selector, mlflow string, err error) {
	root, selector = c.String("bindings"), c.String("inference-binding")
	if root != "" {
		return root, cmp.Or(selector, inferenceProvider), "", nil
	}
	services, running, err := localservices.Status(serviceOptions(c))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", "", err
	}
	if !running["inference"] {
		return "", "", "", fault.AsConfiguration(fmt.Errorf("no service bindings and no local inference database in %s: set --bindings, or start the local services with insitu services start", c.String("state")))
	}
	if running["mlflow"] {
		mlflow = services.MLflowURL
	}
	return services.BindingRoot, cmp.Or(selector, localservices.InferenceBinding), mlflow, nil
}

// secret is the value of an environment variable or of the file that the variable with _FILE names.
func secret(env string) (string, error) {
	if value := os.Getenv(env); value != "" {
		return value, nil
	}
	file := os.Getenv(env + "_FILE")
	if file == "" {
		return "", nil
	}
	value, err := binding.ReadValueFile(file)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", env, err)
	}
	if value == "" { // a service that should ask for a token must not start without one
		return "", fmt.Errorf("%s_FILE: %s is empty", env, file)
	}
	return value, nil
}

// jsonLog writes one JSON object a line, as the steps do.
func jsonLog(w io.Writer, level zapcore.Level) *zap.Logger {
	encoder := zap.NewProductionEncoderConfig()
	encoder.TimeKey = "time"
	encoder.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder.EncodeDuration = zapcore.StringDurationEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoder), zapcore.Lock(zapcore.AddSync(w)), level))
}
