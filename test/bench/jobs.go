package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
)

// job makes a training that no other of this run equals. Parameters are the model's with some changed.
func (b *bench) job(ctx context.Context, m model, d *data, epochs int, seed int64, changed map[string]any) (training.Job, error) {
	app, release, err := b.release(ctx, b.admin, m.folder)
	if err != nil {
		return training.Job{}, err
	}
	given := map[string]any{"epochs": int64(epochs), "patience": int64(0)}
	maps.Copy(given, m.parameters)
	maps.Copy(given, changed)
	parameters, err := app.Manifest.Resolve(given)
	if err != nil {
		return training.Job{}, err
	}
	b.jobs++
	return training.Job{
		ID: fmt.Sprintf("bench-%d", b.jobs), Release: release, Dataset: d.Digest, PackTable: d.Table, TrainRows: d.Splits.Train.Rows,
		Spec:   training.Spec{Input: training.InputOf(d.Manifest), Parameters: parameters, Seed: seed, Shards: d.Shards},
		Epochs: epochs,
	}, nil
}

// config is the training database with a name its sessions can be found by.
func (b *bench) config(job training.Job) postgres.Config {
	c := b.training
	c.ApplicationName = job.ID
	return c
}

// trained runs a job to its end; told, unless nil, gets every epoch.
func (b *bench) trained(ctx context.Context, job training.Job, told func(training.Epoch)) (training.Model, error) {
	d, err := training.Open(ctx, b.config(job), job, training.Options{Schema: schema, Cache: training.DefaultCache, Epoch: func(e training.Epoch, _ bool) {
		if told != nil {
			told(e)
		}
	}})
	if err != nil {
		return training.Model{}, err
	}
	defer d.Close()
	return d.Train(ctx)
}

// stepper runs a job epoch by epoch when it is told to: the driver of the product, held between its epochs.
type stepper struct {
	job      training.Job
	proceed  chan struct{}
	recorded chan training.Epoch
	ended    chan error
	cancel   context.CancelFunc
}

func (b *bench) stepper(ctx context.Context, job training.Job) (*stepper, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &stepper{job: job, proceed: make(chan struct{}), recorded: make(chan training.Epoch), ended: make(chan error, 1), cancel: cancel}
	wait := func() {
		select {
		case <-s.proceed:
		case <-ctx.Done():
		}
	}
	d, err := training.Open(ctx, b.config(job), job, training.Options{Schema: schema, Cache: training.DefaultCache, Epoch: func(e training.Epoch, _ bool) {
		select {
		case s.recorded <- e:
			wait()
		case <-ctx.Done():
		}
	}})
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer d.Close()
		wait()
		_, err := d.Train(ctx)
		s.ended <- err
	}()
	return s, nil
}

// epoch runs the next one.
func (s *stepper) epoch() (training.Epoch, error) {
	select {
	case s.proceed <- struct{}{}:
	case err := <-s.ended:
		return training.Epoch{}, errors.Join(errors.New("the training ended early"), err)
	}
	select {
	case e := <-s.recorded:
		return e, nil
	case err := <-s.ended:
		return training.Epoch{}, errors.Join(errors.New("the training ended early"), err)
	}
}

// close stops the training; its sessions have ended when it returns.
func (s *stepper) close() {
	s.cancel()
	<-s.ended
}

// checkpoint writes the state after an epoch into a file and returns its path and digest.
func (b *bench) checkpoint(ctx context.Context, job string, epoch int) (path, digest string, err error) {
	var state []byte
	if err := b.admin.QueryRow(ctx, "select state from checkpoints where job = $1 and epoch = $2", job, epoch).Scan(&state); err != nil {
		return "", "", postgres.Wrap(err, fmt.Sprintf("read epoch %d of %s", epoch, job))
	}
	sum := sha256.Sum256(state)
	path = filepath.Join(b.dir, job+".state")
	return path, hex.EncodeToString(sum[:]), os.WriteFile(path, state, 0o600)
}

// specOf is what a shard's learner is told in an epoch, for the plain side.
func specOf(job training.Job, epoch, shard int) (map[string]any, error) {
	text, err := json.Marshal(job.Spec)
	if err != nil {
		return nil, err
	}
	spec := map[string]any{}
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, err
	}
	spec["epoch"], spec["shard"] = epoch, shard
	return spec, nil
}

// jsonText is a value of strings, numbers, lists and maps as JSON.
func jsonText(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}
