// Package deployinferencedb is the step that deploys a model to the inference database and switches to it.
package deployinferencedb

import (
	"context"
	"fmt"
	"strconv"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/liquibaseflags"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
)

// changelogPath is what databasechangelog.filename says.
const changelogPath = "insitu/inference"

// modules are what the deployed functions import.
func modules() []string { return []string{"numpy", "onnxruntime", "PIL"} }

// Spec declares the step.
func Spec() step.Spec {
	one, zero := 1.0, 0.0
	flags := []step.Flag{
		{Name: "inference-schema", Usage: "schema in the inference database; created unless it exists", Required: true},
		{Name: "schema", Usage: "schema in the training database, to compare predictions with", Required: true},
		{Name: "model-name", Usage: "registered model", Required: true},
		{Name: "model-version", Usage: "version to deploy", Kind: step.Int, Min: &one, Required: true},
		{Name: "parity-rows", Usage: "test rows that must be predicted alike in both databases", Kind: step.Int, Default: "256", Min: &one},
		{Name: "parity-tolerance", Usage: "how far an output may differ", Kind: step.Float, Default: "0.0001", Min: &zero},
		{Name: "parity-max-disagreements", Usage: "how many rows may get another label", Kind: step.Int, Default: "0", Min: &zero},
	}
	flags = append(flags, liquibaseflags.Flags()...)
	flags = append(flags, services.TrainingFlags()...)
	flags = append(flags, services.InferenceFlags()...)
	flags = append(flags, services.MLflowFlags()...)
	return step.Spec{
		Name:    "deploy-inference-db",
		Summary: "Deploys a model to the inference database, compares its predictions and switches to it",
		Description: "Liquibase brings the inference schema up to date and adds the model, whose bytes are verified against the registry. " +
			"The first test rows are then predicted in three ways: by the learner itself and by the ONNX model in the training database, and by the deployed model in the inference database. " +
			"If they differ by more than the tolerance, the step fails and nothing is switched. " +
			"Otherwise one transaction makes the model the active one.\n\n" +
			"A second run with the same model changes nothing.",
		Flags: flags,
		Outputs: []step.Output{
			{Name: "active-version", Usage: "version that predictions use now"},
			{Name: "previous-version", Usage: "version that was active before it; empty for the first"},
			{Name: "changesets-added", Usage: "changesets that were not in the database before"},
			{Name: "parity-max-abs-diff", Usage: "largest difference of any output between any two of the three ways"},
			{Name: "parity-disagreements", Usage: "rows that got another label, between the two ways that differ most"},
			{Name: "changelog", Usage: "Liquibase changelog with everything deployed", File: "changelog.sql"},
		},
		Examples: []step.Example{{
			Text:    "Deploy version 3",
			Command: "deploy-inference-db --model-name=cifar_cnn --model-version=3 --schema=team-a --inference-schema=team-a",
		}},
		Run: run,
	}
}

func run(ctx context.Context, in *step.Input) error {
	mlflow := services.MLflow(in)
	training := services.Training(in)
	target := liquibaseflags.Schema(in, services.Inference(in), in.String("inference-schema"), changelogPath)
	schema, name, version := in.String("schema"), in.String("model-name"), in.Int("model-version")
	rows := in.Int("parity-rows")
	tolerance := inference.Tolerance{MaxAbsDiff: in.Float("parity-tolerance"), Disagreements: in.Int("parity-max-disagreements")}
	if err := in.Validate(mlflow.Check(), changelog.CheckSchema(target.Name), changelog.CheckSchema(schema), checkApart(training, schema, target)); err != nil {
		return err
	}

	models, err := registry.New(mlflow.Registry())
	if err != nil {
		return err
	}
	model, err := inference.Fetch(ctx, models, name, version)
	if err != nil {
		return err
	}
	in.Log.Info("fetched model", zap.String("name", name), zap.Int("version", version), zap.String("digest", model.Digest), zap.Int("bytes", len(model.ONNX)))

	session, err := changelog.Open(ctx, target)
	if err != nil {
		return err
	}
	defer session.Close()
	base, err := changelog.Load(database.Inference, session.Conn.Dialect)
	if err != nil {
		return err
	}
	if err := session.CheckServer(ctx, base, modules()); err != nil {
		return err
	}
	added, text, err := inference.Deploy(ctx, session, target.Name, base, model)
	if err != nil {
		return err
	}
	tag := model.GitSHA
	if tag == "" {
		tag = model.Digest[:12]
	}
	if _, err := session.Tag(ctx, tag); err != nil {
		return err
	}

	learner, err := postgres.Connect(ctx, training, postgres.Options{})
	if err != nil {
		return err
	}
	defer learner.Close()
	parity, err := inference.CheckParity(ctx, inference.Place{Conn: learner, Schema: schema}, inference.Place{Conn: session.Conn, Schema: target.Name}, model, rows, tolerance)
	if err != nil {
		return err
	}
	for _, p := range parity.Pairs {
		in.Log.Info("compared predictions", zap.String("a", p.A), zap.String("b", p.B), zap.Int("rows", parity.Rows),
			zap.Float64("max_abs_diff", p.MaxAbsDiff), zap.Int("disagreements", p.Disagreements))
	}
	if err := parity.Check(tolerance); err != nil {
		return fmt.Errorf("model %q version %d was not activated: %w", name, version, err)
	}
	previous, err := inference.Activate(ctx, session.Conn, target.Name, inference.Version{Name: name, Version: version})
	if err != nil {
		return err
	}
	in.Log.Info("model is active", zap.String("name", name), zap.Int("version", version), zap.Any("previous", previous))

	in.Output("active-version", strconv.Itoa(version))
	in.Output("previous-version", number(previous))
	in.Output("changesets-added", strconv.Itoa(len(added)))
	in.Output("parity-max-abs-diff", strconv.FormatFloat(parity.MaxAbsDiff(), 'g', -1, 64))
	in.Output("parity-disagreements", strconv.Itoa(parity.Disagreements()))
	in.OutputFile("changelog", text)
	return nil
}

// checkApart refuses one schema for both: its tables have the same names.
func checkApart(training postgres.Config, schema string, target changelog.Schema) error {
	if training.Address() == target.Database.Address() && schema == target.Name {
		return fmt.Errorf("--schema and --inference-schema are both %q in the same database %s, expected another schema or another database", schema, training.Address())
	}
	return nil
}

// number is the version's number, "" for none.
func number(v inference.Version) string {
	if v == (inference.Version{}) {
		return ""
	}
	return strconv.Itoa(v.Version)
}
