package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/insitu-ml/insitu/internal/training"
)

// train compares epochs in the database with the same epochs in plain Python, one and two at a time.
func train(ctx context.Context, b *bench) error {
	for _, t := range []struct {
		model
		images, starts, rounds int
		one, two, both         goal
	}{
		{cnn(), scaled(many, b.scale, 1000), 6, (b.rounds + 1) / 2, atLeast(0.97), atLeast(0.98), atLeast(1.75)},
		{large(), scaled(12_800, b.scale, 1000), 3, 1, goal{}, goal{}, goal{}},
		{softmax(), scaled(many, b.scale, 1000), 6, (b.rounds + 1) / 2, atLeast(0.85), atLeast(0.85), goal{}},
	} {
		// How a process's memory happens to lie is worth some percent, for as long as it lives: new ones on both sides, often.
		measured := epochTimes{equal: true}
		for start := range t.starts {
			some, err := b.epochsOf(ctx, t.model, t.images, t.rounds, start)
			if err != nil {
				return err
			}
			measured.add(some)
		}
		side := fmt.Sprintf("%s, %d images an epoch: ", t.name, measured.rows)
		b.add(side+"one epoch in plain Python (limit) / in the database", t.one, ratio, paired(measured.plain[0], measured.inside[0]))
		b.add(side+"two plain processes side by side (limit) / two shards in the database", t.two, ratio, paired(measured.plain[1], measured.inside[1]))
		b.add(side+"one shard / two shards in the database", t.both, times, paired(measured.inside[0], measured.inside[1]))
		b.add(side+"one plain process / two, for comparison: what the machine allows", goal{}, times, paired(measured.plain[0], measured.plain[1]))
		for i, shards := range []string{"one shard", "two shards"} {
			pace := make([]float64, len(measured.inside[i]))
			for k, s := range measured.inside[i] {
				pace[k] = float64(measured.rows) / s
			}
			b.add(side+"seconds of an epoch in the database, "+shards, goal{}, seconds, summarize(measured.inside[i]))
			b.add(side+"images in the database, "+shards, goal{}, perSecond, summarize(pace))
		}
		b.add(side+"most memory a session held (VmHWM, shared buffers it touched included)", goal{}, mebibytes, summarize(measured.memory))
		b.add(side+"of that its own (RssAnon)", goal{}, mebibytes, summarize(measured.own))
		b.add(side+"most memory a plain process held, the packs included", goal{}, mebibytes, summarize(measured.plainMemory))
		equal := 0.0
		if measured.equal {
			equal = 1
		}
		b.add(side+"one shard: the database's state equals plain Python's to the bit, every round", atLeast(1), yes, summarize([]float64{equal}))
	}
	return nil
}

// epochTimes are seconds by round; index 0 is one shard, 1 is two.
type epochTimes struct {
	rows                     int64
	inside, plain            [2][]float64
	memory, own, plainMemory []float64 // bytes
	equal                    bool
}

func (e *epochTimes) add(more epochTimes) {
	e.rows, e.equal = more.rows, e.equal && more.equal
	for i := range e.inside {
		e.inside[i], e.plain[i] = append(e.inside[i], more.inside[i]...), append(e.plain[i], more.plain[i]...)
	}
	e.memory, e.own, e.plainMemory = append(e.memory, more.memory...), append(e.own, more.own...), append(e.plainMemory, more.plainMemory...)
}

// epochsOf alternates: an epoch in the database, the same from the same state in plain Python, either first by turns;
// with one shard, then with two. start is how many times it was called before.
func (b *bench) epochsOf(ctx context.Context, m model, images, rounds, start int) (out epochTimes, err error) {
	var jobs [2]*stepper
	var workers [2][]*worker
	for i := range jobs {
		shards := i + 1
		d, err := b.images(ctx, dataKey{images, shards, ordinary()})
		if err != nil {
			return out, err
		}
		out.rows = d.Splits.Train.Rows
		packs, err := b.packFile(ctx, d)
		if err != nil {
			return out, err
		}
		job, err := b.job(ctx, m, d, rounds+1, 1, nil)
		if err != nil {
			return out, err
		}
		if jobs[i], err = b.stepper(ctx, job); err != nil {
			return out, err
		}
		defer jobs[i].close()
		for range shards {
			w, err := b.worker(ctx, m.folder, packs)
			if err != nil {
				return out, err
			}
			defer w.close()
			workers[i] = append(workers[i], w)
		}
	}
	out.equal = true
	for round := range rounds + 1 { // the first is to warm up
		for i, s := range jobs {
			var inside training.Epoch
			var plain float64
			var digests []answer
			sides := []func() error{
				func() (err error) { inside, err = s.epoch(); return err },
				func() (err error) {
					plain, digests, err = b.plainEpoch(ctx, s.job.ID, s, workers[i], round+1)
					return err
				},
			}
			if round > 0 && (start+round)%2 == 1 { // neither always finds the machine as the other left it; the job begins with ours
				slices.Reverse(sides)
			}
			for _, side := range sides {
				if err := side(); err != nil {
					return out, err
				}
			}
			if i == 0 {
				_, digest, err := b.checkpoint(ctx, s.job.ID, inside.Epoch)
				if err != nil {
					return out, err
				}
				out.equal = out.equal && digest == digests[0].SHA256
			}
			if round == 0 {
				continue
			}
			out.inside[i], out.plain[i] = append(out.inside[i], inside.Seconds), append(out.plain[i], plain)
			if round == rounds {
				if err := b.memoryOf(ctx, s.job.ID, &out); err != nil {
					return out, err
				}
				for _, a := range digests {
					out.plainMemory = append(out.plainMemory, a.Memory)
				}
			}
		}
	}
	return out, nil
}

// plainEpoch runs an epoch's shards in plain processes side by side and returns the time of the slowest.
func (b *bench) plainEpoch(ctx context.Context, job string, s *stepper, workers []*worker, epoch int) (float64, []answer, error) {
	state, _, err := b.checkpoint(ctx, job, epoch-1)
	if err != nil {
		return 0, nil, err
	}
	answers := make([]answer, len(workers))
	var all errgroup.Group
	for shard, w := range workers {
		spec, err := specOf(s.job, epoch, shard)
		if err != nil {
			return 0, nil, err
		}
		all.Go(func() (err error) {
			answers[shard], err = w.do(map[string]any{"do": "epoch", "spec": spec, "state": state})
			return err
		})
	}
	err = all.Wait()
	slowest := 0.0
	for _, a := range answers {
		slowest = max(slowest, a.Seconds)
	}
	return slowest, answers, err
}

// memoryOf reads what the job's sessions held, from /proc: the server runs on this machine.
func (b *bench) memoryOf(ctx context.Context, application string, out *epochTimes) error {
	rows, err := b.admin.Query(ctx, "select pid from pg_stat_activity where application_name = $1", application)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			return err
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			var kib float64
			if n, _ := fmt.Sscanf(line, "VmHWM: %f", &kib); n == 1 {
				out.memory = append(out.memory, kib*1024)
			}
			if n, _ := fmt.Sscanf(line, "RssAnon: %f", &kib); n == 1 {
				out.own = append(out.own, kib*1024)
			}
		}
	}
	return rows.Err()
}
