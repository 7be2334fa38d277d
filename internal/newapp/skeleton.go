// Package newapp makes ML apps: the files of a new one, and templates by which Backstage and TAP make the same files.
//
// There is one skeleton. Its learners, tests, sample data and insitu.yaml are those of examples/, its pipeline files those of
// workflows/app; what belongs to nobody else is in the folder files. Where something was chosen, the skeleton has an
// expression such as ${{ values.name }}, in the language of Backstage's templates.
//
// It does not read a terminal and asks nobody.
package newapp

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/insitu-ml/insitu/examples"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/workflows"
)

//go:embed files/README.md files/catalog-info.yaml files/gitignore files/backstage.yaml.gotmpl files/accelerator.yaml.gotmpl
var files embed.FS

// Names of files that more than one part of the skeleton has to do with.
const (
	readmeFile  = "README.md"
	openAPIFile = "openapi.json"
)

// learner is an algorithm to start with: an example and what it is called in a list.
type learner struct{ name, example, title string }

func allLearners() []learner {
	return []learner{
		{"cnn", "shapes", "pictures: convolutional network, PyTorch"},
		{"softmax", "logistic", "rows, classes: softmax regression, numpy"},
		{"regression", "linear", "rows, a number: linear regression, numpy"},
		{"sklearn", "sklearn", "rows, classes: SGDClassifier, scikit-learn"},
		{"boosting", "boosting", "rows, classes or a number: boosted trees, LightGBM"},
	}
}

// edit is one place of a file that becomes an expression.
type edit struct{ from, to string }

// edited applies edits. Each place must be there, once: a file that was changed elsewhere is noticed by every test of this package.
func edited(name, text string, edits []edit) (string, error) {
	for _, e := range edits {
		if n := strings.Count(text, e.from); n != 1 {
			return "", fmt.Errorf("%s has %q %d times, expected once", name, e.from, n)
		}
		text = strings.Replace(text, e.from, e.to, 1)
	}
	return text, nil
}

// common are the files that every ML app has alike, with expressions where something was chosen.
func common(openAPI []byte) (map[string]string, error) {
	const schema = `"${{ values.schema or (values.name | replace("-", "_")) }}"`
	out := map[string]string{openAPIFile: string(openAPI)}
	for name, edits := range map[string][]edit{
		"pipeline.yaml": nil,
		"pipeline_app.yaml": {
			{"name: in-database-pipeline #", `name: "${{ values.app_name or values.name }}" #`},
			{"url: https://github.com/your-organisation/your-ml-app #", `url: "${{ values.repository }}" #`},
			{"ref: origin/main #", `ref: "origin/${{ values.branch }}" #`},
		},
		"values.yaml": {
			{"\npipeline: in-database-pipeline\n", "\npipeline: \"${{ values.workflow }}\"\n"},
			{"\nexperiment_name: \"\"\n", "\nexperiment_name: \"${{ values.experiment }}\"\n"},
			{"\nmodel_stage: staging\n", "\nmodel_stage: \"${{ values.stage }}\"\n"},
			{"\ntraining_db_schema: insitu\n", "\ntraining_db_schema: " + schema + "\n"},
			{"\ninference_db_schema: insitu\n", "\ninference_db_schema: " + schema + "\n"},
			{"\ntraining_binding: \"\"\n", "\ntraining_binding: \"${{ values.training_binding }}\"\n"},
			{"\ninference_binding: \"\"\n", "\ninference_binding: \"${{ values.inference_binding }}\"\n"},
			{"\napproval: \"\"\n", "\napproval: \"${{ values.approval }}\"\n"},
		},
	} {
		text, err := fs.ReadFile(workflows.App, "app/"+name)
		if err != nil {
			return nil, err
		}
		if out[name], err = edited(name, string(text), edits); err != nil {
			return nil, err
		}
	}
	for name, file := range map[string]string{"catalog-info.yaml": "catalog-info.yaml", ".gitignore": "gitignore"} {
		text, err := files.ReadFile("files/" + file)
		if err != nil {
			return nil, err
		}
		out[name] = string(text)
	}
	return out, nil
}

// own are the files of one learner, with expressions where something was chosen.
func (l learner) own() (map[string]string, error) {
	app, err := fs.Sub(examples.Files, l.example)
	if err != nil {
		return nil, err
	}
	read := func(name string) string {
		var text []byte
		if err == nil {
			text, err = fs.ReadFile(app, name)
		}
		return string(text)
	}
	text := read(mlapp.ManifestFile)
	if err != nil {
		return nil, err
	}
	manifest, err := mlapp.ParseManifest([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("example %s: %w", l.example, err)
	}
	sample := manifest.Dataset.Source
	out := map[string]string{mlapp.LearnerFile: read(mlapp.LearnerFile), "test_learner.py": read("test_learner.py"), sample: read(sample)}
	readme := read(readmeFile)
	if err != nil {
		return nil, err
	}
	if out[mlapp.ManifestFile], err = edited(mlapp.ManifestFile, text, []edit{
		{"name: " + manifest.Name + "\n", "name: \"${{ values.name }}\"\n"},
		{"model: " + manifest.Model + "\n", "model: \"${{ values.name }}\"\n"},
		{"source: " + sample + "\n", "source: \"${{ values.dataset or \"" + sample + "\" }}\"\n"},
	}); err != nil {
		return nil, fmt.Errorf("example %s: %w", l.example, err)
	}
	out[readmeFile], err = l.readme(readme)
	return out, err
}

// readme is the README of a new app: what it says for all learners, and what the example's says of its data and packages.
func (l learner) readme(example string) (string, error) {
	const section = "\n## The data\n"
	_, data, found := strings.Cut(example, section)
	if !found {
		return "", fmt.Errorf("the README of example %s has no section %q", l.example, strings.TrimSpace(section))
	}
	text, err := files.ReadFile("files/" + readmeFile)
	if err != nil {
		return "", err
	}
	_, title, _ := strings.Cut(l.title, ": ")
	return edited(readmeFile, string(text), []edit{{"LEARNER", title}, {"DATA\n", strings.TrimPrefix(data, "\n")}})
}

// binary tells files that are copied as they are.
func binary(name string) bool { return path.Ext(name) == ".gz" || path.Ext(name) == ".zip" }
