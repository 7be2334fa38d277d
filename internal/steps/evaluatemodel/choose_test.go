package evaluatemodel

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/insitu-ml/insitu/internal/fault"
)

func TestVersionsAreReadAsANumberOrAList(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]int{
		"": nil, "4": {4}, "[4]": {4}, `["4"]`: {4}, "[4, 5]": {4, 5}, `["12","7","3"]`: {12, 7, 3}, ` ["4"] `: {4},
	} {
		if got, err := parseVersions(text); err != nil || !cmp.Equal(want, got) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"0": `"0"; expected a version`, "four": "expected a version such as 4", "4, 5": "expected", "[]": "expected", "[4": "expected", "[4] [5]": "expected",
		`["4", 0]`: "expected", "[4.5]": "expected", "[null]": "expected", `[{"version": 4}]`: "expected", "[4, 5, 4]": "names version 4 twice",
	} {
		if got, err := parseVersions(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

// swept registers candidates as trainings leave them: version, learning rate, epochs, and loss and right rows of the
// 20 validation rows in the best epoch, which is the first of two.
func swept(t *testing.T, e *evaluator, f *fakeRegistry, rows ...[5]float64) {
	t.Helper()
	for _, r := range rows {
		version := int(r[0])
		f.add(version, identity, toyDigest)
		for _, sql := range []string{
			fmt.Sprintf(`delete from jobs where id = 'job%d'; delete from models where job = 'job%[1]d'; delete from checkpoints where job = 'job%[1]d'`, version),
			fmt.Sprintf(`insert into jobs values ('job%d', '{"parameters": {"learning_rate": %g, "epochs": %g, "hidden": 8}, "seed": 7}')`, version, r[1], r[2]),
			fmt.Sprintf(`insert into models values ('job%d', 1)`, version),
			fmt.Sprintf(`insert into checkpoints values ('job%d', 0, '{}'),
				('job%[1]d', 1, '{"shards": [], "validation": {"rows": 20, "loss": %g, "correct": %g}}'),
				('job%[1]d', 2, '{"shards": [], "validation": {"rows": 20, "loss": 1, "correct": 20}}')`, version, r[3], r[4]),
		} {
			if _, err := e.db.Exec(context.Background(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTheLowestValidationLossIsChosen(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		rows [][5]float64
		want int
	}{
		"the lowest, not the most accurate":           {[][5]float64{{5, 0.1, 3, 12, 19}, {6, 0.1, 6, 9, 17}, {7, 0.01, 3, 10, 18}}, 6},
		"the earliest of equals":                      {[][5]float64{{5, 0.1, 3, 12, 19}, {6, 0.1, 6, 9, 17}, {7, 0.01, 3, 9, 18}}, 6},
		"the loss of the model's epoch, not the last": {[][5]float64{{5, 0.1, 3, 12, 19}, {6, 0.1, 6, 11, 17}}, 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, done := load(t)
			defer done()
			models := newRegistry()
			e := newEvaluator(db, models)
			logged, logs := observer.New(zap.InfoLevel)
			e.log = zap.New(logged)
			swept(t, e, models, test.rows...)
			// Choosing looks at no packs, so at no test row.
			if _, err := db.Exec(context.Background(), "alter table packs_toy rename to packs_elsewhere"); err != nil {
				t.Fatal(err)
			}
			var versions []int
			for _, r := range test.rows {
				versions = append(versions, int(r[0]))
			}
			if err := e.choose(context.Background(), versions); err != nil {
				t.Fatal(err)
			}
			if e.Version != test.want {
				t.Errorf("version %d is chosen, want %d", e.Version, test.want)
			}
			candidates := logs.FilterMessage("candidate").All()
			if len(candidates) != len(test.rows) {
				t.Fatalf("%d candidates are logged", len(candidates))
			}
			first := candidates[0].ContextMap()
			want := map[string]any{"version": int64(5), "validation_loss": 0.6, "validation_accuracy": 0.95, "parameters": e.contenders[0].Parameters}
			if diff := cmp.Diff(want, first); diff != "" {
				t.Errorf("log of the first candidate (-want +got):\n%s", diff)
			}
		})
	}
}

func TestASweepIsToldInTheReportTheTagsAndTheNumbers(t *testing.T) {
	t.Parallel()
	db, done := load(t)
	defer done()
	models := newRegistry()
	e := newEvaluator(db, models)
	swept(t, e, models, [5]float64{5, 0.1, 3, 12, 19}, [5]float64{6, 0.1, 6, 9, 17}, [5]float64{7, 0.01, 3, 10, 18})
	if err := e.choose(context.Background(), []int{5, 6, 7}); err != nil {
		t.Fatal(err)
	}
	r, err := e.evaluate(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if r.Version != 6 {
		t.Errorf("version %d is evaluated", r.Version)
	}
	if got, want := models.versions[6].Tags["insitu.sweep"], "lowest validation loss of 3 candidates: versions 5, 6, 7"; got != want {
		t.Errorf("tag %q, want %q", got, want)
	}
	for _, other := range []int{5, 7} {
		if tags := models.versions[other].Tags; tags["insitu.sweep"]+tags["insitu.passed"] != "" {
			t.Errorf("tags of version %d: %v", other, tags)
		}
	}
	for _, want := range []string{
		`<th scope="col" class="n">epochs</th><th scope="col" class="n">learning_rate</th><th scope="col" class="n">Validation loss</th>`,
		`<th scope="row">5</th><td class="n">3</td><td class="n">0.1</td><td class="n">0.600</td><td class="n">0.950</td><td class="n"></td>`,
		`<th scope="row">6</th><td class="n">6</td><td class="n">0.1</td><td class="n">0.450</td><td class="n">0.850</td><td class="n"><span class="mark ok">✓ chosen</span></td>`,
	} {
		if !strings.Contains(string(r.page), want) {
			t.Errorf("the report lacks %s", want)
		}
	}
	if numbers := string(models.artifacts["run6/evaluation/metrics.json"]); !strings.Contains(numbers, `"validation_loss": 0.45`) || strings.Contains(numbers, "hidden") {
		t.Errorf("metrics.json:\n%s", numbers)
	}

	alone := newEvaluator(db, models)
	if err := alone.choose(context.Background(), []int{7}); err != nil {
		t.Fatal(err)
	}
	if r, err = alone.evaluate(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, tagged := models.versions[7].Tags["insitu.sweep"]; tagged || r.Contenders != nil || strings.Contains(string(r.page), "Sweep") {
		t.Errorf("one version makes a sweep: %v", models.versions[7].Tags)
	}
}

func TestWhatCannotBeChosenFrom(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(*testing.T, *evaluator, *fakeRegistry)
		class   fault.Class
		want    string
	}{
		"a version that is not there": {func(*testing.T, *evaluator, *fakeRegistry) {}, fault.Permanent, "version 6"},
		"a version of another schema": {func(_ *testing.T, _ *evaluator, f *fakeRegistry) { f.add(6, identity, toyDigest) }, fault.Configuration, "no validation loss of version 6 to choose by"},
		"versions of two datasets": {func(t *testing.T, e *evaluator, f *fakeRegistry) {
			swept(t, e, f, [5]float64{6, 0.1, 3, 9, 17})
			f.versions[6].Tags["insitu.dataset-digest"] = "other"
		}, fault.Configuration, "versions 5 and 6 learned from different datasets, feedfacefeedface and other"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, done := load(t)
			defer done()
			models := newRegistry()
			e := newEvaluator(db, models)
			swept(t, e, models, [5]float64{5, 0.1, 3, 12, 19})
			test.prepare(t, e, models)
			if err := e.choose(context.Background(), []int{5, 6}); err == nil || fault.Of(err) != test.class || !strings.Contains(err.Error(), test.want) {
				t.Errorf("class %v, error %v; want class %v and %q", fault.Of(err), err, test.class, test.want)
			}
		})
	}
}
