package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// place is where in the input an example is, for messages: a member of an archive and a line, row or record in it.
type place struct {
	member string
	unit   string
	number int64 // from 1
}

func (p place) String() string {
	at := ""
	if p.number > 0 {
		at = fmt.Sprintf("%s %d", p.unit, p.number)
	}
	switch {
	case p.member == "":
		return at
	case at == "":
		return fmt.Sprintf("%q", p.member)
	}
	return fmt.Sprintf("%q %s", p.member, at)
}

// example is one decoded example. It is valid until the decoder goes on.
type example struct {
	place place
	label string // as it is written in the input
	data  []byte // Input.Bytes() bytes
}

// decoder yields the examples of a file in its order, the same ones every time it runs.
type decoder struct {
	// run stops at the first error, its own or yield's.
	run func(yield func(*example) error) error
	// columns are the feature columns of tables.
	columns []string
}

// values packs the numbers of one example after another, each checked.
type values struct {
	in     Input
	float  bool
	lo, hi float64
	buf    []byte
	n      int // values so far
}

func newValues(in Input) *values {
	v := &values{in: in, float: in.DType == Float32, lo: -math.MaxFloat32, hi: math.MaxFloat32}
	if !v.float {
		v.lo, v.hi = 0, 255
	}
	if r := in.Range; r != nil {
		// Bounds are compared in the precision the values are kept in: 0.1 is not above 0.1.
		v.lo, v.hi = max(v.lo, float64(float32(r[0]))), min(v.hi, float64(float32(r[1])))
	}
	v.buf = make([]byte, in.Bytes())
	return v
}

func (v *values) reset() { v.n = 0 }

// put adds one number.
func (v *values) put(x float64) error {
	if v.float {
		x32 := float32(x)
		if !(float64(x32) >= v.lo && float64(x32) <= v.hi) {
			return v.outside(x)
		}
		binary.LittleEndian.PutUint32(v.buf[4*v.n:], math.Float32bits(x32))
	} else {
		if !(x >= v.lo && x <= v.hi) {
			return v.outside(x)
		}
		if x != math.Trunc(x) {
			return fmt.Errorf("value %v is no integer, the input's dtype is uint8", x)
		}
		v.buf[v.n] = byte(x)
	}
	v.n++
	return nil
}

// putBytes adds numbers of 0 to 255.
func (v *values) putBytes(b []byte) error {
	if v.float || v.lo > 0 || v.hi < 255 {
		for _, x := range b {
			if err := v.put(float64(x)); err != nil {
				return err
			}
		}
		return nil
	}
	v.n += copy(v.buf[v.n:], b)
	return nil
}

func (v *values) outside(x float64) error {
	switch {
	case math.IsNaN(x):
		return errors.New("the value is NaN, expected a finite number")
	case math.IsInf(x, 0):
		return errors.New("the value is infinite, expected a finite number")
	case v.in.Range != nil:
		return fmt.Errorf("value %v is out of the input's range [%v, %v]", x, v.lo, v.hi)
	case v.float:
		return fmt.Errorf("value %v is out of float32's range", x)
	}
	return fmt.Errorf("value %v is out of uint8's range [0, 255]", x)
}

// putText adds the number a text cell holds.
func (v *values) putText(cell string) error {
	x, err := parseNumber(cell)
	if err != nil {
		return err
	}
	return v.put(x)
}

func parseNumber(cell string) (float64, error) {
	cell = strings.TrimSpace(cell)
	x, err := strconv.ParseFloat(cell, 64)
	switch {
	case err == nil, errors.Is(err, strconv.ErrRange): // beyond float64 is ±Inf, refused later
		return x, nil
	case cell == "":
		return 0, errors.New("the cell is empty, expected a number")
	case !utf8.ValidString(cell):
		return 0, fmt.Errorf("%.80q is not UTF-8", cell)
	}
	return 0, fmt.Errorf("%.80q is no number", cell)
}

// numberLabel writes a numeric label as text: integers without a fraction.
func numberLabel(x float64) string {
	if x == math.Trunc(x) && math.Abs(x) < 1<<53 {
		return strconv.FormatInt(int64(x), 10)
	}
	return strconv.FormatFloat(x, 'g', -1, 64)
}

// layout is how an image lies in an example.
type layout struct {
	channels, height, width int
	last                    bool // channels come last
}

// layoutOf reads an input shape as an image: [height, width], [channels, height, width] or [height, width, channels]
// with 1 or 3 channels; what could be either has its channels first.
func layoutOf(shape []int) (layout, bool) {
	switch {
	case len(shape) == 2:
		return layout{channels: 1, height: shape[0], width: shape[1]}, true
	case len(shape) == 3 && (shape[0] == 1 || shape[0] == 3):
		return layout{channels: shape[0], height: shape[1], width: shape[2]}, true
	case len(shape) == 3 && (shape[2] == 1 || shape[2] == 3):
		return layout{channels: shape[2], height: shape[0], width: shape[1], last: true}, true
	}
	return layout{}, false
}
