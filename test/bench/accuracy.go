package main

import (
	"context"
	"fmt"
	"time"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/training"
)

// reached is the validation accuracy that time to accuracy is measured to.
const reached = 0.95

// accuracy compares what shards learn in as many epochs as one stream, and how long each takes to get somewhere.
func accuracy(ctx context.Context, b *bench) error {
	small := trial{model: digits(), what: "60 epochs", epochs: 60, seeds: 5, of: b.digits}
	plain := small
	plain.unscaled, plain.seeds = true, 3
	images := scaled(10_240, b.scale, 2048)
	pictures := trial{model: cnn(), what: fmt.Sprintf("%d generated images, 8 epochs", images/2), epochs: 8, seeds: 2, timed: true,
		of: func(ctx context.Context, shards int) (*data, error) {
			return b.images(ctx, dataKey{images, shards, [3]float64{0.5, 0.2, 0.3}})
		}}
	for _, t := range []trial{small, plain, pictures} {
		if err := b.gaps(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// trial is a training that is repeated with several seeds on one, two and four shards.
type trial struct {
	model
	what          string
	epochs, seeds int
	unscaled      bool // shards get the learning rate as it is, not as the app's shard_rate scales it
	timed         bool
	of            func(ctx context.Context, shards int) (*data, error)
}

// gaps runs a trial.
func (b *bench) gaps(ctx context.Context, t trial) error {
	all := []int{1, 2, 4}
	final := map[int][]float64{}   // accuracy after the last epoch, by seed
	arrival := map[int][]float64{} // seconds to the accuracy
	for seed := range t.seeds {
		for _, shards := range all {
			d, err := t.of(ctx, shards)
			if err != nil {
				return err
			}
			var changed map[string]any
			if t.unscaled {
				changed = map[string]any{"shard_rate": 0.0}
			}
			job, err := b.job(ctx, t.model, d, t.epochs, int64(seed), changed)
			if err != nil {
				return err
			}
			line := curve{name: fmt.Sprintf("%d shards", shards)}
			if shards == 1 {
				line.name = "1 shard"
			}
			began := time.Now()
			_, err = b.trained(ctx, job, func(e training.Epoch) {
				line.x, line.y = append(line.x, time.Since(began).Seconds()), append(line.y, e.Validation.Accuracy())
			})
			if err != nil {
				return err
			}
			final[shards] = append(final[shards], line.y[len(line.y)-1])
			if t.timed && seed == 0 {
				b.curves = append(b.curves, line)
			}
			if at, found := line.first(reached); t.timed && found {
				arrival[shards] = append(arrival[shards], at)
			}
		}
	}
	how, goals := "learning rate scaled by the app's shard_rate", []goal{atMost(0.5), atMost(1)}
	if t.unscaled {
		how, goals = "learning rate as it is", []goal{{}, {}}
	}
	for i, shards := range all[1:] {
		gaps := make([]float64, t.seeds)
		for k := range gaps {
			gaps[k] = 100 * (final[1][k] - final[shards][k])
		}
		b.add(fmt.Sprintf("%s, %s, %d seeds, %s: validation accuracy of one stream minus that of %d shards", t.name, t.what, t.seeds, how, shards), goals[i], points, summarize(gaps))
	}
	if t.unscaled {
		return nil
	}
	for _, shards := range all {
		b.add(fmt.Sprintf("%s, %s: validation accuracy at the end, shards: %d", t.name, t.what, shards), goal{}, percent, summarize(final[shards]))
	}
	for _, shards := range all {
		what := fmt.Sprintf("%s, %s: seconds until %s of the validation split are right, shards: %d", t.name, t.what, percent(reached), shards)
		switch {
		case !t.timed:
		case len(arrival[shards]) < t.seeds:
			b.missing(what, goal{}, seconds, fmt.Sprintf("%d of %d seeds did not get there", t.seeds-len(arrival[shards]), t.seeds))
		default:
			b.add(what, goal{}, seconds, summarize(arrival[shards]))
		}
	}
	return nil
}

// digits loads the example's data; nearly all that is not for training is to validate with.
func (b *bench) digits(ctx context.Context, shards int) (*data, error) {
	key := dataKey{-1, shards, [3]float64{0.7, 0.29, 0.01}}
	if d, found := b.data[key]; found {
		return d, nil
	}
	app, err := mlapp.Load(digits().folder)
	if err != nil {
		return nil, err
	}
	file, err := dataset.Fetch(ctx, app.Manifest.Dataset.Source, dataset.FetchOptions{Base: digits().folder, MaxBytes: maxBytes})
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	in := app.Manifest.Input
	plan, err := dataset.NewPlan(ctx, file, dataset.Options{
		Task: dataset.Classification, Format: app.Manifest.Dataset.Format, Label: app.Manifest.Dataset.Label, Labels: in.Labels,
		Input: dataset.Input{Shape: in.Shape, DType: in.DType, Range: in.Range},
		Split: dataset.SplitOptions{Fractions: key.split, Seed: 1}, PackSize: pack / 4, Shards: shards, MaxBytes: maxBytes,
	}, nil)
	if err != nil {
		return nil, err
	}
	prepared, err := plan.Prepare(ctx, b.dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = prepared.Close() }()
	if _, err := dataset.Load(ctx, b.admin, schema, prepared.Manifest, prepared.Packs(), nil); err != nil {
		return nil, err
	}
	b.data[key] = &data{prepared.Manifest, ""}
	return b.data[key], nil
}
