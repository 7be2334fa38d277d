package training_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
	"github.com/insitu-ml/insitu/internal/training/trainingtest"
)

// task is what run_training_task returns.
type task struct {
	Job           string `json:"job"`
	Trained       bool   `json:"trained"`
	EpochsTrained int    `json:"epochs_trained"`
	ONNXDigest    string `json:"onnx_digest"`
}

func runTask(ctx context.Context, c *postgres.Conn, options string) (result task, err error) {
	var text string
	if err := c.QueryRow(ctx, "select run_training_task($1)", options).Scan(&text); err != nil {
		return task{}, postgres.Wrap(err, "run_training_task")
	}
	err = json.Unmarshal([]byte(text), &result)
	return result, err
}

func TestADriverAndAnSQLCallDoNotTrainOneJobTogether(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	const options = `{"parameters": {"delay": 0.05}, "seed": 5}`
	j := job(t, f, 5, map[string]any{"delay": 0.05})
	undisturbed, err := train(t.Context(), f, j, training.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want, watch, caller := states(t, f, j.ID), f.Connect(t), f.Connect(t)
	same := func(t *testing.T, job, digest string) {
		t.Helper()
		if job != j.ID || digest != undisturbed.ONNXDigest || !equal(want, states(t, f, j.ID)) {
			t.Errorf("job %s with ONNX %s, want %s with %s, and the undisturbed run's states", job, digest, j.ID, undisturbed.ONNXDigest)
		}
	}

	t.Run("an SQL call while a driver trains", func(t *testing.T) {
		forget(t, f)
		refused := 0
		model, err := train(t.Context(), f, j, training.Options{Epoch: func(e training.Epoch, _ bool) {
			if e.Epoch == j.Epochs {
				return
			}
			// The driver holds its lock between its statements too.
			if _, err := runTask(t.Context(), caller, options); err == nil || !strings.Contains(err.Error(), "is being trained by another session") {
				t.Errorf("after epoch %d: error %v, want a refusal", e.Epoch, err)
			}
			refused++
		}})
		if err != nil || refused != j.Epochs-1 {
			t.Fatalf("%d calls refused, error %v", refused, err)
		}
		same(t, j.ID, model.ONNXDigest)
		result, err := runTask(t.Context(), caller, options)
		if err != nil || result.Trained || result.EpochsTrained != j.Epochs {
			t.Errorf("after the driver: error %v, result %+v, want the driver's", err, result)
		}
		same(t, result.Job, result.ONNXDigest)
	})

	t.Run("a driver while an SQL call trains", func(t *testing.T) {
		forget(t, f)
		execute(t, caller, "begin") // the call's lock stays until its transaction ends, and so does this test's chance to meet it
		var result task
		ended := make(chan error, 1)
		go func() {
			var err error
			result, err = runTask(t.Context(), caller, options)
			ended <- err
		}()
		held := "select count(*) from pg_locks where locktype = 'advisory' and pid = " + fmt.Sprint(caller.PgConn().PID())
		for locks := 0; locks == 0; time.Sleep(time.Millisecond) {
			if err := watch.QueryRow(t.Context(), held).Scan(&locks); err != nil {
				t.Fatal(err)
			}
		}
		_, err := training.Open(t.Context(), f.Config, j, training.Options{Schema: schema})
		if fault.Of(err) != fault.Temporary || !strings.Contains(fmt.Sprint(err), "another driver") {
			t.Errorf("error %v, want a temporary one", err)
		}
		var model training.Model
		waited := make(chan error, 1)
		go func() {
			var err error
			model, err = train(t.Context(), f, j, training.Options{LockWait: time.Minute, Epoch: func(e training.Epoch, _ bool) {
				t.Errorf("the driver that waited trained or resumed epoch %d", e.Epoch)
			}})
			waited <- err
		}()
		if err := <-ended; err != nil || !result.Trained {
			t.Fatalf("the SQL call: error %v, result %+v", err, result)
		}
		execute(t, caller, "commit")
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		same(t, result.Job, result.ONNXDigest)
		same(t, model.Job, model.ONNXDigest)
	})
}
