package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// schema is an inference schema with a classifier and a regression, of which the classifier is active.
func schema(t *testing.T) (Place, func(sql string, args ...any)) {
	t.Helper()
	cfg := changelogtest.Server(t)
	p := Place{Schema: changelogtest.Schema(t, cfg, "Monitor")}
	var err error
	if p.Conn, err = postgres.Connect(t.Context(), cfg, postgres.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Conn.Close)
	exec := func(sql string, args ...any) {
		t.Helper()
		if len(args) == 0 {
			args = []any{pgx.QueryExecModeSimpleProtocol}
		}
		if _, err := p.Conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%.200s: %v", sql, err)
		}
	}
	exec("create schema " + postgres.Ident(p.Schema) + "; set search_path to " + postgres.Ident(p.Schema) + ", public")
	sets, err := changelog.Load(database.Inference, p.Conn.Dialect)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range sets {
		exec(set.SQL)
	}
	exec(`insert into model_blobs values ('d', ''); insert into models (name, version, digest, manifest, metrics)
		values ('pets', 1, 'd', '{}', '{"test_accuracy": 0.9}'), ('pets', 2, 'd', '{}', '{"test_accuracy": 0.9}'), ('prices', 1, 'd', '{}', '{"test_r2": 0.8}');
		insert into activations (ordinal, name, version) values (1, 'pets', 1)`)
	exec(`insert into profiles (name, version, profile) values ('pets', 1, $1), ('prices', 1, $2)`,
		`{"rows": 100, "features": [{"name": "mean", "edges": [1, 2], "counts": [50, 50, 0]}, {"name": "deviation", "edges": [5], "counts": [40, 60]}],
		"prediction": {"labels": ["cat", "dog"], "counts": [10, 30]}, "confidence": {"edges": [0.5], "counts": [1, 3]}}`,
		`{"rows": 100, "features": [], "prediction": {"edges": [10, 20], "counts": [1, 2, 1]}}`)
	return p, exec
}

func (p Place) psi(t *testing.T, expected, observed []float64) *float64 {
	t.Helper()
	var psi *float64
	if err := p.Conn.QueryRow(t.Context(), "select psi($1::float8[], $2::float8[])", expected, observed).Scan(&psi); err != nil {
		t.Fatal(err)
	}
	return psi
}

func TestTheIndexIsThatOfNumpy(t *testing.T) {
	t.Parallel()
	p, _ := schema(t)
	text, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Expected, Observed []float64
		PSI                float64
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if got := p.psi(t, c.Expected, c.Observed); got == nil || math.Abs(*got-c.PSI) > 1e-9 {
			t.Errorf("case %d: %v, want %v", i, number(got), c.PSI)
		}
	}
}

func TestTheIndexIsADistance(t *testing.T) {
	t.Parallel()
	p, _ := schema(t)
	random := rand.New(rand.NewPCG(7, 8))
	counts := func(bins int) []float64 {
		out := make([]float64, bins)
		for i := range out {
			out[i] = float64(random.IntN(50))
		}
		out[random.IntN(bins)]++
		return out
	}
	for range 200 {
		bins := 1 + random.IntN(20)
		a, b := counts(bins), counts(bins)
		more := make([]float64, bins)
		for i := range a {
			more[i] = 7 * a[i]
		}
		if got := p.psi(t, a, more); got == nil || math.Abs(*got) > 1e-12 {
			t.Errorf("%v and seven times as many: %s, want 0", a, number(got))
		}
		there, back := p.psi(t, a, b), p.psi(t, b, a)
		if there == nil || back == nil || math.Abs(*there-*back) > 1e-12 || *there < 0 {
			t.Errorf("%v to %v: %s, back: %s; expected the same, and not less than 0", a, b, number(there), number(back))
		}
	}
	if got := p.psi(t, []float64{1, 2}, []float64{0, 0}); got != nil {
		t.Errorf("without rows: %g, want nothing", *got)
	}
}

