// Package assets says of the things the pipeline's steps read and write what data catalogs are told: their names, their
// columns, what they are for. A thing has one name whichever step speaks of it.
//
// It asks nobody: what it is given is what the step knows anyway.
package assets

import (
	"path/filepath"
	"strings"

	"github.com/insitu-ml/insitu/internal/lineage"
)

// App is the ML app as it was given to the step.
func App(location string) lineage.Dataset {
	return lineage.Dataset{Kind: lineage.File, Location: At(".", location), Description: "An ML app: insitu.yaml and the learner."}
}

// At is an absolute location; base is where relative paths start: a directory, or the packed app it is in.
func At(base, location string) string {
	if strings.Contains(location, "://") || strings.HasPrefix(location, "file:") || filepath.IsAbs(location) {
		return location
	}
	if strings.Contains(base, "://") || strings.HasPrefix(base, "file:") {
		return strings.TrimSuffix(base, "/") + "/" + location
	}
	path, err := filepath.Abs(filepath.Join(base, location))
	if err != nil { // there is no working directory any more
		return location
	}
	return path
}

// PacksRef names the table.
func PacksRef(db lineage.Database, schema, table string) lineage.Dataset {
	return in(db, schema, lineage.Table, table)
}

// ReleasesRef names the table of deployed ML apps.
func ReleasesRef(db lineage.Database, schema string) lineage.Dataset {
	return in(db, schema, lineage.Table, "releases")
}

// TrainingCode is the table of deployed ML apps, and the function that trains by them.
func TrainingCode(db lineage.Database, schema string) []lineage.Asset {
	releases := ReleasesRef(db, schema)
	releases.Description = "ML apps with their code, one row a deployment."
	releases.Columns = []lineage.Column{
		{Name: "ordinal", Type: "int"}, {Name: "app", Type: "text"},
		{Name: "digest", Type: "text", Description: "SHA-256 over the app's files and the Python runtime they run with."},
		{Name: "git_sha", Type: "text"}, {Name: "manifest", Type: "json", Description: "insitu.yaml."},
		{Name: "bundle", Type: "text", Description: "JSON object from file path to Python source."}, {Name: "deployed_at", Type: "timestamptz"},
	}
	train := in(db, schema, lineage.Function, "run_training_task")
	train.Description = "Trains an ML app in the database."
	train.From = []lineage.Dataset{ReleasesRef(db, schema)}
	return []lineage.Asset{releases, train}
}

// Evaluated are the version, and the rows it was evaluated on.
func Evaluated(registryURL, model string, version int, packs lineage.Dataset) []lineage.Asset {
	return []lineage.Asset{packs, lineage.Model{Registry: registryURL, Name: model, Version: version, EvaluatedOn: []lineage.Dataset{packs}}}
}

// Served are the table of the deployed models and the function that predicts by the active one.
func Served(db lineage.Database, schema string) []lineage.Asset {
	models := in(db, schema, lineage.Table, "models")
	models.Description = "Deployed model versions."
	models.Columns = []lineage.Column{
		{Name: "name", Type: "text", Description: "Registered model."}, {Name: "version", Type: "int"},
		{Name: "digest", Type: "text", Description: "SHA-256 of the ONNX file."}, {Name: "manifest", Type: "json", Description: "Task, and input with shape, type, range and classes."},
		{Name: "metrics", Type: "json"}, {Name: "deployed_at", Type: "timestamptz"}, {Name: "deployed_by", Type: "text"},
	}
	predict := FunctionRef(db, schema)
	predict.Description = "Predicts by the active model: select run_inference_task(img)."
	predict.Columns = []lineage.Column{{Name: "img", Type: "bytea", Description: "The argument: an image, or a row's values."}, {Name: "label", Type: "text", Description: "The result: the label, or the value."}}
	predict.From = []lineage.Dataset{in(db, schema, lineage.Table, "models")}
	return []lineage.Asset{models, predict}
}

// FunctionRef names the function that predicts.
func FunctionRef(db lineage.Database, schema string) lineage.Dataset {
	return in(db, schema, lineage.Function, "run_inference_task")
}

func in(db lineage.Database, schema string, kind lineage.Kind, name string) lineage.Dataset {
	return lineage.Dataset{Kind: kind, Database: &db, Schema: schema, Name: name}
}
