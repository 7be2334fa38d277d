// Package smoke is the step after the pipeline's six: it asks the inference database, as its users do, for some predictions.
// It is part of the program insitu: insitu smoke.
package smoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/assets"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
)

// mostRows is how many files the API takes in one request.
const mostRows = 64

// Spec declares the step.
func Spec() step.Spec {
	one, most := 1.0, float64(mostRows)
	training, mlflow := services.TrainingFlags(), services.MLflowFlags()
	for i := range training {
		training[i].Required = false // it is asked only with --schema
	}
	for i := range mlflow {
		mlflow[i].Required = false // it is asked only about the alias
	}
	flags := []step.Flag{
		{Name: "inference-schema", Usage: "schema in the inference database", Required: true},
		{Name: "schema", Usage: "schema in the training database, whose first test rows are predicted; when unset, one row of zeros"},
		{Name: "model-name", Usage: "registered model that was deployed", Required: true},
		{Name: "model-version", Usage: "version that was deployed", Kind: step.Int, Min: &one, Required: true},
		{Name: "rows", Usage: "test rows to predict", Kind: step.Int, Default: "16", Min: &one, Max: &most},
		{Name: "api-url", Usage: "URL of insitu serve, which is then asked about the same rows; when unset, SQL alone"},
		{Name: "activate", Usage: "whether the version was switched to; false: it was deployed as a challenger", Kind: step.Bool, Default: "true"},
		{Name: "take-back", Usage: "take the deployment back if the answers are wrong: the version that was active before is active again", Kind: step.Bool, Default: "false"},
		{Name: "alias", Usage: "registry alias that must name the version; looked at when there is a model registry", Default: "staging"},
		{Name: "token", Usage: "bearer token of the API, if it wants one", Secret: true},
	}
	flags = append(flags, services.InferenceFlags()...)
	flags = append(flags, training...)
	flags = append(flags, mlflow...)
	return step.Spec{
		Name:    "smoke",
		Summary: "Asks the inference database, and the API if there is one, for predictions by the version that was deployed",
		Description: "It is the pipeline's last task and runs as `insitu smoke`. " +
			"Test rows are predicted by `predict_batch` in one call and by `run_inference_task` one by one, and by `POST /v1/predict` when there is an `--api-url`. " +
			"It fails when an answer is missing, when another version than the deployed one gave it (or the challenger of a canary), and when two ways give different labels (those that a rounding error decides aside).\n\n" +
			"It fails, too, when the registry's alias does not name the version, as after a rollback by Liquibase, and says how to move it.\n\n" +
			"A challenger (`--activate=false`) answers nobody yet, so it is asked by `predict_version`, and `predict_batch` must still give the answers of the active version.\n\n" +
			"It changes nothing, unless `--take-back` is set, as in the pipelines: when answers are missing or wrong, or predicting fails for good (exit code 1), the deployment is taken back as deploy-inference-db does it. " +
			"The version that was active before is active again, the alias goes back to it, a route to the version ends, and the ledger tells why. " +
			"A first version has none before it and stays active. After a temporary failure, such as an API that does not answer (exit code 75), and wrong settings (exit code 2) nothing is taken back.",
		Flags: flags,
		Examples: []step.Example{{
			Text:    "Ask for predictions of version 3, by SQL and by HTTP",
			Command: "insitu smoke --inference-schema=team-a --schema=team-a --model-name=cifar_cnn --model-version=3 --api-url=http://insitu-api",
		}, {
			Text:    "The same, and back to the version before if it fails",
			Command: "insitu smoke --inference-schema=team-a --schema=team-a --model-name=cifar_cnn --model-version=3 --api-url=http://insitu-api --take-back",
		}},
		Run: run,
	}
}

