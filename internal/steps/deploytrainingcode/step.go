// Package deploytrainingcode is the step that deploys an ML app's Python and the training functions to the training database.
package deploytrainingcode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/assets"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/liquibaseflags"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/mlapp/parameterflags"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
)

// changelogPath is what databasechangelog.filename says.
const changelogPath = "insitu/training"

// modules are what the deployed functions import.
func modules() []string { return []string{"numpy", "onnx", "onnxruntime"} }

// Spec declares the step.
func Spec() step.Spec {
	flags := []step.Flag{
		{Name: "app", Usage: "the ML app: a directory, or a tar.gz at file:, http(s): or s3:", Required: true},
		{Name: "schema", Usage: "schema in the training database; created unless it exists", Required: true},
		{Name: "git-sha", Usage: "commit of the ML app, the tag of what is deployed; when unset, the first 12 digits of the code digest are"},
		{Name: "grant-to", Usage: "roles that may train from now on, separated by commas"},
	}
	flags = append(flags, parameterflags.CheckedFlags()...)
	flags = append(flags, liquibaseflags.Flags()...)
	flags = append(flags, services.TrainingFlags()...)
	flags = append(flags, storeFlags()...)
	return step.Spec{
		Name:    "deploy-training-code",
		Summary: "Deploys an ML app's Python and the training functions to the training database",
		Description: "Liquibase brings the schema up to date over SQL credentials alone and adds the app's code as a release: one immutable changeset, which stock Liquibase can roll back. " +
			"Before that, the step checks that the server has PL/Python and the packages it needs, and says what to do if it has not.\n\n" +
			"Code that the app's last release has already adds nothing. " +
			"Code that was replaced in the meantime becomes a new release.\n\n" +
			"`--epochs`, `--parameters` and `--sweep` change nothing of that: they are checked against the app, and the output `candidates` lists the trainings they ask for. " +
			"Each of its objects holds the given hyper-parameters, one combination of the sweep's values, and always `epochs`.",
		Flags: flags,
		Outputs: []step.Output{
			{Name: "code-digest", Usage: "SHA-256 over the app's files and the Python runtime they run with"},
			{Name: "release", Usage: "ordinal of the release"},
			{Name: "changesets-added", Usage: "changesets that were not in the database before"},
			{Name: "tag", Usage: "tag of the newest changeset"},
			{Name: "candidates", Usage: "what train-model takes as --parameters, as a JSON list of objects: one, or those of the sweep"},
			{Name: "changelog", Usage: "Liquibase changelog with everything deployed", File: "changelog.sql"},
		},
		Examples: []step.Example{{
			Text:    "Deploy the app in a directory",
			Command: "deploy-training-code --app=examples/digits --schema=team-a --git-sha=$(git rev-parse HEAD)",
		}, {
			Text:    "List the four candidates of a sweep as well",
			Command: `deploy-training-code --app=examples/digits --schema=team-a --sweep='{"learning_rate": [0.01, 0.003], "epochs": [5, 10]}'`,
		}},
		Run: run,
	}
}

func run(ctx context.Context, in *step.Input) error {
	app := source{location: in.String("app"), workDir: in.TempDir(), store: services.S3(in)}
	sha, roles := in.String("git-sha"), roleNames(in.String("grant-to"))
	target := liquibaseflags.Schema(in, services.Training(in), in.String("schema"), changelogPath)
	if err := in.Validate(changelog.CheckSchema(target.Name), checkTag(sha), app.check()); err != nil {
		return err
	}
	var candidates []map[string]any
	code, err := app.load(ctx, func(m *mlapp.Manifest) (err error) {
		candidates, err = parameterflags.Candidates(in, m)
		return err
	})
	if err != nil {
		return err
	}
	list, err := json.Marshal(candidates)
	if err != nil {
		return fmt.Errorf("write the candidates: %w", err)
	}
	code.gitSHA = sha

	session, err := changelog.Open(ctx, target)
	if err != nil {
		return err
	}
	defer session.Close()
	base, err := changelog.Load(database.Training, session.Conn.Dialect)
	if err != nil {
		return err
	}
	if err := session.CheckServer(ctx, base, modules()); err != nil {
		return err
	}
	in.Reads(assets.App(app.location))
	current, added, text, err := deploy(ctx, session, target.Name, base, code)
	if err != nil {
		return err
	}
	if sha == "" {
		sha = code.digest[:12]
	}
	tag, err := session.Tag(ctx, sha)
	if err != nil {
		return err
	}
	if err := grant(ctx, session.Conn, target.Name, roles); err != nil {
		return err
	}
	in.Log.Info("code is deployed", zap.String("app", current.app), zap.Int("release", current.ordinal), zap.String("code_digest", current.digest), zap.String("tag", tag))

	in.Writes(assets.TrainingCode(services.TrainingDatabase(in, session.Conn.Dialect), target.Name)...)
	in.Output("code-digest", current.digest)
	in.Output("release", strconv.Itoa(current.ordinal))
	in.Output("changesets-added", strconv.Itoa(len(added)))
	in.Output("tag", tag)
	in.Output("candidates", string(list))
	in.OutputFile("changelog", text)
	return nil
}

// maxTag is the width of databasechangelog.tag.
const maxTag = 255

func checkTag(sha string) error {
	if len(sha) > maxTag || strings.ContainsAny(sha, " \t\r\n\x00") || strings.HasPrefix(sha, "-") {
		return errors.New("--git-sha: expected a commit or another name of up to 255 bytes without spaces")
	}
	return nil
}

// roleNames splits a list at commas; names with commas in them cannot be given.
func roleNames(list string) (names []string) {
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}
