package uploaddataset

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/lineage"
)

func TestASourceIsWhereItWasReadFrom(t *testing.T) {
	t.Parallel()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ base, source, want string }{
		"a file of a packed app":     {"s3://b/apps/a.tar.gz", "data.csv", "s3://b/apps/a.tar.gz/data.csv"},
		"a file of an app's folder":  {"examples/digits", "data.csv", filepath.Join(here, "examples/digits/data.csv")},
		"a file of an artifact":      {"file:/app", "data.csv", "file:/app/data.csv"},
		"a path":                     {".", "data/x.csv", filepath.Join(here, "data/x.csv")},
		"an absolute path":           {"s3://b/a.tar.gz", "/data/x.csv", "/data/x.csv"},
		"an address":                 {"s3://b/a.tar.gz", "https://example.com/x.csv", "https://example.com/x.csv"},
		"the location of the source": {".", "s3://b/x.csv", "s3://b/x.csv"},
	} {
		if got := source(c.base, &dataset.File{Source: c.source}).Location; got != c.want {
			t.Errorf("%s: %s, expected %s", name, got, c.want)
		}
	}
}

func TestAFileHasTheColumnsOfItsRows(t *testing.T) {
	t.Parallel()
	table := &dataset.Manifest{Columns: []string{"age", "dose"}, Label: "months", Task: dataset.Regression, Input: dataset.Input{Shape: []int{2}, DType: dataset.Float32}}
	images := &dataset.Manifest{Task: dataset.Classification, Input: dataset.Input{Shape: []int{3, 32, 32}, DType: dataset.UInt8}}
	label := "What is to be predicted."
	for want, m := range map[*[]lineage.Column]*dataset.Manifest{
		{{Name: "age", Type: "float32"}, {Name: "dose", Type: "float32"}, {Name: "months", Type: "float32", Description: label}}:            table,
		{{Name: "input", Type: "uint8", Description: "Array of the shape 3 x 32 x 32."}, {Name: "label", Type: "text", Description: label}}: images,
	} {
		if diff := cmp.Diff(*want, raw("b", m).Columns); diff != "" {
			t.Error(diff)
		}
	}
}

func TestOnlyOnGreenplumAPackTableHasThePlace(t *testing.T) {
	t.Parallel()
	for platform, want := range map[string]string{lineage.Greenplum: "place", lineage.Postgres: "data"} {
		columns := packs(lineage.Database{Platform: platform}, "s", &dataset.Manifest{}).Columns
		if got := columns[len(columns)-1].Name; got != want {
			t.Errorf("%s: the last column is %s, expected %s", platform, got, want)
		}
	}
}