func run(ctx context.Context, in *step.Input) error {
	target, training, mlflow := services.Inference(in), services.Training(in), services.MLflow(in)
	t := test{
		log: in.Log, schema: in.String("inference-schema"), want: version{in.String("model-name"), in.Int("model-version")},
		active: in.Bool("activate"), api: in.String("api-url"), token: in.String("token"), alias: in.String("alias"),
	}
	trainingSchema, rows, takeBack := in.String("schema"), in.Int("rows"), in.Bool("take-back")
	if err := in.Validate(checkURL(t.api), checkTraining(trainingSchema, training), checkRegistry(mlflow, takeBack), registry.CheckAlias(t.alias)); err != nil {
		return err
	}
	var err error
	if mlflow.URI != "" {
		if t.models, err = registry.New(mlflow.Registry()); err != nil {
			return err
		}
	}
	if t.conn, err = postgres.Connect(ctx, target, postgres.Options{}); err != nil {
		return err
	}
	defer t.conn.Close()
	in.Reads(assets.FunctionRef(services.InferenceDatabase(in, t.conn.Dialect), t.schema))
	examples, err := examplesFor(ctx, t.conn, t.schema, t.want, training, trainingSchema, rows)
	if err != nil {
		return err
	}
	if err := t.ask(ctx, examples); err != nil {
		if takeBack && fault.Of(err) == fault.Permanent && ctx.Err() == nil {
			return t.takeBack(ctx, err)
		}
		return err
	}
	return t.checkAlias(ctx)
}

// test is what a deployed version must stand.
type test struct {
	log        *zap.Logger
	conn       *postgres.Conn
	schema     string
	want       version
	active     bool // false: it is a challenger
	api, token string
	models     *registry.Client // nil: there is none to ask about the alias
	alias      string
}

// ask fails unless every way of asking gives the right answers.
func (t test) ask(ctx context.Context, examples [][]byte) error {
	// The first call of a session loads the model; the log tells how long the others take, as with a pool of sessions.
	batch, err := predictBatch(ctx, t.conn, t.schema, examples)
	if err != nil && (t.active || postgres.State(err) != noActiveModel) {
		return err
	}
	if !t.active {
		return t.askChallenger(ctx, batch, examples)
	}
	bySQL := way{"predict_batch", batch}
	other, err := challenger(ctx, t.conn, t.schema)
	if err != nil {
		return err
	}
	if err := bySQL.check(len(examples), t.want, other); err != nil {
		return err
	}
	one := way{name: "run_inference_task"}
	for _, example := range examples {
		label, err := runInferenceTask(ctx, t.conn, t.schema, example)
		if err != nil {
			return err
		}
		one.answers = append(one.answers, answer{label: label})
	}
	if err := bySQL.agree(one); err != nil {
		return err
	}
	t.log.Info("SQL answers", zap.String("model", t.want.name), zap.Int("version", t.want.number), zap.Int("rows", len(examples)), zap.String("first", batch[0].label))
	if t.api == "" {
		return nil
	}
	answers, err := askAPI(ctx, t.api, t.token, examples)
	if err != nil {
		return err
	}
	byHTTP := way{"the API " + t.api, answers}
	if err := byHTTP.check(len(examples), t.want, other); err != nil {
		return err
	}
	if err := bySQL.agree(byHTTP); err != nil {
		return err
	}
	t.log.Info("the API answers", zap.String("url", t.api), zap.Int("rows", len(examples)))
	return nil
}

// noActiveModel is the SQLSTATE of predicting before the first activation.
const noActiveModel = "IS003"

// askChallenger wants answers of the version, and batch, what callers get, to be another's, unless a canary sends it a share of the calls.
func (t test) askChallenger(ctx context.Context, batch []answer, examples [][]byte) error {
	outputs, err := predictVersion(ctx, t.conn, t.schema, t.want, examples)
	if err != nil {
		return err
	}
	canary, err := challenger(ctx, t.conn, t.schema)
	if err != nil {
		return err
	}
	for i, a := range batch {
		if a.version == t.want && canary != t.want {
			return fmt.Errorf("predict_batch: row %d was predicted by %s, which was deployed as a challenger and has no canary", i+1, t.want)
		}
	}
	t.log.Info("the challenger answers", zap.String("model", t.want.name), zap.Int("version", t.want.number), zap.Int("rows", len(examples)), zap.Int("numbers", outputs))
	return nil
}

