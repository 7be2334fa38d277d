// Package deployinferencedb is the step that deploys a model to the inference database and switches to it.
package deployinferencedb

import (
	"context"
	"fmt"
	"strconv"

	"github.com/insitu-ml/insitu/internal/assets"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/liquibaseflags"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/lineage"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
)

// Spec declares the step.
func Spec() step.Spec {
	one, zero, two := 1.0, 0.0, 2.0
	flags := []step.Flag{
		{Name: "inference-schema", Usage: "schema in the inference database; created unless it exists", Required: true},
		{Name: "schema", Usage: "schema in the training database, to compare predictions with", Required: true},
		{Name: "model-name", Usage: "registered model", Required: true},
		{Name: "model-version", Usage: "version to deploy", Kind: step.Int, Min: &one, Required: true},
		{Name: "activate", Usage: "whether to switch to the version; false: it is deployed as a challenger, to which set_route may send a share of the calls", Kind: step.Bool, Default: "true"},
		{Name: "alias", Usage: "registry alias that must name the active version", Default: "staging"},
		{Name: "keep", Usage: "versions whose bytes stay in the database, to roll back to: those that were active last", Kind: step.Int, Default: "5", Min: &two},
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
			"The profile that monitoring compares its calls with is stored beside it. " +
			"Then one transaction makes the model the active one, the registry alias is made to name it, and the bytes of old versions are pruned. " +
			"The table `deployments` says all of it.\n\n" +
			"With `--activate=false` the same is done but for the switch: the version becomes a challenger, which `set_route` may send a share of the calls to (shadow or canary, see serving.md), " +
			"the active version and the alias stay as they are, and the ledger says `challenge`.\n\n" +
			"If the predictions differ by more than the tolerance, or anything else fails for good, all of it is undone: the version that was active stays so, or is it again, and the alias goes back to it. " +
			"After a temporary failure (exit code 75), or when the step was killed, another run completes the deployment.\n\n" +
			"A second run with the same model changes nothing.",
		Flags: flags,
		Outputs: []step.Output{
			{Name: "active-version", Usage: "version that predictions use now; empty if there is none"},
			{Name: "previous-version", Usage: "version that was active before it; empty for the first, and for a challenger"},
			{Name: "changesets-added", Usage: "changesets that were not in the database before"},
			{Name: "parity-max-abs-diff", Usage: "largest difference of any output between any two of the three ways"},
			{Name: "parity-disagreements", Usage: "rows that got another label, between the two ways that differ most"},
			{Name: "changelog", Usage: "Liquibase changelog with everything deployed", File: "changelog.sql"},
		},
		Examples: []step.Example{{
			Text:    "Deploy version 3",
			Command: "deploy-inference-db --model-name=cifar_cnn --model-version=3 --schema=team-a --inference-schema=team-a",
		}, {
			Text:    "Deploy version 4 as a challenger of it",
			Command: "deploy-inference-db --activate=false --model-name=cifar_cnn --model-version=4 --schema=team-a --inference-schema=team-a",
		}},
		Run: run,
	}
}

func run(ctx context.Context, in *step.Input) error {
	mlflow := services.MLflow(in)
	d := deployment{
		log: in.Log, activate: in.Bool("activate"), alias: in.String("alias"), keep: in.Int("keep"), training: services.Training(in), schema: in.String("schema"),
		target:  liquibaseflags.Schema(in, services.Inference(in), in.String("inference-schema"), inference.ChangelogPath),
		version: inference.Version{Name: in.String("model-name"), Version: in.Int("model-version")}, rows: in.Int("parity-rows"),
		tolerance: inference.Tolerance{MaxAbsDiff: in.Float("parity-tolerance"), Disagreements: in.Int("parity-max-disagreements")},
	}
	if err := in.Validate(mlflow.Check(), changelog.CheckSchema(d.target.Name), changelog.CheckSchema(d.schema), registry.CheckAlias(d.alias),
		checkApart(d.training, d.schema, d.target)); err != nil {
		return err
	}
	var err error
	if d.models, err = registry.New(mlflow.Registry()); err != nil {
		return err
	}
	if d.session, err = changelog.Open(ctx, d.target); err != nil {
		return err
	}
	defer d.session.Close()
	in.Reads(lineage.Model{Registry: d.models.Address(), Name: d.version.Name, Version: d.version.Version})
	done, err := d.run(ctx)
	if err != nil {
		return err
	}
	in.Writes(assets.Served(services.InferenceDatabase(in, d.session.Conn.Dialect), d.target.Name)...)
	in.Output("active-version", number(done.active))
	in.Output("previous-version", number(done.previous))
	in.Output("changesets-added", strconv.Itoa(len(done.added)))
	in.Output("parity-max-abs-diff", strconv.FormatFloat(done.parity.MaxAbsDiff(), 'g', -1, 64))
	in.Output("parity-disagreements", strconv.Itoa(done.parity.Disagreements()))
	in.OutputFile("changelog", done.changelog)
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