// log adds predictions of the active classifier: how many, of which label and probability, in which bins.
const log = `insert into prediction_log (at, mode, input_hash, bucket, champion_name, champion_version, champion_label, champion_probability, answered_by, bins)
	select now() - $1 * interval '1 hour', 'sample', md5(random()::text), 0, 'pets', $2, $3, $4, 'champion', $5 from generate_series(1, $6)`

func TestDriftIsThatOfTheActiveVersionWithinTheWindow(t *testing.T) {
	t.Parallel()
	p, exec := schema(t)
	exec(log, 1, 1, "cat", 0.4, []int16{0, 0}, 10)
	exec(log, 1, 1, "dog", 0.9, []int16{1, 1}, 20)
	exec(log, 1, 1, "dog", 0.9, []int16{2, 1}, 10)
	exec(log, 30, 1, "cat", 0.1, []int16{2, 0}, 500) // too old
	exec(log, 1, 2, "cat", 0.1, []int16{2, 0}, 500)  // of another version
	exec(log, 1, 1, "cat", 0.1, nil, 500)            // not of the sample
	s, err := Read(t.Context(), p, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range s.Drift {
		got = append(got, fmt.Sprintf("%s %s %d %s", d.Kind, d.Name, d.Rows, number(d.PSI)))
	}
	index := func(e, o []float64) string { return number(p.psi(t, e, o)) }
	want := []string{
		"prediction prediction 40 " + index([]float64{1, 3}, []float64{1, 3}), "confidence confidence 40 0.000",
		"input mean 40 " + index([]float64{50, 50, 0}, []float64{10, 20, 10}), "input deviation 40 " + index([]float64{40, 60}, []float64{10, 30}),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("drift (-want +got):\n%s", d)
	}
	if s.Model != "pets" || s.Version != 1 || s.Rows() != 40 || !s.Profile || s.Share != 0 || s.Test == nil || *s.Test != 0.9 {
		t.Errorf("%+v", s)
	}
}

func TestARegressionsNumbersAreSortedIntoRanges(t *testing.T) {
	t.Parallel()
	p, exec := schema(t)
	exec("insert into activations (ordinal, name, version) values (2, 'prices', 1)")
	for label, n := range map[string]int{"-3.5": 10, "10": 10, "15.25": 10, "1e3": 10} {
		exec(`insert into prediction_log (mode, input_hash, bucket, champion_name, champion_version, champion_label, answered_by, bins)
			select 'sample', $1 || i, 0, 'prices', 1, $1, 'champion', '{}' from generate_series(1, $2) i`, label, n)
	}
	exec("insert into feedback (input_hash, label) select input_hash, champion_label::float8 + case when random() < 2 then 1 end from prediction_log where champion_label <> '1e3'")
	s, err := Read(t.Context(), p, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Drift) != 1 || s.Drift[0].Rows != 40 || s.Drift[0].PSI == nil || math.Abs(*s.Drift[0].PSI) > 1e-12 {
		t.Errorf("drift %+v, want none in one measure of 40 rows", s.Drift)
	}
	// R2 of predictions that are 1 too low: the truths are -2.5, 11 and 16.25, ten of each.
	mean := (-2.5 + 11 + 16.25) / 3
	r2 := 1 - 3/(math.Pow(-2.5-mean, 2)+math.Pow(11-mean, 2)+math.Pow(16.25-mean, 2))
	if s.Truths != 30 || s.Accuracy == nil || math.Abs(*s.Accuracy-r2) > 1e-9 {
		t.Errorf("R2 %s over %d truths, want %.3f over 30", number(s.Accuracy), s.Truths, r2)
	}
}

func TestAccuracyIsThatOfThePredictionsWhoseTruthIsKnown(t *testing.T) {
	t.Parallel()
	p, exec := schema(t)
	exec(log, 1, 1, "cat", 0.4, []int16{0, 0}, 30)
	exec(log, 1, 1, "dog", 0.4, []int16{0, 0}, 10)
	exec("insert into feedback (input_hash, label) select input_hash, 'cat' from prediction_log")
	exec(log, 1, 1, "dog", 0.4, []int16{0, 0}, 100)
	s, err := Read(t.Context(), p, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if s.Truths != 40 || s.Accuracy == nil || *s.Accuracy != 0.75 {
		t.Errorf("accuracy %s over %d truths, want 0.75 over 40", number(s.Accuracy), s.Truths)
	}
}

func TestOldPredictionsAreDeletedOnceTheSamplingSaysHowOld(t *testing.T) {
	t.Parallel()
	p, exec := schema(t)
	exec(log, 49, 1, "cat", 0.4, []int16{0, 0}, 7)
	exec(log, 47, 1, "cat", 0.4, []int16{0, 0}, 5)
	for _, want := range []int64{0, 7, 0} {
		gone, err := Prune(t.Context(), p)
		if err != nil || gone != want {
			t.Errorf("deleted %d rows, error %v, want %d", gone, err, want)
		}
		exec("select set_sampling(0.5, '2 days')")
	}
}

func TestTheVerdictNamesWhatCrossedALimit(t *testing.T) {
	t.Parallel()
	x := func(v float64) *float64 { return &v }
	drift := func(rows int64, psi ...float64) (out []Drift) {
		for i, v := range psi {
			out = append(out, Drift{Kind: "input", Name: fmt.Sprintf("x{{%d", i), Rows: rows, PSI: x(v)})
		}
		return out
	}
	limits := Limits{PSI: 0.2, AccuracyDrop: 0.05, Rows: 500, Truths: 100}
	for name, c := range map[string]struct {
		state   State
		crossed bool
		reason  string
	}{
		"nothing is known":        {State{}, false, "drift is not known: the version has no profile (it was trained or evaluated by an older release); accuracy is not compared: the version has none of an evaluation"},
		"too few rows":            {State{Profile: true, Drift: drift(499, 9), Test: x(.9), Truths: 99, Accuracy: x(0)}, false, "drift is not known: 499 predictions in the sample, at least 500 are needed; accuracy is not known: 99 truths, at least 100 are needed"},
		"all is well":             {State{Profile: true, Drift: drift(500, .1, .2), Test: x(.9), Truths: 100, Accuracy: x(.86)}, false, "PSI is at most 0.200 in 500 predictions; accuracy is 0.860 over 100 truths, 0.900 at the evaluation"},
		"some features drifted":   {State{Profile: true, Drift: drift(500, .1, .3, .25, .4, 1), Test: x(.9)}, true, `PSI 1.000 of the input "x{ {4", 0.400 of the input "x{ {3", 0.300 of the input "x{ {1", and 1 more is above 0.2 in 500 predictions`},
		"the predictions drifted": {State{Profile: true, Drift: []Drift{{Kind: "prediction", Rows: 600, PSI: x(.5)}}}, true, "PSI 0.500 of the prediction is above 0.2 in 600 predictions"},
		"it is wrong too often":   {State{Profile: true, Drift: drift(500, .1), Test: x(.9), Truths: 100, Accuracy: x(.84)}, true, "accuracy 0.840 over 100 truths is more than 0.05 below 0.900, that of the evaluation"},
	} {
		c.state.Model, c.state.Version = "pets", 1
		want := Verdict{c.crossed, "model pets version 1: " + c.reason}
		if d := cmp.Diff(want, Judge(c.state, limits)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestARetrainingIsAskedForOnce(t *testing.T) {
	t.Parallel()
	p, exec := schema(t)
	ask := func(a Ask) Answer {
		t.Helper()
		a.Model = "pets"
		if a.Version == 0 {
			a.Version = 1
		}
		answer, err := Retrain(t.Context(), p, a)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	says := func(a Answer, run bool, why string) {
		t.Helper()
		if (a.Run != "") != run || !strings.Contains(a.Why, why) {
			t.Errorf("%+v, want a run: %t, and %q", a, run, why)
		}
	}
	says(ask(Ask{Version: 2}), false, "another version became active")
	first := ask(Ask{Reason: "drift", Check: "one"})
	says(first, true, "is to be submitted")
	if !strings.HasPrefix(first.Run, "retrain-monitor") || len(first.Run) > 63 {
		t.Errorf("the run is called %q", first.Run)
	}
	again := ask(Ask{Check: "one"})
	says(again, true, "asked for retraining "+first.Run+" before")
	if again.Run != first.Run {
		t.Errorf("the same check got %q and then %q", first.Run, again.Run)
	}
	says(ask(Ask{Check: "two"}), false, first.Run+" is open")
	if err := End(t.Context(), p, "nobody's", "x"); fault.Of(err) != fault.Configuration {
		t.Errorf("the end of a run that is not there: %v", err)
	}
	for _, result := range []string{"Succeeded", "Failed"} {
		if err := End(t.Context(), p, first.Run, result); err != nil {
			t.Fatal(err)
		}
	}
	var result string
	if err := p.Conn.QueryRow(t.Context(), "select result from retrainings").Scan(&result); err != nil || result != "Succeeded" {
		t.Errorf("result %q, error %v", result, err)
	}
	says(ask(Ask{Check: "one"}), false, "and it has ended")
	says(ask(Ask{Cooldown: time.Hour}), false, "the next one may begin at")
	exec("update retrainings set ended_at = now() - interval '61 minutes'")
	second := ask(Ask{Cooldown: time.Hour})
	says(second, true, "is to be submitted")

	// Deployed by somebody who tells nobody.
	exec("insert into activations (ordinal, name, version, activated_at) values (2, 'pets', 2, clock_timestamp())")
	says(ask(Ask{Version: 2}), true, "is to be submitted")
	// A rollback ends nothing.
	exec("insert into deployments (ordinal, action, name, version) values (3, 'rollback', 'pets', 1); insert into activations (ordinal, name, version, activated_at) values (3, 'pets', 1, clock_timestamp())")
	says(ask(Ask{}), false, "is open")
	exec("update retrainings set requested_at = now() - interval '9 days' where ended_at is null")
	says(ask(Ask{}), true, "is to be submitted")
	rows, err := p.Conn.Query(t.Context(), "select coalesce(result, '') from retrainings order by ordinal")
	if err != nil {
		t.Fatal(err)
	}
	results, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if d := cmp.Diff([]string{"Succeeded", "deployed", "lost", ""}, results); err != nil || d != "" {
		t.Errorf("results: %v (-want +got):\n%s", err, d)
	}
}

func TestASchemaOfAnOlderReleaseIsNamed(t *testing.T) {
	t.Parallel()
	p, exec := schema(t)
	exec("drop function drift(timestamptz)")
	_, err := Read(context.Background(), p, time.Hour)
	if fault.Of(err) != fault.Configuration || !strings.Contains(err.Error(), "this release's deploy-inference-db") {
		t.Errorf("error %v", err)
	}
	exec("truncate activations")
	if _, err = Read(context.Background(), p, time.Hour); fault.Of(err) != fault.Configuration || !strings.Contains(err.Error(), "no model is active") {
		t.Errorf("error %v", err)
	}
}

func TestMetricsAreThoseOfTheState(t *testing.T) {
	t.Parallel()
	psi, right := 0.25, 0.5
	text, err := Metrics("team-a", State{Model: "pets", Version: 3, Drift: []Drift{{"input", `"odd"`, 40, &psi}, {"confidence", "confidence", 0, nil}}, Truths: 4, Accuracy: &right}, Verdict{Crossed: true})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	of := `model="pets",schema="team-a",version="3"}`
	want := []string{"insitu_drift_crossed{" + of + " 1", `insitu_drift_psi{feature="\"odd\"",kind="input",` + of + " 0.25", "insitu_live_accuracy{" + of + " 0.5", "insitu_live_truths{" + of + " 4", "insitu_sampled_predictions{" + of + " 40"}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