// checkAlias fails if the registry tells another story than the database.
func (t test) checkAlias(ctx context.Context) error {
	if t.models == nil || !t.active {
		return nil
	}
	holder, err := inference.Holder(ctx, t.models, t.want.name, t.alias)
	if err != nil || holder == t.want.number {
		return err
	}
	names := fmt.Sprintf("version %d", holder)
	if holder == 0 {
		names = "none"
	}
	return fmt.Errorf("%s is active, but the alias %q names %s: insitu rollback --inference-schema %s --to %d moves it", t.want, t.alias, names, t.schema, t.want.number)
}

// lockWait is how long a deployment that runs at the time is waited for.
const lockWait = time.Minute

// takeBack undoes the deployment and returns the cause, with how things stand.
func (t test) takeBack(ctx context.Context, cause error) error {
	err := postgres.TryLock(ctx, t.conn, "changelog:"+t.schema, lockWait)
	var note string
	if err == nil {
		note, err = inference.TakeBack(ctx, t.conn, t.schema, t.models, t.alias, inference.Version{Name: t.want.name, Version: t.want.number}, false, cause)
		postgres.Unlock(ctx, t.conn, "changelog:"+t.schema)
	}
	if err == nil {
		return fmt.Errorf("%w; %s", cause, note)
	}
	both := fmt.Errorf("%w; %w", cause, err)
	if fault.Of(err) == fault.Temporary {
		both = fault.AsTemporary(both)
	}
	return both
}

func checkRegistry(c services.MLflowConfig, takeBack bool) error {
	if c.URI == "" {
		if takeBack {
			return errors.New("--take-back is set, so --mlflow-uri is required, or a service binding: the registry's alias goes back, too")
		}
		return nil
	}
	return c.Check()
}

func checkURL(text string) error {
	if text == "" {
		return nil
	}
	if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("--api-url: expected a URL that starts with http:// or https://")
	}
	return nil
}

func checkTraining(schema string, c postgres.Config) error {
	if schema != "" && (c.Host == "" || c.Database == "" || c.Username == "") {
		return errors.New("--schema is set, so --training-host, --training-database and --training-username are required, or a service binding")
	}
	return nil
}

// manifest is what is used of a deployed model's manifest.
type manifest struct {
	Dataset string `json:"dataset_digest"`
	Input   struct {
		Shape []int  `json:"shape"`
		DType string `json:"dtype"`
	} `json:"input"`
}

// examplesFor are rows that the deployed model takes: the first of its dataset's test split, or one of zeros.
func examplesFor(ctx context.Context, conn *postgres.Conn, schema string, v version, training postgres.Config, trainingSchema string, rows int) ([][]byte, error) {
	var text []byte
	err := conn.QueryRow(ctx, "select manifest::text from "+postgres.Ident(schema, "models")+" where name = $1 and version = $2", v.name, v.number).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%s is not deployed in schema %q", v, schema)
	}
	if err != nil {
		return nil, postgres.Wrap(err, fmt.Sprintf("find %s in schema %q", v, schema))
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", v, err)
	}
	if trainingSchema == "" {
		size := map[string]int{"uint8": 1, "float32": 4}[m.Input.DType]
		for _, n := range m.Input.Shape {
			size *= n
		}
		if size <= 0 {
			return nil, fmt.Errorf("manifest of %s: its input has shape %v and type %q, expected a row of numbers", v, m.Input.Shape, m.Input.DType)
		}
		return [][]byte{make([]byte, size)}, nil
	}
	learner, err := postgres.Connect(ctx, training, postgres.Options{})
	if err != nil {
		return nil, err
	}
	defer learner.Close()
	return inference.TestRows(ctx, inference.Place{Conn: learner, Schema: trainingSchema}, m.Dataset, rows)
}
