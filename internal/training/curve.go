package training

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Sums are totals over rows. Loss is of -log p of the right class, or of squared errors.
type Sums struct {
	Rows    int64   `json:"rows"`
	Loss    float64 `json:"loss"`
	Correct int64   `json:"correct"` // 0 for regression
}

func (s *Sums) add(t Sums) {
	s.Rows += t.Rows
	s.Loss += t.Loss
	s.Correct += t.Correct
}

// MeanLoss is the loss of one row; 0 without rows.
func (s Sums) MeanLoss() float64 {
	if s.Rows == 0 {
		return 0
	}
	return s.Loss / float64(s.Rows)
}

// Accuracy is the share of rows that were right; 0 without rows.
func (s Sums) Accuracy() float64 {
	if s.Rows == 0 {
		return 0
	}
	return float64(s.Correct) / float64(s.Rows)
}

// Shard is what one shard did in an epoch. Its sums are taken while it learns: each pack is scored before it changes the model.
type Shard struct {
	Sums
	Shard   int     `json:"shard"`
	Packs   int     `json:"packs"`
	Seconds float64 `json:"seconds"`
	// Where it was done: the server process, and the segment where there are segments; -1 is the coordinator.
	Process int  `json:"process"`
	Segment *int `json:"segment"`
}

// RowsPerSecond is the shard's own pace.
func (s Shard) RowsPerSecond() float64 {
	if s.Seconds <= 0 {
		return 0
	}
	return float64(s.Rows) / s.Seconds
}

// Place says where the shard was trained, for people.
func (s Shard) Place() string {
	if s.Segment != nil {
		return fmt.Sprintf("segment %d", *s.Segment)
	}
	return fmt.Sprintf("session %d", s.Process)
}

// Epoch is one pass over the train split, as recorded in checkpoints.metrics.
type Epoch struct {
	Epoch      int     `json:"epoch"`
	Seconds    float64 `json:"seconds"` // of training, the slowest shard's; without merging and validating
	Shards     []Shard `json:"shards"`
	Validation *Sums   `json:"validation"` // nil without a validation split

	Recorded time.Time `json:"-"`
}

// parseEpoch reads checkpoints.metrics.
func parseEpoch(n int, text string, at time.Time) (Epoch, error) {
	e := Epoch{}
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return Epoch{}, fmt.Errorf("metrics of epoch %d: %w", n, err)
	}
	e.Epoch, e.Recorded = n, at
	return e, nil
}

// Train is the sum over the shards.
func (e Epoch) Train() Sums {
	var s Sums
	for _, k := range e.Shards {
		s.add(k.Sums)
	}
	return s
}

// RowsPerSecond is the pace of training.
func (e Epoch) RowsPerSecond() float64 {
	if e.Seconds <= 0 {
		return 0
	}
	return float64(e.Train().Rows) / e.Seconds
}

// Placement says where the shards of a training were and how fast: rows and packs of one epoch, seconds of the average
// one, and the place of the last one.
func Placement(curve []Epoch) []Shard {
	if len(curve) == 0 {
		return nil
	}
	out := slices.Clone(curve[len(curve)-1].Shards)
	for i := range out {
		seconds := 0.0
		for _, e := range curve {
			for _, s := range e.Shards {
				if s.Shard == out[i].Shard {
					seconds += s.Seconds
				}
			}
		}
		out[i].Seconds = seconds / float64(len(curve))
	}
	return out
}

// Skew is how much longer the slowest of the shards took than the average one: 1 is even.
func Skew(shards []Shard) float64 {
	var sum, most float64
	for _, s := range shards {
		sum += s.Seconds
		most = max(most, s.Seconds)
	}
	if sum == 0 {
		return 1
	}
	return most * float64(len(shards)) / sum
}

// loss is what epochs are compared by: validation loss, or train loss without a validation split.
func (e Epoch) loss() float64 {
	if e.Validation != nil {
		return e.Validation.MeanLoss()
	}
	return e.Train().MeanLoss()
}

// choose returns the epoch with the lowest loss, the earliest of equals, and whether the
// last patience epochs were all no better; patience 0 never stops.
func choose(curve []Epoch, patience int) (best int, stop bool) {
	lowest := 0.0
	for _, e := range curve {
		if best == 0 || e.loss() < lowest {
			best, lowest = e.Epoch, e.loss()
		}
	}
	return best, patience > 0 && len(curve) > 0 && curve[len(curve)-1].Epoch-best >= patience
}
