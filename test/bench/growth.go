package main

import (
	"context"
	"fmt"
)

// growth measures an epoch of the light model on more and more rows.
func growth(ctx context.Context, b *bench) error {
	sizes := []int{1, 4, 16}
	images := scaled(2_500, b.scale, 1000)
	line := curve{name: "softmax, one shard"}
	perRow := make([][]float64, len(sizes))
	jobs := make([]*stepper, len(sizes))
	for i, size := range sizes {
		d, err := b.images(ctx, dataKey{images * size, 1, ordinary()})
		if err != nil {
			return err
		}
		job, err := b.job(ctx, softmax(), d, b.rounds+1, 1, nil)
		if err != nil {
			return err
		}
		if jobs[i], err = b.stepper(ctx, job); err != nil {
			return err
		}
		defer jobs[i].close()
		line.x = append(line.x, float64(job.TrainRows))
	}
	taken := make([][]float64, len(sizes))
	for round := range b.rounds + 1 { // the first is to warm up
		for i, s := range jobs {
			e, err := s.epoch()
			if err != nil {
				return err
			}
			if round > 0 {
				taken[i] = append(taken[i], e.Seconds)
				perRow[i] = append(perRow[i], e.Seconds/line.x[i])
			}
		}
	}
	for _, t := range taken {
		line.y = append(line.y, median(t))
	}
	b.epochs = append(b.epochs, line)
	b.add(fmt.Sprintf("softmax: seconds a row of an epoch on %.0f rows / on %.0f rows", line.x[2], line.x[0]), atMost(1.1), ratio, paired(perRow[2], perRow[0]))
	b.add(fmt.Sprintf("softmax: seconds a row of an epoch on %.0f rows / on %.0f rows", line.x[1], line.x[0]), goal{}, ratio, paired(perRow[1], perRow[0]))
	return nil
}
