package training_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
	"github.com/insitu-ml/insitu/internal/training/trainingtest"
)

// job is a training of the fixture's app with these parameters over its defaults.
func job(t *testing.T, f *trainingtest.Fixture, seed int64, given map[string]any) training.Job {
	t.Helper()
	release, err := training.ReadRelease(t.Context(), f.Connect(t), f.Schema, f.App.Digest)
	if err != nil {
		t.Fatal(err)
	}
	parameters, err := f.App.Manifest.Resolve(given)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := training.Fingerprint(t.Context(), f.Config, f.Schema, f.Dataset)
	if err != nil {
		t.Fatal(err)
	}
	id, err := mlapp.Job{Code: f.App.Digest, Dataset: f.Dataset.Digest, Rows: rows, Parameters: parameters, Seed: seed}.ID()
	if err != nil {
		t.Fatal(err)
	}
	return training.Job{
		ID: id, Release: release, Dataset: f.Dataset.Digest, PackTable: f.Dataset.Table, TrainRows: f.Dataset.Splits.Train.Rows,
		Spec:   training.Spec{Input: training.InputOf(f.Dataset), Parameters: parameters, Seed: seed, Shards: f.Dataset.Shards, Rows: rows},
		Epochs: int(parameters["epochs"].(int64)), Patience: int(parameters["patience"].(int64)),
	}
}

func train(ctx context.Context, f *trainingtest.Fixture, j training.Job, o training.Options) (training.Model, error) {
	o.Schema = f.Schema
	d, err := training.Open(ctx, f.Config, j, o)
	if err != nil {
		return training.Model{}, err
	}
	defer d.Close()
	return d.Train(ctx)
}

