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
const reached = 0.9

// accuracy compares what shards learn in as many epochs as one stream, and how long each takes to get somewhere.
func accuracy(ctx context.Context, b *bench) error {
	if err := b.gaps(ctx, "digits, 60 epochs", digits, 5, 60, func(ctx context.Context, shards int) (*data, error) { return b.digits(ctx, shards) }, false); err != nil {
		return err
	}
	images, epochs := scaled(10_000, b.scale, 2048), 6
	return b.gaps(ctx, fmt.Sprintf("CNN on %d generated images, %d epochs", images*4/10, epochs), cnn, 3, epochs, func(ctx context.Context, shards int) (*data, error) {
		return b.images(ctx, dataKey{images, shards, [3]float64{0.4, 0.5, 0.1}})
	}, true)
}

// gaps trains with one, two and four shards and several seeds.
func (b *bench) gaps(ctx context.Context, name, folder string, seeds, epochs int, of func(context.Context, int) (*data, error), timed bool) error {
	all := []int{1, 2, 4}
	final := map[int][]float64{}   // accuracy after the last epoch, by seed
	arrival := map[int][]float64{} // seconds to the accuracy
	for seed := range seeds {
		for _, shards := range all {
			d, err := of(ctx, shards)
			if err != nil {
				return err
			}
			job, err := b.job(ctx, folder, d, epochs, int64(seed), nil)
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
			if timed && seed == 0 {
				b.curves = append(b.curves, line)
			}
			if at, found := line.first(reached); timed && found {
				arrival[shards] = append(arrival[shards], at)
			}
		}
	}
	for _, limit := range []struct {
		shards int
		goal   goal
	}{{2, atMost(0.5)}, {4, atMost(1)}} {
		gaps := make([]float64, seeds)
		for i := range gaps {
			gaps[i] = 100 * (final[1][i] - final[limit.shards][i])
		}
		b.add(fmt.Sprintf("%s, %d seeds: accuracy of one stream minus that of %d shards", name, seeds, limit.shards), limit.goal, points, summarize(gaps))
	}
	for _, shards := range all {
		b.add(fmt.Sprintf("%s: validation accuracy at the end, shards: %d", name, shards), goal{}, func(v float64) string { return fmt.Sprintf("%.4f", v) }, summarize(final[shards]))
	}
	for _, shards := range all {
		what := fmt.Sprintf("%s: seconds until %.0f %% of the validation split are right, shards: %d", name, 100*reached, shards)
		switch {
		case !timed:
		case len(arrival[shards]) < seeds:
			b.missing(what, goal{}, seconds, fmt.Sprintf("%d of %d seeds did not get there", seeds-len(arrival[shards]), seeds))
		default:
			b.add(what, goal{}, seconds, summarize(arrival[shards]))
		}
	}
	return nil
}

// digits loads the example's data, half of it for training and most of the rest to validate with.
func (b *bench) digits(ctx context.Context, shards int) (*data, error) {
	key := dataKey{-1, shards, [3]float64{0.5, 0.4, 0.1}}
	if d, found := b.data[key]; found {
		return d, nil
	}
	app, err := mlapp.Load(digits)
	if err != nil {
		return nil, err
	}
	file, err := dataset.Fetch(ctx, app.Manifest.Dataset.Source, dataset.FetchOptions{Base: digits, MaxBytes: maxBytes})
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
