package trainmodel_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/registry/registrytest"
	"github.com/insitu-ml/insitu/internal/step/steptest"
	"github.com/insitu-ml/insitu/internal/steps/trainmodel"
	"github.com/insitu-ml/insitu/internal/training"
	"github.com/insitu-ml/insitu/internal/training/trainingtest"
)

func run(t *testing.T, f *trainingtest.Fixture, mlflow string, flags map[string]string) steptest.Result {
	t.Helper()
	c := f.Config
	all := map[string]string{
		"schema": f.Schema, "code-digest": f.App.Digest, "dataset-digest": f.Dataset.Digest, "mlflow-uri": mlflow, "seed": "7",
		"training-host": c.Host, "training-port": strconv.Itoa(c.Port), "training-database": c.Database, "training-username": c.Username, "training-sslmode": c.SSLMode,
	}
	if c.Password != "" {
		all["training-password"] = c.Password
	}
	maps.Copy(all, flags)
	return steptest.Run(t, trainmodel.Spec(), all)
}

func count(t *testing.T, f *trainingtest.Fixture, table string) (n int) {
	t.Helper()
	if err := f.Connect(t).QueryRow(t.Context(), "select count(*) from "+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// tenant is how the fixture's schema is named in the registry.
func tenant(t *testing.T, f *trainingtest.Fixture) (name string) {
	t.Helper()
	err := f.Connect(t).QueryRow(t.Context(), "select current_database() || '/' || $1 || '@' || system_identifier from pg_control_system()", f.Schema).Scan(&name)
	if postgres.State(err) == "42883" { // Greenplum 6 has no such function
		return f.Config.Database + "/" + f.Schema
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestAModelIsTrainedAndRegisteredOnce(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f, s := trainingtest.New(t, config, schema, 2), registrytest.New(t)
	r := run(t, f, s.URL, map[string]string{"parameters": `{"learning_rate": 0.02}`, "epochs": "2"})
	if r.Code != 0 {
		t.Fatalf("exit %d\n%s", r.Code, r.Stderr)
	}
	job, accuracy := r.Outputs["job"], r.Outputs["validation-accuracy"]
	want := map[string]string{
		"model-name": "blobs_softmax", "model-version": "1", "run-id": "run1", "job": job, "epochs-trained": "2", "trained": "true",
		"validation-accuracy": accuracy, "reason": "registered version 1: epoch 2 of 2 was the best",
	}
	if diff := cmp.Diff(want, r.Outputs); diff != "" || len(job) != 64 {
		t.Errorf("outputs: %s", diff)
	}
	if a, err := strconv.ParseFloat(accuracy, 64); err != nil || a < 0.7 {
		t.Errorf("validation accuracy %q", accuracy)
	}

	var lines []map[string]any
	for _, line := range r.Log {
		if line["msg"] == "epoch" {
			lines = append(lines, line)
		}
	}
	if len(lines) != 2 || lines[1]["epoch"] != 2.0 || lines[1]["epochs"] != 2.0 {
		t.Errorf("epoch lines %v", lines)
	}
	for _, field := range []string{"loss", "accuracy", "validation_loss", "validation_accuracy", "rows_per_second", "seconds"} {
		if len(lines) > 0 && lines[0][field] == nil {
			t.Errorf("the epoch line has no field %q", field)
		}
	}

	version := s.Versions()[0]
	onnx := version.Tags["insitu.onnx-digest"]
	tags := map[string]string{
		"insitu.job": job, "insitu.code-digest": f.App.Digest, "insitu.dataset-digest": f.Dataset.Digest, "insitu.onnx-digest": onnx, "git_sha": "abc",
		"insitu.rows-digest": version.Tags["insitu.rows-digest"], "insitu.tenant": tenant(t, f),
	}
	if diff := cmp.Diff(tags, version.Tags); diff != "" || len(onnx) != 64 || len(tags["insitu.rows-digest"]) != 64 {
		t.Errorf("version tags: %s", diff)
	}
	kept := s.Runs()[0]
	parameters := map[string]string{"delay": "0", "epochs": "2", "learning_rate": "0.02", "patience": "0", "seed": "7", "shards": "2"}
	if diff := cmp.Diff(parameters, kept.Params); diff != "" || kept.Status != registry.Finished || kept.Tags["insitu.shard-rows"] != "320,320" {
		t.Errorf("run: status %s, tags %v, parameters %s", kept.Status, kept.Tags, diff)
	}
	if kept.Metrics["validation_accuracy/2"] < 0.7 || kept.Metrics["loss/1"] == 0 {
		t.Errorf("metrics %v", kept.Metrics)
	}
	var details struct {
		Task    string   `json:"task"`
		Classes []string `json:"classes"`
	}
	err := json.Unmarshal(s.Artifacts()["1/run1/artifacts/model/insitu.json"], &details)
	if err != nil || details.Task != "classification" || len(details.Classes) != 3 {
		t.Errorf("insitu.json %+v, error %v", details, err)
	}

	var placement []training.Shard
	err = json.Unmarshal(s.Artifacts()["1/run1/artifacts/placement.json"], &placement)
	if err != nil || len(placement) != 2 || placement[1].Shard != 1 || placement[1].Rows != 320 || placement[1].Packs != 5 || placement[0].Process == placement[1].Process || placement[0].RowsPerSecond() <= 0 {
		t.Errorf("placement %+v, error %v", placement, err)
	}
	places := map[string]any{}
	for _, line := range r.Log {
		if line["msg"] == "shard" {
			places[fmt.Sprint(line["shard"])] = line["place"]
		}
	}
	if diff := cmp.Diff(map[string]any{"0": placement[0].Place(), "1": placement[1].Place()}, places); diff != "" {
		t.Errorf("places in the log: %s", diff)
	}

	// Nothing changed: nothing is trained or written.
	s.Before = func(_ int, method, path string) int {
		if method != http.MethodGet {
			t.Errorf("the second run wrote: %s %s", method, path)
		}
		return 0
	}
	again := run(t, f, s.URL, map[string]string{"parameters": `{"learning_rate": 0.02, "epochs": 2}`})
	want["trained"], want["reason"] = "false", "same data, code and parameters as version 1"
	if diff := cmp.Diff(want, again.Outputs); again.Code != 0 || diff != "" {
		t.Errorf("second run: exit %d, %s", again.Code, diff)
	}
	s.Before = nil

	// Another parameter is another job.
	other := run(t, f, s.URL, map[string]string{"epochs": "1"})
	if other.Code != 0 || other.Outputs["model-version"] != "2" || other.Outputs["trained"] != "true" {
		t.Errorf("third run: exit %d, outputs %v", other.Code, other.Outputs)
	}
}

func TestOneChangedRowIsAnotherTraining(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f, s := trainingtest.New(t, config, schema, 2), registrytest.New(t)
	exec := func(sql string) {
		t.Helper()
		if _, err := f.Connect(t).Exec(t.Context(), strings.ReplaceAll(sql, "packs", f.Dataset.Table)); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(split string) {
		t.Helper()
		exec("update packs set data = set_byte(data, 5, get_byte(data, 5) # 1) where id = (select min(id) from packs where split = '" + split + "')")
	}
	var jobs []string
	for _, step := range []struct {
		name    string
		change  func()
		trained string
	}{
		{"the first time", func() {}, "true"},
		{"the same rows, which lie in another order", func() {
			exec("create table other as select * from packs order by id desc; truncate packs; insert into packs select * from other")
		}, "false"},
		{"a test row, which training does not read", func() { flip("test") }, "false"},
		{"one bit of a train row", func() { flip("train") }, "true"},
		{"one bit of a validation row", func() { flip("validation") }, "true"},
		{"a label", func() {
			exec("update packs set labels = set_byte(labels, 0, (get_byte(labels, 0) + 1) % 3) where split = 'train' and id = 1")
		}, "true"},
		{"back again", func() { flip("validation") }, "true"}, // the label is still another one
		{"nothing", func() {}, "false"},
	} {
		step.change()
		r := run(t, f, s.URL, map[string]string{"epochs": "1"})
		if r.Code != 0 || r.Outputs["trained"] != step.trained {
			t.Errorf("%s: exit %d, trained %q, %s\n%s", step.name, r.Code, r.Outputs["trained"], r.Outputs["reason"], r.Message)
		}
		jobs = append(jobs, r.Outputs["job"])
	}
	if jobs[0] != jobs[2] || jobs[0] == jobs[3] || jobs[6] != jobs[7] {
		t.Errorf("jobs %v", jobs)
	}
}

func TestAWarmStartGoesOnFromARegisteredVersion(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f, s := trainingtest.New(t, config, schema, 2), registrytest.New(t)
	train := func(flags map[string]string) steptest.Result {
		t.Helper()
		r := run(t, f, s.URL, flags)
		if r.Code != 0 {
			t.Fatalf("exit %d\n%s", r.Code, r.Message)
		}
		return r
	}
	state := func(query, job string) (text string) {
		t.Helper()
		if err := f.Connect(t).QueryRow(t.Context(), "select md5(state) from "+query, job).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	cold := train(map[string]string{"epochs": "2", "warm-start": "staging"})
	if !strings.Contains(cold.Outputs["reason"], `started from nothing: no version of model "blobs_softmax" holds the alias "staging" yet`) {
		t.Errorf("reason %q", cold.Outputs["reason"])
	}
	warm := train(map[string]string{"epochs": "1", "warm-start": "1"})
	if got, want := state("checkpoints where epoch = 0 and job = $1", warm.Outputs["job"]), state("models where job = $1", cold.Outputs["job"]); got != want || !strings.Contains(warm.Outputs["reason"], `started from version 1 of model "blobs_softmax"`) {
		t.Errorf("epoch 0 is %s, the model it starts from %s; reason %q", got, want, warm.Outputs["reason"])
	}
	if again := train(map[string]string{"epochs": "1", "warm-start": "1"}); again.Outputs["trained"] != "false" || again.Outputs["job"] != warm.Outputs["job"] {
		t.Errorf("again: %v", again.Outputs)
	}

	// The alias moves on to what was trained from its holder: that is no reason to train once more.
	alias := func(version int) {
		client, err := registry.New(registry.Config{URI: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		if err := client.SetAlias(t.Context(), "blobs_softmax", "staging", version); err != nil {
			t.Fatal(err)
		}
	}
	alias(2)
	if again := train(map[string]string{"epochs": "1", "warm-start": "staging"}); again.Outputs["trained"] != "false" || again.Outputs["model-version"] != "2" {
		t.Errorf("after the promotion: %v", again.Outputs)
	}
	alias(1)
	if again := train(map[string]string{"epochs": "1", "warm-start": "staging"}); again.Outputs["trained"] != "false" || again.Outputs["model-version"] != "2" {
		t.Errorf("from version 1 by its alias: %v", again.Outputs)
	}

	for flag, want := range map[string]string{"99": "model \"blobs_softmax\" has no such version"} {
		if r := run(t, f, s.URL, map[string]string{"warm-start": flag}); r.Code != 2 || !strings.Contains(r.Message, want) {
			t.Errorf("--warm-start=%s: exit %d, message %s", flag, r.Code, r.Message)
		}
	}
}

func TestTenantsThatShareAnMLflowDoNotMix(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t)
	var tenants []*trainingtest.Fixture
	for range 2 { // the same code and data: even the same job
		config, schema := trainingtest.Server(t)
		tenants = append(tenants, trainingtest.New(t, config, schema, 1))
	}
	first := run(t, tenants[0], s.URL, map[string]string{"epochs": "1"})
	if want := map[string]string{"insitu.tenant": tenant(t, tenants[0])}; first.Code != 0 || !cmp.Equal(want, s.ModelTags("blobs_softmax")) {
		t.Fatalf("exit %d, model tags %v\n%s", first.Code, s.ModelTags("blobs_softmax"), first.Stderr)
	}

	refused := run(t, tenants[1], s.URL, map[string]string{"epochs": "1"})
	if refused.Code != 2 || !strings.Contains(refused.Message, "--model-name") || !strings.Contains(refused.Message, tenant(t, tenants[0])) || count(t, tenants[1], "jobs") != 0 {
		t.Errorf("exit %d, %d jobs, message %s", refused.Code, count(t, tenants[1], "jobs"), refused.Message)
	}

	second := run(t, tenants[1], s.URL, map[string]string{"epochs": "1", "model-name": "other.model"})
	if second.Code != 0 || second.Outputs["model-name"] != "other.model" || second.Outputs["model-version"] != "1" || second.Outputs["trained"] != "true" ||
		second.Outputs["job"] != first.Outputs["job"] || second.Outputs["run-id"] == first.Outputs["run-id"] {
		t.Errorf("exit %d, outputs %v, and of the first %v", second.Code, second.Outputs, first.Outputs)
	}
	for i, v := range s.Versions() {
		if v.Tags["insitu.tenant"] != tenant(t, tenants[i]) || s.Runs()[i].Tags["insitu.tenant"] != tenant(t, tenants[i]) {
			t.Errorf("version %+v, run %+v", v, s.Runs()[i])
		}
	}

	// Neither disturbs the other: both find what they made.
	for i, flags := range []map[string]string{{"epochs": "1"}, {"epochs": "1", "model-name": "other.model"}} {
		if r := run(t, tenants[i], s.URL, flags); r.Code != 0 || r.Outputs["trained"] != "false" {
			t.Errorf("tenant %d again: exit %d, outputs %v", i, r.Code, r.Outputs)
		}
	}
	if len(s.Versions()) != 2 || len(s.Runs()) != 2 {
		t.Errorf("versions %v, runs %v", s.Versions(), s.Runs())
	}
}

func TestAModelFromBeforeThereWereTenantsIsAdopted(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f, s := trainingtest.New(t, config, schema, 1), registrytest.New(t)
	run(t, f, s.URL, map[string]string{"epochs": "1"})
	s.ForgetTag("insitu.tenant")
	r := run(t, f, s.URL, map[string]string{"epochs": "1"})
	want := tenant(t, f)
	if r.Code != 0 || r.Outputs["trained"] != "false" || s.ModelTags("blobs_softmax")["insitu.tenant"] != want || s.Versions()[0].Tags["insitu.tenant"] != want || len(s.Versions()) != 1 {
		t.Errorf("exit %d, outputs %v, model %v, versions %v\n%s", r.Code, r.Outputs, s.ModelTags("blobs_softmax"), s.Versions(), r.Message)
	}
}

func TestWrongSettingsAreReportedTogetherBeforeAnythingIsTouched(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f, s := trainingtest.New(t, config, schema, 1), registrytest.New(t)
	for _, test := range []struct {
		name  string
		flags map[string]string
		texts []string
	}{
		{"parameters that the app does not take", map[string]string{"parameters": `{"learning_rate": "fast", "momentum": 1, "delay": 7}`},
			[]string{`"learning_rate"`, `"momentum" is not declared`, `7 is more than 1`}},
		{"epochs said twice", map[string]string{"epochs": "2", "parameters": `{"epochs": 3}`}, []string{"--epochs is 2 and --parameters says 3"}},
		{"more epochs than the app allows", map[string]string{"epochs": "51"}, []string{"51 is more than 50"}},
		{"a model's name that is none", map[string]string{"model-name": "a/b"}, []string{`--model-name is "a/b": expected up to 100 letters`}},
		{"no epochs", map[string]string{"epochs": "0"}, []string{"epochs"}},
		{"a negative seed", map[string]string{"seed": "-1"}, []string{"seed"}},
		{"digests that are none", map[string]string{"code-digest": "abc", "dataset-digest": "../x"}, []string{`--code-digest is "abc"`, `--dataset-digest is "../x"`}},
		{"code and data that are not there", map[string]string{"code-digest": strings.Repeat("0", 64), "dataset-digest": strings.Repeat("0", 64)},
			[]string{"run deploy-training-code first", "run upload-dataset first"}},
		{"a password in the registry's address is not repeated", map[string]string{"mlflow-uri": "ftp://u:hunter2@h"}, []string{"mlflow-uri"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := run(t, f, s.URL, test.flags)
			if r.Code != 2 || len(r.Outputs) != 0 {
				t.Errorf("exit %d, outputs %v", r.Code, r.Outputs)
			}
			for _, text := range test.texts {
				if !strings.Contains(r.Message, text) {
					t.Errorf("%q is not in the message:\n%s", text, r.Message)
				}
			}
			if strings.Contains(r.Stderr, "hunter2") {
				t.Errorf("the log holds the password: %s", r.Stderr)
			}
		})
	}
	if n := count(t, f, "jobs"); n != 0 || s.Requests() != 0 {
		t.Errorf("%d jobs, %d requests to the registry", n, s.Requests())
	}
}

func TestAnAppMustFitItsDataset(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f, s := trainingtest.New(t, config, schema, 1), registrytest.New(t)
	m := *f.Dataset
	m.Input.Shape, m.Task, m.Splits.Train.Rows, m.Shards = []int{4, 2}, "regression", 0, 2
	text, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Connect(t).Exec(t.Context(), "update datasets set manifest = $1", string(text)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Connect(t).Exec(t.Context(), `update releases set manifest = (substr(manifest::text, 1, length(manifest::text) - 1) || ', "max_shards": 1}')::json`); err != nil {
		t.Fatal(err)
	}
	r := run(t, f, s.URL, nil)
	for _, text := range []string{
		"is for classification, the dataset for regression", "takes float32 [8], the dataset holds float32 [4 2]", "no rows in its train split",
		"says max_shards: 1, the dataset has 2 shards: upload it again with --shards=1",
	} {
		if r.Code != 2 || !strings.Contains(r.Message, text) {
			t.Errorf("exit %d, %q is not in the message:\n%s", r.Code, text, r.Message)
		}
	}
}

func TestARegistryThatLosesPointsDoesNotStopTheTraining(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f, s := trainingtest.New(t, config, schema, 1), registrytest.New(t)
	batches := 0
	s.Before = func(_ int, _, path string) int {
		if strings.HasSuffix(path, "runs/log-batch") {
			if batches++; batches == 2 || batches == 3 { // the first has the parameters, the last the whole curve
				return http.StatusBadRequest
			}
		}
		return 0
	}
	r := run(t, f, s.URL, map[string]string{"epochs": "2"})
	kept := s.Runs()[0]
	if r.Code != 0 || batches != 4 || kept.Metrics["validation_loss/1"] == 0 || kept.Metrics["validation_loss/2"] == 0 {
		t.Errorf("exit %d, %d batches, metrics %v", r.Code, batches, kept.Metrics)
	}
}

func TestARegistrationThatFailsIsTemporaryAndMadeUpFor(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f, s := trainingtest.New(t, config, schema, 1), registrytest.New(t)
	s.Before = func(_ int, _, path string) int {
		if strings.HasSuffix(path, "model-versions/create") {
			return http.StatusInternalServerError
		}
		return 0
	}
	r := run(t, f, s.URL, map[string]string{"epochs": "1"})
	if r.Code != 75 || len(r.Outputs) != 0 || !strings.Contains(r.Message, "register a version of model") {
		t.Errorf("exit %d, message %s", r.Code, r.Message)
	}
	if count(t, f, "models") != 1 {
		t.Error("the trained model is not in the database")
	}
	s.Before = nil
	r = run(t, f, s.URL, map[string]string{"epochs": "1"})
	if r.Code != 0 || r.Outputs["trained"] != "true" || len(s.Versions()) != 1 {
		t.Errorf("exit %d, outputs %v, versions %v", r.Code, r.Outputs, s.Versions())
	}
}

// A step that dies is one whose calls all fail from some call on, whether that one was carried out or not.
func TestAStepThatDiedAtAnyCallLeavesOneVersion(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 1)
	for n := 1; ; n++ {
		s := registrytest.New(t)
		die := func(i int, _, _ string) int {
			if i >= n {
				return http.StatusForbidden // not retried
			}
			return 0
		}
		if n%2 == 0 {
			s.After = die
		} else {
			s.Before = die
		}
		flags := map[string]string{"epochs": "1"} // trained once: the registry is what dies here
		died := run(t, f, s.URL, flags)
		s.Before, s.After = nil, nil
		r := run(t, f, s.URL, flags)
		versions, runs := s.Versions(), s.Runs()
		if r.Code != 0 || len(versions) != 1 || len(runs) != 1 || runs[0].Status != registry.Finished || versions[0].RunID != r.Outputs["run-id"] ||
			len(s.Artifacts()) != 8 || runs[0].Metrics["validation_accuracy/1"] == 0 || runs[0].Tags["insitu.shard-rows"] != "320" {
			t.Errorf("died at call %d: exit %d, versions %+v, runs %+v", n, r.Code, versions, runs)
		}
		if died.Code == 0 {
			break
		}
	}
}

func TestAModelOfOtherLibrariesIsNotTakenForTheRegisteredOne(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f, s := trainingtest.New(t, config, schema, 1), registrytest.New(t)
	run(t, f, s.URL, map[string]string{"epochs": "1"})
	if _, err := f.Connect(t).Exec(t.Context(), "update models set onnx_digest = repeat('0', 64)"); err != nil {
		t.Fatal(err)
	}
	r := run(t, f, s.URL, map[string]string{"epochs": "1"})
	if r.Code != 1 || !strings.Contains(r.Message, "trained again with other Python libraries") {
		t.Errorf("exit %d, message %s", r.Code, r.Message)
	}
}

func TestPythonPredictsWithTheTrainedModel(t *testing.T) {
	t.Parallel()
	server, python := registrytest.Real(t), registrytest.Python(t)
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	experiment := fmt.Sprintf("train-model-%d", time.Now().UnixNano())
	model := strings.ReplaceAll(experiment, "train-model-", "blobs-") // other tests are other tenants
	r := run(t, f, server.URI, map[string]string{"epochs": "2", "experiment": experiment, "model-name": model, "seed": strconv.FormatInt(time.Now().UnixMicro(), 10)})
	if r.Code != 0 {
		t.Fatalf("exit %d\n%s", r.Code, r.Stderr)
	}
	client, err := registry.New(server)
	if err != nil {
		t.Fatal(err)
	}
	version, err := strconv.Atoi(r.Outputs["model-version"])
	if err != nil {
		t.Fatal(err)
	}
	alias := "t" + strings.ReplaceAll(experiment, "train-model-", "")
	if err := client.SetAlias(t.Context(), model, alias, version); err != nil {
		t.Fatal(err)
	}
	var data []byte
	var want string
	err = f.Connect(t).QueryRow(t.Context(), `select data, encode(predict_onnx(onnx, onnx_digest, data, n), 'hex')
		from models, `+f.Dataset.Table+` where split = 'test' order by id limit 1`).Scan(&data, &want)
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/pack"
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", `
import mlflow, numpy, sys
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/" + sys.argv[6] + "@" + sys.argv[2])
x = numpy.fromfile(sys.argv[3], "<f4").reshape(-1, 8)
out = model.predict(x)
out = next(iter(out.values())) if isinstance(out, dict) else out
p = numpy.frombuffer(bytes.fromhex(sys.argv[4]), "<f4").reshape(-1, 3)
assert model.metadata.signature.inputs.input_types()[0] == numpy.float32, model.metadata.signature
assert out.shape == p.shape and abs(out - p).max() < 1e-6, abs(out - p).max()
curve = mlflow.MlflowClient().get_metric_history(sys.argv[5], "validation_accuracy")
assert [m.step for m in curve] == [1, 2], curve
`, server.URI, alias, file, want, r.Outputs["run-id"], model)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("python: %v\n%s", err, out)
	}
}
