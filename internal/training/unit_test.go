package training

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/insitu-ml/insitu/internal/postgres"
)

func curveOf(losses ...float64) (curve []Epoch) {
	for i, l := range losses {
		curve = append(curve, Epoch{Epoch: i + 1, Validation: &Sums{Rows: 2, Loss: 2 * l}})
	}
	return curve
}

func TestTheBestEpochAndWhenToStop(t *testing.T) {
	t.Parallel()
	noValidation := []Epoch{
		{Epoch: 1, Shards: []Shard{{Sums: Sums{Rows: 1, Loss: 3}}, {Sums: Sums{Rows: 1, Loss: 1}}}},
		{Epoch: 2, Shards: []Shard{{Sums: Sums{Rows: 2, Loss: 2}}}},
	}
	for _, test := range []struct {
		name     string
		curve    []Epoch
		patience int
		best     int
		stop     bool
	}{
		{"no epoch yet", nil, 1, 0, false},
		{"the lowest loss is the best", curveOf(3, 1, 2), 0, 2, false},
		{"the earliest of equals is the best", curveOf(2, 1, 1), 0, 2, false},
		{"a loss of zero can be beaten by nothing", curveOf(0, 1), 0, 1, false},
		{"patience 0 never stops", curveOf(1, 2, 3, 4), 0, 1, false},
		{"patience is not used up yet", curveOf(2, 1, 3), 2, 2, false},
		{"patience is used up", curveOf(2, 1, 3, 4), 2, 2, true},
		{"an equal epoch is no better", curveOf(1, 1), 1, 1, true},
		{"a better one renews patience", curveOf(3, 4, 2), 2, 3, false},
		{"without a validation split the train loss decides", noValidation, 0, 2, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if best, stop := choose(test.curve, test.patience); best != test.best || stop != test.stop {
				t.Errorf("best %d, stop %t; want %d, %t", best, stop, test.best, test.stop)
			}
		})
	}
}

func TestAnEpochsFigures(t *testing.T) {
	t.Parallel()
	e := Epoch{Seconds: 4, Shards: []Shard{{Sums: Sums{Rows: 10, Loss: 5, Correct: 8}, Seconds: 1}, {Sums: Sums{Rows: 30, Loss: 3, Correct: 30}, Seconds: 3}}}
	if diff := cmp.Diff(Sums{Rows: 40, Loss: 8, Correct: 38}, e.Train()); diff != "" {
		t.Error(diff)
	}
	if e.RowsPerSecond() != 10 || Skew(e.Shards) != 1.5 || e.Train().MeanLoss() != 0.2 || e.Train().Accuracy() != 0.95 {
		t.Errorf("rows per second %v, skew %v, loss %v, accuracy %v", e.RowsPerSecond(), Skew(e.Shards), e.Train().MeanLoss(), e.Train().Accuracy())
	}
	if none := (Epoch{}); none.RowsPerSecond() != 0 || Skew(none.Shards) != 1 || none.Train().MeanLoss() != 0 || none.Train().Accuracy() != 0 {
		t.Error("an empty epoch divides by zero")
	}
}

func TestNoticesBecomeProgress(t *testing.T) {
	t.Parallel()
	var told [][2]int64
	d := &Driver{job: Job{Epochs: 2, TrainRows: 100, Spec: Spec{Shards: 2}}}
	d.rows = make([]atomic.Int64, 2)
	d.options.Progress = func(done, total int64) { told = append(told, [2]int64{done, total}) }
	for _, text := range []string{
		`{"insitu": "progress", "shard": 0, "rows": 30}`,
		`{"insitu": "progress", "shard": 1, "rows": 20}  (seg1 slice1 10.0.0.1:6001 pid=7)`, // Greenplum's suffix
		`{"insitu": "progress", "shard": 2, "rows": 1}`,                                     // no such shard
		`{"insitu": "epoch", "shard": 0, "rows": 1}`,
		`table "x" does not exist, skipping`,
		``,
	} {
		d.notice(&pgconn.Notice{Message: text})
	}
	if diff := cmp.Diff([][2]int64{{30, 200}, {50, 200}}, told); diff != "" {
		t.Error(diff)
	}
}

func TestASpecIsJSONWithAndWithoutItsBrace(t *testing.T) {
	t.Parallel()
	s := Spec{
		Input:      Input{Task: "classification", Shape: []int{2}, DType: "float32", Classes: []string{"<a>", "b"}, Statistics: Statistics{Shape: []int{1}, Mean: []float64{4.5}, Std: []float64{6}}},
		Parameters: map[string]any{"rate": 0.1, "epochs": int64(3)}, Seed: 7, Shards: 2,
	}
	var whole, opened map[string]any
	if err := json.Unmarshal([]byte(s.text()), &whole); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(s.open(4, fillCache)+`,"shard":1}`), &opened); err != nil {
		t.Fatal(err)
	}
	whole["epoch"], whole["shard"], whole["cache"] = 4.0, 1.0, "fill"
	if diff := cmp.Diff(whole, opened); diff != "" {
		t.Error(diff)
	}
}

func TestThePlacementIsTheLastEpochsAtTheAveragePace(t *testing.T) {
	t.Parallel()
	shard := func(n, process int, seconds float64) Shard {
		return Shard{Sums: Sums{Rows: 10}, Shard: n, Packs: 2, Process: process, Seconds: seconds}
	}
	got := Placement([]Epoch{{Shards: []Shard{shard(0, 7, 2), shard(1, 8, 4)}}, {Shards: []Shard{shard(0, 9, 4), shard(1, 8, 8)}}})
	if diff := cmp.Diff([]Shard{shard(0, 9, 3), shard(1, 8, 6)}, got); diff != "" || Placement(nil) != nil {
		t.Error(diff)
	}
	segment := 3
	if a, b := got[0].Place(), (Shard{Segment: &segment}).Place(); a != "session 9" || b != "segment 3" || got[1].RowsPerSecond() != 10.0/6 {
		t.Errorf("places %q and %q, %v rows a second", a, b, got[1].RowsPerSecond())
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

// The statements that differ between kinds of servers, as they are sent.
func TestStatementsOfTheDialects(t *testing.T) {
	t.Parallel()
	for _, version := range []string{
		"PostgreSQL 15.18 (Debian 15.18-0+deb12u1) on x86_64-pc-linux-gnu",
		"PostgreSQL 9.4.26 (Greenplum Database 6.24.3 build commit:25d3498) on x86_64-unknown-linux-gnu",
	} {
		d := postgres.DialectOf(version)
		for _, name := range []string{"fingerprint.sql", "fit.sql", "score.sql"} {
			golden := filepath.Join("testdata", d.Name, name)
			got := statement(d, name, "packs_0123456789abcdef")
			if *update {
				if err := errors.Join(os.MkdirAll(filepath.Dir(golden), 0o700), os.WriteFile(golden, []byte(got), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s: %s: %s", d.Name, name, diff)
			}
		}
	}
}

func TestWorkOnTheCoordinatorIsRefused(t *testing.T) {
	t.Parallel()
	d := &Driver{job: Job{PackTable: "packs_1"}, sessions: &sessions{lead: &postgres.Conn{Dialect: postgres.DialectOf("Greenplum Database 6")}}}
	for metrics, refused := range map[string]bool{`{"shard": 0, "segment": 0}`: false, `{"shard": 0, "segment": 3}`: false, `{"shard": 1, "segment": -1}`: true, `{"shard": 1, "segment": null}`: true} {
		if err := d.placed("train", []learned{{metrics: metrics}}); (err != nil) != refused {
			t.Errorf("%s: error %v", metrics, err)
		}
	}
}
