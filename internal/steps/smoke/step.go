// Package smoke is the step after the pipeline's six: it asks the inference database, as its users do, for some predictions.
// It is part of the program insitu: insitu smoke.
package smoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/assets"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
)

// mostRows is how many files the API takes in one request.
const mostRows = 64

// Spec declares the step.
func Spec() step.Spec {
	one, most := 1.0, float64(mostRows)
	training := services.TrainingFlags()
	for i := range training {
		training[i].Required = false // it is asked only with --schema
	}
	flags := []step.Flag{
		{Name: "inference-schema", Usage: "schema in the inference database", Required: true},
		{Name: "schema", Usage: "schema in the training database, whose first test rows are predicted; when unset, one row of zeros"},
		{Name: "model-name", Usage: "registered model that was deployed", Required: true},
		{Name: "model-version", Usage: "version that was deployed", Kind: step.Int, Min: &one, Required: true},
		{Name: "rows", Usage: "test rows to predict", Kind: step.Int, Default: "16", Min: &one, Max: &most},
		{Name: "api-url", Usage: "URL of insitu serve, which is then asked about the same rows; when unset, SQL alone"},
		{Name: "token", Usage: "bearer token of the API, if it wants one", Secret: true},
	}
	flags = append(flags, services.InferenceFlags()...)
	flags = append(flags, training...)
	return step.Spec{
		Name:    "smoke",
		Summary: "Asks the inference database, and the API if there is one, for predictions by the version that was deployed",
		Description: "It is the pipeline's last task and runs as `insitu smoke`. " +
			"Test rows are predicted by `predict_batch` in one call and by `run_inference_task` one by one, and by `POST /v1/predict` when there is an `--api-url`. " +
			"It fails when an answer is missing, when another version than the deployed one gave it (or the challenger of a canary), and when two ways give different labels (those that a rounding error decides aside).\n\n" +
			"It changes nothing: the deployed version stays active when it fails.",
		Flags: flags,
		Examples: []step.Example{{
			Text:    "Ask for predictions of version 3, by SQL and by HTTP",
			Command: "insitu smoke --inference-schema=team-a --schema=team-a --model-name=cifar_cnn --model-version=3 --api-url=http://insitu-api",
		}},
		Run: run,
	}
}

func run(ctx context.Context, in *step.Input) error {
	target, training := services.Inference(in), services.Training(in)
	schema, trainingSchema := in.String("inference-schema"), in.String("schema")
	want := version{in.String("model-name"), in.Int("model-version")}
	rows, api, token := in.Int("rows"), in.String("api-url"), in.String("token")
	if err := in.Validate(checkURL(api), checkTraining(trainingSchema, training)); err != nil {
		return err
	}
	conn, err := postgres.Connect(ctx, target, postgres.Options{})
	if err != nil {
		return err
	}
	defer conn.Close()
	in.Reads(assets.FunctionRef(services.InferenceDatabase(in, conn.Dialect), schema))
	examples, err := examplesFor(ctx, conn, schema, want, training, trainingSchema, rows)
	if err != nil {
		return err
	}

	// The first call of a session loads the model; the log tells how long the others take, as with a pool of sessions.
	batch, err := predictBatch(ctx, conn, schema, examples)
	if err != nil {
		return err
	}
	bySQL := way{"predict_batch", batch}
	other, err := challenger(ctx, conn, schema)
	if err != nil {
		return err
	}
	if err := bySQL.check(len(examples), want, other); err != nil {
		return err
	}
	one := way{name: "run_inference_task"}
	for _, example := range examples {
		label, err := runInferenceTask(ctx, conn, schema, example)
		if err != nil {
			return err
		}
		one.answers = append(one.answers, answer{label: label})
	}
	if err := bySQL.agree(one); err != nil {
		return err
	}
	in.Log.Info("SQL answers", zap.String("model", want.name), zap.Int("version", want.number), zap.Int("rows", len(examples)), zap.String("first", batch[0].label))
	if api == "" {
		return nil
	}
	answers, err := askAPI(ctx, api, token, examples)
	if err != nil {
		return err
	}
	byHTTP := way{"the API " + api, answers}
	if err := byHTTP.check(len(examples), want, other); err != nil {
		return err
	}
	if err := bySQL.agree(byHTTP); err != nil {
		return err
	}
	in.Log.Info("the API answers", zap.String("url", api), zap.Int("rows", len(examples)))
	return nil
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
