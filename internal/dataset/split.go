package dataset

import (
	"math"
	"math/rand/v2"

	"github.com/zeebo/xxh3"
)

// Streams of random numbers drawn from one seed: PCG with these increments.
// They are part of what a digest means: changing them needs a new ManifestVersion.
const (
	scatterStream = iota + 1
	shuffleStream
)

// random is one stream of a seed. It gives the same numbers on every machine.
func random(seed uint64, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// position places an example in [0, 1) by a hash of its packed bytes and the seed, and nothing else:
// it does not move when the dataset grows, is shuffled, or a label is corrected, and copies of an example share it.
// XXH3 is part of what a digest means.
func position(data []byte, seed uint64) float64 {
	return float64(xxh3.HashSeed(data, seed)>>11) / (1 << 53)
}

// Cuts divide [0, 1) among the splits: train lies below the first, test begins at the second.
type Cuts [2]float64

// cuts are where the fractions put them.
func (o SplitOptions) cuts() Cuts {
	return Cuts{o.Fractions[0], o.Fractions[0] + o.Fractions[1]}
}

// split is the split of a position: the index into SplitNames.
func (c Cuts) split(at float64) int {
	switch {
	case at < c[0]:
		return 0
	case at < c[1]:
		return 1
	}
	return 2
}

// extremes are the positions that decide where cuts move to; copies of an example count once.
type extremes struct {
	low, high [2]float64 // the two lowest and the two highest, the outer one first
	below     float64    // the highest below the second cut
}

func newExtremes() extremes {
	return extremes{low: [2]float64{2, 2}, high: [2]float64{-1, -1}, below: -1}
}

func (e *extremes) add(at float64, c Cuts) {
	switch {
	case at < e.low[0]:
		e.low = [2]float64{at, e.low[0]}
	case at > e.low[0] && at < e.low[1]:
		e.low[1] = at
	}
	switch {
	case at > e.high[0]:
		e.high = [2]float64{at, e.high[0]}
	case at < e.high[0] && at > e.high[1]:
		e.high[1] = at
	}
	if at < c[1] {
		e.below = max(e.below, at)
	}
}

// three tells whether there are at least three different positions: one a split.
func (e *extremes) three() bool { return e.low[1] < e.high[0] }

// move moves cuts as little as it takes to leave no split empty. Only data of some ten rows needs it, or a tiny fraction:
// its outermost examples change their split then. There must be three positions.
func (e *extremes) move(c Cuts) Cuts {
	above := func(at float64) float64 { return math.Nextafter(at, 1) }
	// One position from the second cut on, two below it.
	c[1] = min(max(c[1], above(e.low[1])), e.high[0])
	highest := e.low[1]
	for _, at := range []float64{e.high[1], e.below} {
		if at < c[1] {
			highest = max(highest, at)
		}
	}
	// One below the first cut, one between the two.
	c[0] = min(max(c[0], above(e.low[0])), highest)
	return c
}