// states are all checkpoints of a job and its model's state, without the times.
func states(t *testing.T, f *trainingtest.Fixture, job string) (all [][]byte) {
	t.Helper()
	rows, err := f.Connect(t).Query(t.Context(), "select state from checkpoints where job = $1 order by epoch", job)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var state []byte
		if err := rows.Scan(&state); err != nil {
			t.Fatal(err)
		}
		all = append(all, state)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// forget makes the job a new one.
func forget(t *testing.T, f *trainingtest.Fixture) {
	t.Helper()
	if _, err := f.Connect(t).Exec(t.Context(), "delete from models; delete from checkpoints; delete from jobs"); err != nil {
		t.Fatal(err)
	}
}

func TestATrainingLearnsAndRecordsEverything(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	j := job(t, f, 7, nil)
	var curve []training.Epoch
	var progress []int64
	model, err := train(t.Context(), f, j, training.Options{
		Epoch: func(e training.Epoch, resumed bool) {
			if resumed {
				t.Error("an epoch of a new job is called resumed")
			}
			curve = append(curve, e)
		},
		Progress: func(done, total int64) {
			if total != 3*2*5*64 {
				t.Errorf("progress of %d rows", total)
			}
			progress = append(progress, done)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(curve) != 3 || len(model.ONNX) == 0 || len(model.ONNXDigest) != 64 || model.Created.IsZero() {
		t.Fatalf("%d epochs, %d bytes of ONNX, digest %q", len(curve), len(model.ONNX), model.ONNXDigest)
	}
	// On a slow machine notices report packs between the ends of epochs.
	for _, end := range []int64{640, 1280, 1920} {
		if !slices.Contains(progress, end) || !slices.IsSorted(progress) {
			t.Errorf("progress %v: expected to rise through %d", progress, end)
		}
	}
	for i, e := range curve {
		if e.Epoch != i+1 || e.Train().Rows != 640 || len(e.Shards) != 2 || e.Shards[1].Shard != 1 || e.Shards[1].Packs != 5 ||
			e.Validation == nil || e.Validation.Rows != 128 || e.RowsPerSecond() <= 0 || training.Skew(e.Shards) < 1 || e.Recorded.IsZero() {
			t.Errorf("epoch %+v", e)
		}
	}
	if last := curve[2].Validation.Accuracy(); last < 0.8 {
		t.Errorf("validation accuracy %v", last)
	}
	if n := len(states(t, f, j.ID)); n != 4 {
		t.Errorf("%d checkpoints, want 4", n)
	}

	again, err := train(t.Context(), f, j, training.Options{Epoch: func(training.Epoch, bool) { t.Error("a finished job trains again") }})
	if diff := cmp.Diff(model, again); diff != "" || err != nil {
		t.Errorf("second run: error %v, %s", err, diff)
	}
}

func TestEachShardIsTrainedWhereItsRowsLie(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	var curve []training.Epoch
	if _, err := train(t.Context(), f, job(t, f, 1, map[string]any{"epochs": 1}), training.Options{Epoch: func(e training.Epoch, _ bool) { curve = append(curve, e) }}); err != nil {
		t.Fatal(err)
	}
	c := f.Connect(t)
	places := map[string]bool{}
	for _, s := range curve[0].Shards {
		places[s.Place()] = true
		if !c.Dialect.Distributed {
			if s.Segment != nil || s.Process == 0 {
				t.Errorf("shard %+v: expected a process and no segment", s)
			}
			continue
		}
		var lowest, highest int
		err := c.QueryRow(t.Context(), "select min(gp_segment_id), max(gp_segment_id) from "+postgres.Ident(f.Dataset.Table)+" where shard = $1", s.Shard).Scan(&lowest, &highest)
		if err != nil {
			t.Fatal(err)
		}
		if s.Segment == nil || *s.Segment != lowest || lowest != highest {
			t.Errorf("shard %d was trained at %s, its packs lie on the segments %d to %d", s.Shard, s.Place(), lowest, highest)
		}
	}
	if len(places) != 2 { // two segments at least, or two sessions
		t.Errorf("places %v", places)
	}
}

func TestOneSQLCallLeavesTheSameRows(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	j := job(t, f, 7, map[string]any{"learning_rate": 0.25, "patience": 1})
	model, err := train(t.Context(), f, j, training.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want, spec := states(t, f, j.ID), jobSpec(t, f, j.ID)
	forget(t, f)
	var text string
	err = f.Connect(t).QueryRow(t.Context(), `select run_training_task('{"parameters": {"learning_rate": 0.25, "patience": 1}, "seed": 7}')`).Scan(&text)
	if err != nil {
		t.Fatal(postgres.Wrap(err, "run_training_task"))
	}
	var got struct {
		Job        string `json:"job"`
		ONNXDigest string `json:"onnx_digest"`
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if got.Job != j.ID || got.ONNXDigest != model.ONNXDigest || !equal(want, states(t, f, j.ID)) {
		t.Errorf("the SQL call made %s, the driver job %s with ONNX %s", text, j.ID, model.ONNXDigest)
	}
	if diff := cmp.Diff(spec, jobSpec(t, f, j.ID)); diff != "" {
		t.Errorf("spec of the job: %s", diff)
	}
	if counts := spec["input"].(map[string]any)["class_counts"]; counts == nil {
		t.Error("the spec does not count the classes")
	}
}

func jobSpec(t *testing.T, f *trainingtest.Fixture, job string) (spec map[string]any) {
	t.Helper()
	var text string
	if err := f.Connect(t).QueryRow(t.Context(), "select spec::text from jobs where id = $1", job).Scan(&text); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func equal(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func TestALostSessionIsTemporaryAndTheNextRunEndsWithTheSameBytes(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	j := job(t, f, 1, map[string]any{"delay": 0.02})
	if _, err := train(t.Context(), f, j, training.Options{}); err != nil {
		t.Fatal(err)
	}
	want := states(t, f, j.ID)

	for _, test := range []struct {
		name string
		sql  string // finds the statement to end
	}{
		{"a shard", "%fit(%"},
		{"the merge", "%merge_states(%"},
	} {
		forget(t, f)
		kill := f.Connect(t)
		var once sync.WaitGroup
		_, err := train(t.Context(), f, j, training.Options{Epoch: func(e training.Epoch, _ bool) {
			if e.Epoch == 1 { // end a session of the second epoch
				once.Go(func() { endOne(t, kill, f.Schema, test.sql) })
			}
		}})
		once.Wait()
		if fault.Of(err) != fault.Temporary {
			t.Errorf("%s: error %v, want a temporary one", test.name, err)
		}
		if n := len(states(t, f, j.ID)); n != 2 {
			t.Errorf("%s: %d checkpoints after the loss, want 2", test.name, n)
		}
		resumed := 0
		if _, err := train(t.Context(), f, j, training.Options{LockWait: 5 * time.Second, Epoch: func(_ training.Epoch, old bool) {
			if old {
				resumed++
			}
		}}); err != nil {
			t.Fatal(err)
		}
		if resumed != 1 {
			t.Errorf("%s: %d epochs resumed, want 1", test.name, resumed)
		}
		if !equal(want, states(t, f, j.ID)) {
			t.Errorf("%s: the states differ from the undisturbed run's", test.name)
		}
	}
}

func TestABrokenNetworkIsTemporary(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	j := job(t, f, 1, map[string]any{"delay": 0.02})
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := make(chan struct{})
	go func() {
		for {
			client, err := proxy.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", net.JoinHostPort(config.Host, strconv.Itoa(config.Port)))
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() { _, _ = io.Copy(server, client) }()
			go func() { _, _ = io.Copy(client, server) }()
			go func() { <-broken; _, _ = client.Close(), server.Close() }()
		}
	}()
	f.Config.Host, f.Config.Port = "127.0.0.1", proxy.Addr().(*net.TCPAddr).Port
	_, err = train(t.Context(), f, j, training.Options{Epoch: func(training.Epoch, bool) {
		time.AfterFunc(50*time.Millisecond, func() { _ = proxy.Close(); close(broken) })
	}})
	if fault.Of(err) != fault.Temporary || !strings.Contains(fmt.Sprint(err), "epoch 2") {
		t.Errorf("error %v, want a temporary one of epoch 2", err)
	}
}

// endOne terminates one session of the test database that runs such a statement for the schema.
func endOne(t *testing.T, c *postgres.Conn, schema, like string) {
	for range 2000 {
		var n int
		err := c.QueryRow(context.Background(), `select count(pg_terminate_backend(pid)) from (
			select pid from pg_stat_activity where state = 'active' and query like $1 and application_name = $2 limit 1) one`, like, schema).Scan(&n)
		if err != nil {
			t.Error(err)
			return
		}
		if n == 1 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("no statement like %q was seen", like)
}

func TestAStoppedTrainingLeavesNoStatementRunning(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	j := job(t, f, 1, map[string]any{"delay": 0.3}) // 1.5 s an epoch: without cancelling, the second would be too late
	watch := f.Connect(t)
	for _, after := range []time.Duration{0, 5 * time.Millisecond, 300 * time.Millisecond} {
		forget(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		var stopped time.Time
		d, err := training.Open(ctx, f.Config, j, training.Options{Schema: f.Schema, Epoch: func(training.Epoch, bool) {
			time.AfterFunc(after, func() { stopped = time.Now(); cancel() })
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Train(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want that the context was cancelled", err)
		}
		if took := time.Since(stopped); took > time.Second {
			t.Errorf("cancelled %v after the epoch: stopped after %v, want 1 s at most", after, took)
		}
		var running int
		err = watch.QueryRow(t.Context(), "select count(*) from pg_stat_activity where state = 'active' and application_name = $1 and pid <> pg_backend_pid()", f.Schema).Scan(&running)
		if err != nil || running != 0 {
			t.Errorf("cancelled %v after the epoch: %d statements still run, error %v", after, running, err)
		}
		d.Close()
	}
}

func TestASecondDriverWaitsAndThenGivesUp(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 1)
	j := job(t, f, 1, nil)
	first, err := training.Open(t.Context(), f.Config, j, training.Options{Schema: f.Schema})
	if err != nil {
		t.Fatal(err)
	}
	_, err = training.Open(t.Context(), f.Config, j, training.Options{Schema: f.Schema, LockWait: 300 * time.Millisecond})
	if fault.Of(err) != fault.Temporary || !strings.Contains(fmt.Sprint(err), "another driver") {
		t.Errorf("error %v, want a temporary one", err)
	}
	time.AfterFunc(200*time.Millisecond, first.Close)
	second, err := training.Open(t.Context(), f.Config, j, training.Options{Schema: f.Schema, LockWait: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestTrainingStopsEarlyWithoutImprovement(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 1)
	var curve []training.Epoch
	model, err := train(t.Context(), f, job(t, f, 3, map[string]any{"epochs": 50, "patience": 2, "learning_rate": 5}),
		training.Options{Epoch: func(e training.Epoch, _ bool) { curve = append(curve, e) }})
	if err != nil {
		t.Fatal(err)
	}
	if len(curve) == 50 || len(curve) != model.Epoch+2 {
		t.Errorf("%d epochs, the best is %d", len(curve), model.Epoch)
	}
}

func TestAnErrorOfTheLearnerIsPermanentAndNamesTheLine(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	j := job(t, f, 1, nil)
	if _, err := f.Connect(t).Exec(t.Context(), "update "+postgres.Ident(f.Dataset.Table)+" set labels = substring(labels from 5) where id = 8"); err != nil {
		t.Fatal(err)
	}
	_, err := train(t.Context(), f, j, training.Options{})
	if err == nil || fault.Of(err) != fault.Permanent || !strings.Contains(err.Error(), "a pack holds 63 labels for 64 examples") || !strings.Contains(err.Error(), "epoch 1 of job") {
		t.Errorf("error %v", err)
	}
	if n := len(states(t, f, j.ID)); n != 1 {
		t.Errorf("%d checkpoints, want the initial state alone", n)
	}
}

func TestWhatIsNotInTheSchemaIsNamedWithTheStepThatPutsItThere(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 1)
	c := f.Connect(t)
	for _, test := range []struct {
		name, schema, want string
		read               func(schema string) error
	}{
		{"an unknown release", f.Schema, "run deploy-training-code", func(s string) error {
			_, err := training.ReadRelease(t.Context(), c, s, "0000")
			return err
		}},
		{"an unknown dataset", f.Schema, "run upload-dataset", func(s string) error {
			_, err := training.ReadDataset(t.Context(), c, s, "0000")
			return err
		}},
		{"an empty schema", "no such schema", "run upload-dataset", func(s string) error {
			_, err := training.ReadDataset(t.Context(), c, s, "0000")
			return err
		}},
	} {
		if err := test.read(test.schema); fault.Of(err) != fault.Configuration || !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("%s: error %v", test.name, err)
		}
	}
	m, err := training.ReadDataset(t.Context(), c, f.Schema, f.Dataset.Digest)
	if diff := cmp.Diff(f.Dataset, m); diff != "" || err != nil {
		t.Errorf("dataset: error %v, %s", err, diff)
	}
}

func TestARoleWithoutOtherRightsCanTrain(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	j := job(t, f, 1, map[string]any{"epochs": 1})
	c := f.Connect(t)
	role := strings.ReplaceAll(schema, "-", "_")
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := c.Exec(context.Background(), sql, args...); err != nil {
			t.Fatal(postgres.Wrap(err, sql))
		}
	}
	exec("create role " + postgres.Ident(role) + " login password 'trainer'")
	t.Cleanup(func() {
		c, err := postgres.Connect(context.Background(), config, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Exec(context.Background(), "drop owned by "+postgres.Ident(role)+"; drop role "+postgres.Ident(role)); err != nil {
			t.Error(err)
		}
	})
	f.Config.Username, f.Config.Password = role, "trainer"
	if _, err := training.ReadRelease(t.Context(), f.Connect(t), schema, f.App.Digest); fault.Of(err) != fault.Configuration {
		t.Errorf("before the grant: error %v, want a configuration fault", err)
	}
	exec("select grant_training($1)", role)
	if _, err := train(t.Context(), f, j, training.Options{}); err != nil {
		t.Errorf("after the grant: %v", err)
	}
}
