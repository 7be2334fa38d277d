package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
)

// cancelled measures how long the database works on after a training was stopped in mid-epoch.
func cancelled(ctx context.Context, b *bench) error {
	d, err := b.images(ctx, dataKey{scaled(6_400, b.scale, 2560), 2, ordinary()})
	if err != nil {
		return err
	}
	pack, err := b.packTime(ctx, d)
	if err != nil {
		return err
	}
	b.add("large CNN, 2 shards: one pack of 256 images", goal{}, milliseconds, summarize([]float64{pack}))
	limit := atMost(pack + 0.1)
	for _, way := range []struct {
		what string
		stop func(context.Context, *bench, training.Job) (float64, error)
	}{
		{"context cancelled (a step that gets SIGTERM)", stopByContext},
		{"client gone (kill -9 of the driver)", stopByKill},
		{"statement_timeout", stopByTimeout},
	} {
		var taken []float64
		for range b.rounds {
			job, err := b.job(ctx, large(), d, 3, 1, nil)
			if err != nil {
				return err
			}
			s, err := way.stop(ctx, b, job)
			if err != nil {
				return fmt.Errorf("%s: %w", way.what, err)
			}
			taken = append(taken, s)
		}
		s := summarize(taken)
		s.median = slices.Max(taken) // the goal is about the worst
		b.add("large CNN, 2 shards: "+way.what+" until the database is idle, the longest; goal: one pack and 100 ms", limit, milliseconds, s)
	}
	return nil
}

// packTime is how long a pack takes with both shards at work.
func (b *bench) packTime(ctx context.Context, d *data) (longest float64, err error) {
	job, err := b.job(ctx, large(), d, 2, 1, nil)
	if err != nil {
		return 0, err
	}
	_, err = b.trained(ctx, job, func(e training.Epoch) {
		if e.Epoch == 2 {
			for _, s := range e.Shards {
				longest = max(longest, s.Seconds/float64(s.Packs))
			}
		}
	})
	return longest, err
}

// untilIdle waits until no statement of a job runs and returns the seconds since then.
func (b *bench) untilIdle(ctx context.Context, job string, since time.Time) (float64, error) {
	for {
		n, err := b.active(ctx, job)
		if err != nil || n == 0 {
			return time.Since(since).Seconds(), err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func stopByContext(ctx context.Context, b *bench, job training.Job) (float64, error) {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = b.trained(running, job, nil) // ends with the error that it was stopped
	}()
	if err := b.untilTraining(ctx, job, 1); err != nil {
		return 0, err
	}
	at := time.Now()
	cancel()
	s, err := b.untilIdle(ctx, job.ID, at)
	<-ended
	return s, err
}

func stopByKill(ctx context.Context, b *bench, job training.Job) (float64, error) {
	cmd, err := b.driver(ctx, job)
	if err != nil {
		return 0, err
	}
	err = b.untilTraining(ctx, job, 1)
	at := time.Now()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		return 0, err
	}
	return b.untilIdle(ctx, job.ID, at)
}

// stopByTimeout runs the driver's own statement for both shards in warm sessions with a time limit.
func stopByTimeout(ctx context.Context, b *bench, job training.Job) (float64, error) {
	const limit = 300 * time.Millisecond
	text, err := os.ReadFile("internal/training/sql/postgresql/fit.sql")
	if err != nil {
		return 0, err
	}
	job.Epochs = 1
	if _, err := b.trained(ctx, job, nil); err != nil { // makes the checkpoint to start from
		return 0, err
	}
	spec, err := specOf(job, 2, 0)
	if err != nil {
		return 0, err
	}
	delete(spec, "shard") // the statement adds it
	open := strings.TrimSuffix(jsonText(spec), "}")
	var state []byte
	if err := b.admin.QueryRow(ctx, "select state from checkpoints where job = $1 and epoch = 1", job.ID).Scan(&state); err != nil {
		return 0, postgres.Wrap(err, "read epoch 1 of "+job.ID)
	}
	late := make(chan float64, job.Spec.Shards)
	failed := make(chan error, job.Spec.Shards)
	for shard := range job.Spec.Shards {
		c, err := b.connect(ctx)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		// Warm: the first call in a session imports the learner's libraries, which takes about a second.
		if err := exec1(ctx, c, "select predict_state($1, (select bundle from releases where ordinal = $2), $3, (select state from checkpoints where job = $4 and epoch = 1), (select data from "+postgres.Ident(job.PackTable)+" limit 1))",
			job.Release.Digest, job.Release.Ordinal, jsonText(spec), job.ID); err != nil {
			return 0, err
		}
		if err := exec1(ctx, c, fmt.Sprintf("set statement_timeout = %d", limit.Milliseconds())); err != nil {
			return 0, err
		}
		go func() {
			began := time.Now()
			_, err := c.Exec(ctx, strings.ReplaceAll(string(text), "packs_x", postgres.Ident(job.PackTable)), job.Release.Digest, job.Release.Ordinal, open, state, false, shard)
			taken := time.Since(began)
			if postgres.State(err) != "57014" {
				err = fmt.Errorf("expected the statement to be cancelled after %s, it ended after %s: %w", limit, taken, err)
			} else {
				err = nil
			}
			late <- (taken - limit).Seconds()
			failed <- err
		}()
	}
	worst := 0.0
	for range job.Spec.Shards {
		worst = max(worst, <-late)
		if err := <-failed; err != nil {
			return 0, err
		}
	}
	return worst, nil
}
