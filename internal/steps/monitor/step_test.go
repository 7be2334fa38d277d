package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/registry/registrytest"
	"github.com/insitu-ml/insitu/internal/step/steptest"
	"github.com/insitu-ml/insitu/internal/training"
	"github.com/insitu-ml/insitu/internal/training/trainingtest"
)

// trained is a model of the training database and what its steps leave in the registry.
type trained struct {
	fixture   *trainingtest.Fixture
	model     training.Model
	artifacts map[string][]byte
}

func (s trained) ModelVersion(context.Context, string, int) (registry.ModelVersion, error) {
	return registry.ModelVersion{}, nil
}

func (s trained) GetRun(context.Context, string) (registry.Run, error) { return registry.Run{}, nil }

func (s trained) DownloadArtifact(_ context.Context, _ registry.Run, path string, _ int64) ([]byte, error) {
	if text, ok := s.artifacts[path]; ok {
		return text, nil
	}
	return nil, registry.ErrNotFound
}

func train(t *testing.T) trained {
	t.Helper()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	c := f.Connect(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	release, err := training.ReadRelease(t.Context(), c, schema, f.App.Digest)
	must(err)
	parameters, err := f.App.Manifest.Resolve(nil)
	must(err)
	rows, err := training.Fingerprint(t.Context(), f.Config, schema, f.Dataset)
	must(err)
	id, err := mlapp.Job{Code: f.App.Digest, Dataset: f.Dataset.Digest, Rows: rows, Parameters: parameters, Seed: 1}.ID()
	must(err)
	spec := training.Spec{Input: training.InputOf(f.Dataset), Parameters: parameters, Seed: 1, Shards: 2, Rows: rows}
	driver, err := training.Open(t.Context(), f.Config, training.Job{ID: id, Release: release, Dataset: f.Dataset.Digest, PackTable: f.Dataset.Table,
		TrainRows: f.Dataset.Splits.Train.Rows, Spec: spec, Epochs: 3}, training.Options{Schema: schema})
	must(err)
	defer driver.Close()
	model, err := driver.Train(t.Context())
	must(err)
	inputs, err := training.Profile(t.Context(), f.Config, schema, f.Dataset)
	must(err)

	scores, err := evaluation.New(evaluation.Classification, f.Classes, 0)
	must(err)
	packs, err := c.Query(t.Context(), "select id, n, labels, predict_onnx($1, $2, data, n) from "+postgres.Ident(f.Dataset.Table)+" where split = 'test' order by id", model.ONNX, model.ONNXDigest)
	must(err)
	list, err := pgx.CollectRows(packs, pgx.RowToStructByPos[evaluation.Pack])
	must(err)
	for _, p := range list {
		must(scores.Add(p))
	}
	metrics, err := json.Marshal(map[string]any{"candidate": scores.Metrics()})
	must(err)
	return trained{f, model, map[string][]byte{registry.ArtifactInputs: inputs, registry.ArtifactMetrics: metrics}}
}

// deployed is the inference schema of a trained model, of which every prediction is sampled.
type deployed struct {
	schema string
	server postgres.Config
	conn   *postgres.Conn
}

func (d deployed) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if len(args) == 0 {
		args = []any{pgx.QueryExecModeSimpleProtocol}
	}
	if _, err := d.conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
}

