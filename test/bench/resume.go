package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
)

// errand is what a driver in a process of its own is given.
type errand struct {
	Config postgres.Config
	Job    training.Job
}

// lockWait is how long a driver waits for one that was killed: the server finds out after a moment.
const lockWait = 30 * time.Second

// driveFile is the main of such a process.
func driveFile(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var e errand
	if err := json.Unmarshal(text, &e); err != nil {
		return err
	}
	d, err := training.Open(ctx, e.Config, e.Job, training.Options{Schema: schema, LockWait: lockWait})
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = d.Train(ctx)
	return err
}

// driver starts this program as the driver of a job.
func (b *bench) driver(ctx context.Context, job training.Job) (*exec.Cmd, error) {
	text, err := json.Marshal(errand{b.config(job), job})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(b.dir, job.ID+".json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-drive", path)
	cmd.Stderr = os.Stderr
	return cmd, cmd.Start()
}

// resume kills the driver again and again and compares what comes out with an undisturbed training.
func resume(ctx context.Context, b *bench) error {
	const epochs = 4
	d, err := b.images(ctx, dataKey{scaled(5_120, b.scale, 1000), 2, ordinary()})
	if err != nil {
		return err
	}
	var digests [2]string
	kills := 0
	for i := range digests {
		job, err := b.job(ctx, cnn(), d, epochs, 7, nil)
		if err != nil {
			return err
		}
		if i == 1 {
			for epoch := range epochs - 1 {
				killed, err := b.killIn(ctx, job, epoch)
				if err != nil {
					return err
				}
				if killed {
					kills++
				}
			}
		}
		if err := b.finish(ctx, job); err != nil {
			return err
		}
		err = b.admin.QueryRow(ctx, "select string_agg(encode(sha256(state), 'hex'), ' ' order by epoch) || (select onnx_digest from models where job = $1) from checkpoints where job = $1", job.ID).Scan(&digests[i])
		if err != nil {
			return postgres.Wrap(err, "read the states of "+job.ID)
		}
	}
	if kills == 0 {
		return errors.New("no kill hit a running training")
	}
	equal := 0.0
	if digests[0] == digests[1] {
		equal = 1
	}
	b.add(fmt.Sprintf("CNN, 2 shards: states of all epochs and ONNX after kill -9 in mid-epoch, %d times, equal those of an undisturbed training to the bit", kills), atLeast(1), yes, summarize([]float64{equal}))
	return nil
}

// finish trains what is left of a job.
func (b *bench) finish(ctx context.Context, job training.Job) error {
	d, err := training.Open(ctx, b.config(job), job, training.Options{Schema: schema, LockWait: lockWait})
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = d.Train(ctx)
	return err
}

// killIn starts a driver and kills it while its shards train the epoch after the given one; false when it was too late.
func (b *bench) killIn(ctx context.Context, job training.Job, epoch int) (bool, error) {
	cmd, err := b.driver(ctx, job)
	if err != nil {
		return false, err
	}
	err = b.untilTraining(ctx, job, epoch)
	busy, busyErr := b.active(ctx, job.ID)
	killErr := cmd.Process.Kill()
	_ = cmd.Wait()
	return busy > 0, errors.Join(err, busyErr, killErr)
}

// midEpoch is how long shards have worked when they are stopped.
const midEpoch = 200 * time.Millisecond

// untilTraining waits until the epoch is recorded and all shards have worked on the next for a moment.
func (b *bench) untilTraining(ctx context.Context, job training.Job, epoch int) error {
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		var ready bool
		err := b.admin.QueryRow(ctx, `select exists (select 1 from checkpoints where job = $1 and epoch = $2) and
			(select count(*) from pg_stat_activity where application_name = $1 and state = 'active' and query ~ 'fit\(' and clock_timestamp() - query_start > $3::float8 * interval '1 second') = $4`,
			job.ID, epoch, midEpoch.Seconds(), job.Spec.Shards).Scan(&ready)
		if err != nil || ready {
			return postgres.Wrap(err, "watch "+job.ID)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: epoch %d did not begin in two minutes", job.ID, epoch+1)
		}
	}
}

// active is how many statements of a job run.
func (b *bench) active(ctx context.Context, job string) (n int, err error) {
	err = b.admin.QueryRow(ctx, "select count(*) from pg_stat_activity where application_name = $1 and state = 'active'", job).Scan(&n)
	return n, postgres.Wrap(err, "watch "+job)
}
