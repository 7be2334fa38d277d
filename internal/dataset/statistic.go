package dataset

import (
	"encoding/binary"
	"math"
	"math/big"
)

// statistic takes mean and standard deviation per feature or channel, and the extremes.
type statistic struct {
	in       Input
	layout   layout
	channels bool // per channel, else per value
	moments  []moments
	images   [2][]histogram // of uint8 channels, of examples that are not for training and that are; the rest is computed from them
	min, max float64
}

// histogram counts how often a channel has each value, at even and at odd places: counting neighbours that are equal,
// as they often are, in one table makes each wait for the last.
type histogram [2][256]uint64

func (h *histogram) of(v int) uint64 { return h[0][v] + h[1][v] }

// moments of uint8 values are exact; those of floats are Welford's.
type moments struct {
	n       int64
	sum, sq uint64
	mean    float64
	m2      float64
}

func newStatistic(in Input) *statistic {
	s := &statistic{in: in, min: math.Inf(1), max: math.Inf(-1)}
	n := in.Values()
	if len(in.Shape) > 1 {
		if l, ok := layoutOf(in.Shape); ok {
			s.layout, s.channels, n = l, true, l.channels
		}
	}
	s.moments = make([]moments, n)
	if s.channels && in.DType == UInt8 {
		s.images = [2][]histogram{make([]histogram, n), make([]histogram, n)}
	}
	return s
}

// add takes an example in: its extremes always, its moments if it is for training.
func (s *statistic) add(data []byte, train bool) {
	if s.images[0] != nil {
		s.count(data, train)
		return
	}
	if s.in.DType == UInt8 {
		for i, b := range data {
			x := float64(b)
			s.min, s.max = min(s.min, x), max(s.max, x)
			if train {
				m := &s.moments[s.group(i)]
				m.n++
				m.sum += uint64(b)
				m.sq += uint64(b) * uint64(b)
			}
		}
		return
	}
	for i := range len(data) / 4 {
		x := float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
		s.min, s.max = min(s.min, x), max(s.max, x)
		if train {
			m := &s.moments[s.group(i)]
			m.n++
			d := x - m.mean
			m.mean += d / float64(m.n)
			// The conversion keeps machines that fuse multiply and add to the same result.
			m.m2 += float64(d * (x - m.mean))
		}
	}
}

// count is add for images.
func (s *statistic) count(data []byte, train bool) {
	into := s.images[0]
	if train {
		into = s.images[1]
	}
	if s.layout.last {
		for i, b := range data {
			into[i%len(into)][i&1][b]++
		}
		return
	}
	for c, plane := 0, len(data)/len(into); c < len(into); c++ {
		h := &into[c]
		values := data[c*plane:][:plane]
		for ; len(values) > 1; values = values[2:] {
			h[0][values[0]]++
			h[1][values[1]]++
		}
		if len(values) > 0 {
			h[0][values[0]]++
		}
	}
}

// conclude takes extremes and moments out of the histograms.
func (s *statistic) conclude() {
	for c := range s.images[0] {
		for v := range 256 {
			n := s.images[1][c].of(v)
			if n+s.images[0][c].of(v) > 0 {
				s.min, s.max = min(s.min, float64(v)), max(s.max, float64(v))
			}
			m := &s.moments[c]
			m.n += int64(n)
			m.sum += n * uint64(v)
			m.sq += n * uint64(v) * uint64(v)
		}
	}
}

// group is the index of the moments that value i of an example belongs to.
func (s *statistic) group(i int) int {
	switch {
	case !s.channels:
		return i
	case s.layout.last:
		return i % s.layout.channels
	}
	return i / (s.layout.width * s.layout.height)
}

func (s *statistic) result() InputStatistic {
	s.conclude()
	out := InputStatistic{Shape: s.in.Shape, Min: s.min, Max: s.max}
	if s.channels {
		out.Shape = make([]int, len(s.in.Shape))
		for i := range out.Shape {
			out.Shape[i] = 1
		}
		if len(out.Shape) == 3 && s.layout.last {
			out.Shape[2] = s.layout.channels
		} else if len(out.Shape) == 3 {
			out.Shape[0] = s.layout.channels
		}
	}
	for i := range s.moments {
		mean, variance := s.moments[i].result(s.in.DType)
		out.Mean = append(out.Mean, mean)
		out.Std = append(out.Std, math.Sqrt(variance))
	}
	return out
}

func (m *moments) result(dtype string) (mean, variance float64) {
	if m.n == 0 {
		return 0, 0
	}
	n := float64(m.n)
	if dtype != UInt8 {
		return m.mean, m.m2 / n
	}
	// n*sq - sum*sum exactly: a constant has the variance 0, not a little.
	a := new(big.Int).Mul(big.NewInt(m.n), new(big.Int).SetUint64(m.sq))
	b := new(big.Int).SetUint64(m.sum)
	d, _ := new(big.Float).SetInt(a.Sub(a, b.Mul(b, b))).Float64()
	return float64(m.sum) / n, d / n / n
}