func deploy(t *testing.T, m trained) deployed {
	t.Helper()
	d := deployed{server: changelogtest.Server(t)}
	d.schema = changelogtest.Schema(t, d.server, "Monitored")
	var err error
	if d.conn, err = postgres.Connect(t.Context(), d.server, postgres.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.conn.Close)
	d.exec(t, "create schema "+postgres.Ident(d.schema)+"; set search_path to "+postgres.Ident(d.schema)+", public")
	sets, err := changelog.Load(database.Inference, d.conn.Dialect)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range sets {
		d.exec(t, set.SQL)
	}
	d.exec(t, "insert into model_blobs values ($1, $2)", m.model.ONNXDigest, m.model.ONNX)
	manifest, err := json.Marshal(map[string]any{"task": "classification", "classes": m.fixture.Classes, "input": training.InputOf(m.fixture.Dataset)})
	if err != nil {
		t.Fatal(err)
	}
	d.exec(t, `insert into models (name, version, digest, manifest, metrics) select 'blobs', v, $1, $2::text::json, '{"test_accuracy": 0.97}' from generate_series(1, 2) v`, m.model.ONNXDigest, string(manifest))
	d.exec(t, "insert into activations (ordinal, name, version) values (1, 'blobs', 1)")
	for version := range 2 {
		v := inference.Version{Name: "blobs", Version: version + 1}
		profile, err := inference.FetchProfile(t.Context(), m, v)
		for range 2 { // the second time changes nothing
			err = errors.Join(err, inference.StoreProfile(t.Context(), d.conn, d.schema, v, profile))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	d.exec(t, "select set_sampling(1)")
	return d
}

// call predicts rows like those of training, moved by that much in one feature, and says what they really are.
func (d deployed) call(t *testing.T, rows int, moved float64) {
	t.Helper()
	random := rand.New(rand.NewPCG(3, uint64(rows)))
	var list [][]float64
	for range rows {
		class, row := random.IntN(3), make([]float64, 8)
		for i := range row {
			row[i] = 2*float64((i*(class+2)/2)%3-1) + random.NormFloat64()
		}
		row[2] += moved
		list = append(list, row)
	}
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	d.exec(t, "select count(label) from predict_rows($1::text::json)", string(text))
}

func (d deployed) flags(more map[string]string) map[string]string {
	flags := map[string]string{"inference-schema": d.schema, "inference-host": d.server.Host, "inference-port": strconv.Itoa(d.server.Port),
		"inference-database": d.server.Database, "inference-username": d.server.Username, "inference-password": d.server.Password}
	maps.Copy(flags, more)
	return flags
}

func (d deployed) check(t *testing.T, more map[string]string) (steptest.Result, Report) {
	t.Helper()
	var told Report
	r := steptest.Run(t, Spec(func(r Report) { told = r }), d.flags(more))
	if r.Code != 0 {
		t.Fatalf("exit code %d: %s", r.Code, r.Message)
	}
	return r, told
}

// checks does as many at the same time, eight sessions at once, and returns the runs they got.
func (d deployed) checks(t *testing.T, n int) (runs []string) {
	t.Helper()
	var wait sync.WaitGroup
	var mu sync.Mutex
	turn := make(chan struct{}, 8)
	for i := range n {
		wait.Add(1)
		go func() {
			defer wait.Done()
			turn <- struct{}{}
			defer func() { <-turn }()
			r := steptest.Run(t, Spec(func(Report) {}), d.flags(map[string]string{"retrain": "true", "cooldown": "1h", "check": fmt.Sprintf("monitor-%d-%d", n, i)}))
			mu.Lock()
			defer mu.Unlock()
			if r.Code != 0 || r.Outputs["crossed"] != "true" {
				t.Errorf("check %d: exit code %d, %s, outputs %v", i, r.Code, r.Message, r.Outputs)
			}
			if r.Outputs["retrain"] == "true" {
				runs = append(runs, r.Outputs["run"])
			}
		}()
	}
	wait.Wait()
	return runs
}

func TestShiftedCallsLeadToOneRetrainingInAHundredChecks(t *testing.T) {
	t.Parallel()
	d := deploy(t, train(t))

	d.call(t, 600, 0)
	calm, told := d.check(t, map[string]string{"retrain": "true", "exit-code": "true"})
	if calm.Outputs["crossed"] != "false" || calm.Outputs["retrain"] != "false" || calm.Outputs["arguments"] != "[]" || told.Signal {
		t.Fatalf("calls like those of training: %v\n%s", calm.Outputs, told.Text)
	}
	if psi, err := strconv.ParseFloat(calm.Outputs["psi"], 64); err != nil || psi < 0 || psi > 0.15 {
		t.Errorf("calls like those of training have a PSI of %s", calm.Outputs["psi"])
	}

	d.exec(t, "truncate prediction_log")
	d.call(t, 600, 3)
	moved, told := d.check(t, map[string]string{"exit-code": "true"})
	if moved.Outputs["crossed"] != "true" || moved.Outputs["retrain"] != "false" || !told.Signal || !strings.Contains(moved.Outputs["reason"], `of the input "value 3"`) {
		t.Fatalf("shifted calls: %v\n%s", moved.Outputs, told.Text)
	}
	for _, part := range []string{`PSI of the input "value 3"`, "crossed", "100 % are sampled"} {
		if !strings.Contains(told.Text, part) {
			t.Errorf("the report lacks %q:\n%s", part, told.Text)
		}
	}

	first := d.checks(t, 100)
	if len(first) != 1 {
		t.Fatalf("100 checks led to %d retrainings: %v", len(first), first)
	}
	again, _ := d.check(t, map[string]string{"retrain": "true", "check": d.text(t, "select monitor from retrainings"), "arguments": `{"app": "s3://apps/blobs.tar.gz", "epochs": 3}`})
	if again.Outputs["run"] != first[0] {
		t.Errorf("the same check, tried again, got the run %q, expected %q", again.Outputs["run"], first[0])
	}
	var parameters []struct{ Name, Value string }
	if err := json.Unmarshal([]byte(again.Outputs["arguments"]), &parameters); err != nil {
		t.Fatal(err)
	}
	want := []struct{ Name, Value string }{{"inference-schema", d.schema}, {"reason", again.Outputs["reason"]}, {"app", "s3://apps/blobs.tar.gz"}, {"epochs", "3"}}
	if diff := cmp.Diff(want, parameters); diff != "" {
		t.Errorf("arguments of the run (-want +got):\n%s", diff)
	}

	for range 2 {
		if r, _ := d.check(t, map[string]string{"ended": first[0], "result": "Failed"}); r.Outputs["retrain"] != "false" {
			t.Errorf("the end of a retraining: %v", r.Outputs)
		}
	}
	if runs := d.checks(t, 20); runs != nil {
		t.Errorf("within the cool-down: %v", runs)
	}
	d.exec(t, "update retrainings set ended_at = ended_at - interval '61 minutes', requested_at = requested_at - interval '61 minutes'")
	if runs := d.checks(t, 21); len(runs) != 1 || runs[0] == first[0] {
		t.Errorf("after the cool-down 21 checks led to %v, expected one other run", runs)
	}

	// The new version has no calls yet: nothing is known of it, and nothing asked for.
	d.exec(t, "insert into activations (ordinal, name, version) values (2, 'blobs', 2)")
	fresh, _ := d.check(t, map[string]string{"retrain": "true", "cooldown": "0s"})
	if fresh.Outputs["crossed"] != "false" || !strings.Contains(fresh.Outputs["reason"], "0 predictions in the sample") {
		t.Errorf("a new version: %v", fresh.Outputs)
	}
}

func (d deployed) text(t *testing.T, sql string) (text string) {
	t.Helper()
	if err := d.conn.QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func TestWrongAnswersLeadToARetraining(t *testing.T) {
	t.Parallel()
	d := deploy(t, train(t))
	d.call(t, 600, 0)
	d.exec(t, "insert into feedback (input_hash, label) select input_hash, case when row_number() over () % 3 = 0 then 'other' else champion_label end from prediction_log")
	file := filepath.Join(t.TempDir(), "insitu.prom")
	r, _ := d.check(t, map[string]string{"metrics": file})
	if accuracy, err := strconv.ParseFloat(r.Outputs["accuracy"], 64); err != nil || math.Abs(accuracy-2.0/3) > 0.001 || r.Outputs["crossed"] != "true" || !strings.Contains(r.Outputs["reason"], "0.970, that of the evaluation") {
		t.Errorf("outputs %v", r.Outputs)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "insitu_drift_crossed{") {
		t.Errorf("metrics: %s, %v", text, err)
	}
}

func TestARoleWithoutOtherRightsMonitors(t *testing.T) {
	t.Parallel()
	d := deploy(t, train(t))
	d.call(t, 600, 3)
	role := changelogtest.Role(t, d.server)
	as := d
	as.server = role
	if r := steptest.Run(t, Spec(func(Report) {}), as.flags(nil)); r.Code != 2 {
		t.Errorf("without rights: exit code %d, %s", r.Code, r.Message)
	}
	d.exec(t, "select grant_monitoring($1)", role.Username)
	r, _ := as.check(t, map[string]string{"retrain": "true"})
	if r.Outputs["retrain"] != "true" {
		t.Errorf("outputs %v", r.Outputs)
	}
	as.check(t, map[string]string{"ended": r.Outputs["run"]})
	conn, err := postgres.Connect(t.Context(), role, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, sql := range []string{"select predict('x')", "delete from feedback", "insert into activations values (9, 'blobs', 2)", "select set_sampling(1)"} {
		at := postgres.Ident(d.schema) + "."
		for _, word := range []string{"predict(", "feedback", "activations", "set_sampling("} {
			sql = strings.Replace(sql, word, at+word, 1)
		}
		if _, err := conn.Exec(t.Context(), sql); postgres.State(err) != "42501" {
			t.Errorf("%s: %v, expected to be refused", sql, err)
		}
	}
}

func TestSettingsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	d := deployed{schema: "team-a", server: postgres.Config{Host: "localhost", Port: 1, Database: "d", Username: "u", Password: "p"}}
	for want, more := range map[string]map[string]string{
		"--metrics is \"x\"":                   {"metrics": "x"},
		"--window is 0s":                       {"window": "0s"},
		"--arguments has \"reason\"":           {"arguments": `{"reason": "x"}`},
		"--arguments has \"inference-schema\"": {"arguments": `{"inference-schema": "x"}`},
	} {
		if r := steptest.Run(t, Spec(func(Report) {}), d.flags(more)); r.Code != 2 || !strings.Contains(r.Message, want) {
			t.Errorf("%v: exit code %d, %q, expected 2 and %q", more, r.Code, r.Message, want)
		}
	}
}

func TestTheRegistryGetsTheMetricsAndMayBeAway(t *testing.T) {
	t.Parallel()
	d, s := deploy(t, train(t)), registrytest.New(t)
	d.call(t, 600, 0)
	client, err := registry.New(registry.Config{URI: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{registry.TagJob: "1"}
	experiment, err := client.EnsureExperiment(t.Context(), "blobs")
	if err != nil {
		t.Fatal(err)
	}
	run, err := client.EnsureRun(t.Context(), experiment, "one", tags, registry.TagJob)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.EnsureModelVersion(t.Context(), "blobs", run, "model", registry.TagJob, tags); err != nil {
		t.Fatal(err)
	}
	d.check(t, map[string]string{"mlflow-uri": s.URL})
	got := slices.Sorted(maps.Keys(s.Runs()[0].Metrics))
	if diff := cmp.Diff([]string{"live_psi_confidence/0", "live_psi_input/0", "live_psi_prediction/0", "live_rows/0", "live_truths/0"}, got); diff != "" {
		t.Errorf("metrics of the run (-want +got):\n%s", diff)
	}
	r, _ := d.check(t, map[string]string{"mlflow-uri": "http://127.0.0.1:1"})
	if !strings.Contains(r.Stderr, "the registry did not take the metrics") {
		t.Errorf("the log does not tell that the registry is away:\n%s", r.Stderr)
	}
}
