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
	min, max float64
}

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
	return s
}

// add takes an example in: its extremes always, its moments if it is for training.
func (s *statistic) add(data []byte, train bool) {
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
