package dataset

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
)

// Streams of random numbers drawn from one seed: PCG with these increments.
// They are part of what a digest means: changing them needs a new ManifestVersion.
const (
	splitStream = iota + 1
	scatterStream
	shuffleStream
)

// random is one stream of a seed. It gives the same numbers on every machine.
func random(seed uint64, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// quotas divides n rows by the fractions: largest remainder, and at least one row a split. n is at least the number of splits.
func quotas(n int64, fractions [3]float64) [3]int64 {
	var out [3]int64
	var rest [3]float64
	left := n
	for i, f := range fractions {
		// The conversion keeps machines that fuse multiply and subtract to the same result.
		exact := float64(float64(n) * f)
		out[i] = min(int64(math.Floor(exact)), left)
		rest[i] = exact - float64(out[i])
		left -= out[i]
	}
	for ; left > 0; left-- {
		best := 0
		for i := range rest {
			if rest[i] > rest[best] {
				best = i
			}
		}
		out[best]++
		rest[best]--
	}
	for i := range out {
		if out[i] == 0 {
			most := slices.Index(out[:], slices.Max(out[:]))
			out[most]--
			out[i]++
		}
	}
	return out
}

// sampler assigns the rows of each class to splits so that every quota is met exactly:
// a row goes to a split with the chance that its remaining quota has among the class's remaining rows.
type sampler struct {
	left   [][3]int64
	random *rand.Rand
}

func newSampler(counts []int64, o SplitOptions) *sampler {
	s := &sampler{random: random(o.Seed, splitStream)}
	for _, n := range counts {
		s.left = append(s.left, quotas(n, o.Fractions))
	}
	return s
}

// next is the split of the next row of a class: the index into SplitNames.
func (s *sampler) next(class int) (int, error) {
	left := &s.left[class]
	total := left[0] + left[1] + left[2]
	if total == 0 {
		return 0, errChanged
	}
	at := s.random.Int64N(total)
	for i := range left {
		if at < left[i] {
			left[i]--
			return i, nil
		}
		at -= left[i]
	}
	return 0, errors.New("split: unreachable")
}
