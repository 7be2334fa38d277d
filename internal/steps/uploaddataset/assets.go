package uploaddataset

import (
	"strconv"
	"strings"

	"github.com/insitu-ml/insitu/internal/assets"
	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/lineage"
)

// source is the file a dataset is read from; base is where relative paths start: a directory, or the packed app it is in.
func source(base string, f *dataset.File) lineage.Dataset {
	return lineage.Dataset{Kind: lineage.File, Location: assets.At(base, f.Source), Description: "The file a dataset is made from.", Bytes: f.Size, SHA256: f.SHA256}
}

// raw is the dataset in the object store: the file under its SHA-256, with the columns of its rows.
func raw(bucket string, m *dataset.Manifest) lineage.Dataset {
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

// packs is the table with the rows of the dataset, packed.
func packs(db lineage.Database, schema string, m *dataset.Manifest) lineage.Dataset {
	d := assets.PacksRef(db, schema, m.Table)
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
