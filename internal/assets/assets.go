// Package assets says of the things the pipeline's steps read and write what data catalogs are told: their names, their
// columns, what they are for. A thing has one name whichever step speaks of it.
//
// It asks nobody: what it is given is what the step knows anyway.
package assets

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/lineage"
)

// Source is the file a dataset is read from; base is where relative paths start: a directory, or the packed app it is in.
func Source(base string, f *dataset.File) lineage.Dataset {
	return lineage.Dataset{Kind: lineage.File, Location: at(base, f.Source), Description: "The file a dataset is made from.", Bytes: f.Size, SHA256: f.SHA256}
}

// App is the ML app as it was given to the step.
func App(location string) lineage.Dataset {
	return lineage.Dataset{Kind: lineage.File, Location: at(".", location), Description: "An ML app: insitu.yaml and the learner."}
}

// at is an absolute location.
func at(base, location string) string {
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

// Raw is the dataset in the object store: the file under its SHA-256, with the columns of its rows.
func Raw(bucket string, m *dataset.Manifest) lineage.Dataset {
	return lineage.Dataset{
		Kind: lineage.File, Location: "s3://" + bucket + "/" + m.Raw.Object, Description: "A dataset as it was uploaded, under the SHA-256 of its bytes.",
		Columns: rowOf(m), Rows: m.Rows, Bytes: m.Raw.Bytes, SHA256: m.Raw.SHA256,
		Properties: map[string]string{"format": m.Format, "task": m.Task, "classes": strconv.Itoa(len(m.Classes))},
	}
}

// rowOf are the columns of one row of the dataset: those of a table, or an image, and what is to be predicted.
func rowOf(m *dataset.Manifest) (columns []lineage.Column) {
	for _, name := range m.Columns {
		columns = append(columns, lineage.Column{Name: name, Type: m.Input.DType})
	}
	if len(m.Columns) == 0 {
		var shape []string
		for _, n := range m.Input.Shape {
			shape = append(shape, strconv.Itoa(n))
		}
		columns = append(columns, lineage.Column{Name: "input", Type: m.Input.DType, Description: "Array of the shape " + strings.Join(shape, " x ") + "."})
	}
	label, native := m.Label, "text"
	if label == "" {
		label = "label"
	}
	if m.Task == dataset.Regression {
		native = "float32"
	}
	return append(columns, lineage.Column{Name: label, Type: native, Description: "What is to be predicted."})
}

// Packs is the table with the rows of the dataset, packed.
func Packs(db lineage.Database, schema string, m *dataset.Manifest) lineage.Dataset {
	d := PacksRef(db, schema, m.Table)
	d.Description = "A dataset, packed: up to " + strconv.Itoa(m.PackSize) + " examples a row."
	d.Rows, d.SHA256 = m.Rows, m.Digest
	d.Columns = []lineage.Column{
		{Name: "split", Type: "text", Description: "train, validation or test."},
		{Name: "shard", Type: "int", Description: "The part of the packs that one session or segment trains on."},
		{Name: "id", Type: "bigint", Description: "Packs are read in its order."},
		{Name: "n", Type: "int", Description: "Examples in the pack."},
		{Name: "labels", Type: "bytea", Description: "n little-endian int32 (index of the class) or float32."},
		{Name: "data", Type: "bytea", Description: "n examples of the type " + m.Input.DType + ", one after the other."},
	}
	if db.Platform == lineage.Greenplum {
		d.Columns = append(d.Columns, lineage.Column{Name: "place", Type: "int", Description: "Distribution key: one value a shard."})
	}
	d.Properties = map[string]string{"raw_sha256": m.Raw.SHA256, "shards": strconv.Itoa(m.Shards), "split_seed": strconv.FormatUint(m.Split.Seed, 10)}
	for _, name := range dataset.SplitNames() {
		d.Properties[name+"_rows"] = strconv.FormatInt(m.Splits.Of(name).Rows, 10)
	}
	return d
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
