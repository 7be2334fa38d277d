package training_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
	"github.com/insitu-ml/insitu/internal/training/trainingtest"
)

func TestTheProfileIsThatOfTheTrainSplit(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	f.Dataset.Columns = []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	text, err := training.Profile(t.Context(), f.Config, schema, f.Dataset)
	if err != nil {
		t.Fatal(err)
	}
	again, err := training.Profile(t.Context(), f.Config, schema, f.Dataset)
	if err != nil || string(again) != string(text) {
		t.Errorf("a second profile differs, error %v", err)
	}
	var got struct {
		Rows     int64
		Features []struct {
			Name   string
			Edges  []float64
			Counts []int64
		}
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	rows, err := f.Connect(t).Query(t.Context(), "select data from "+postgres.Ident(f.Dataset.Table)+" where split = 'train'")
	if err != nil {
		t.Fatal(err)
	}
	packs, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	columns := make([][]float64, len(f.Dataset.Columns))
	for i, word := range slices.Collect(slices.Chunk(slices.Concat(packs...), 4)) {
		columns[i%len(columns)] = append(columns[i%len(columns)], float64(math.Float32frombits(binary.LittleEndian.Uint32(word))))
	}
	if got.Rows != f.Dataset.Splits.Train.Rows || len(got.Features) != len(columns) {
		t.Fatalf("%d rows and %d features", got.Rows, len(got.Features))
	}
	for i, feature := range got.Features {
		counts := make([]int64, len(feature.Edges)+1)
		for _, x := range columns[i] {
			below := 0
			for _, edge := range feature.Edges {
				if edge <= x {
					below++
				}
			}
			counts[below]++
		}
		if diff := cmp.Diff(counts, feature.Counts); diff != "" || feature.Name != f.Dataset.Columns[i] || len(feature.Edges) != 11 || feature.Edges[0] != slices.Min(columns[i]) {
			t.Errorf("feature %q with the edges %v (-counted +profile):\n%s", feature.Name, feature.Edges, diff)
		}
	}
}

func TestAProfileNeedsTheFunctionsOfThisRelease(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 1)
	if _, err := f.Connect(t).Exec(t.Context(), "drop function profile_inputs(json, bytea[])"); err != nil {
		t.Fatal(err)
	}
	if _, err := training.Profile(t.Context(), f.Config, schema, f.Dataset); fault.Of(err) != fault.Configuration {
		t.Errorf("error %v", err)
	}
}
