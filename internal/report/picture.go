package report

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxSide is the largest side of a picture in the report, in pixels; larger ones are thinned out.
const maxSide = 48

// Picture is an image as runs of equal colour: an inline SVG path for each colour.
// It takes the place of a PNG, which would need a data: URL that strict policies block.
type Picture struct {
	Width, Height int
	Paths         []ColourPath
}

// ColourPath draws all runs of one colour.
type ColourPath struct{ Colour, D string }

// Layout says how the bytes of one example make an image.
type Layout struct {
	Height, Width, Channels int    // 1 or 3 channels
	ChannelsFirst           bool   // CHW instead of HWC
	DType                   string // uint8 or float32, little-endian
}

// Size is the number of bytes of one example.
func (l Layout) Size() int {
	size := l.Height * l.Width * l.Channels
	if l.DType == "float32" {
		size *= 4
	}
	return size
}

// LayoutOf reads an input shape as an image: [h w], [h w c] or [c h w], with one or three channels
// and sides of at least 4. Other shapes are tabular.
func LayoutOf(shape []int, dtype string) (Layout, bool) {
	l := Layout{Channels: 1, DType: dtype}
	switch {
	case len(shape) == 2:
		l.Height, l.Width = shape[0], shape[1]
	case len(shape) == 3 && (shape[2] == 1 || shape[2] == 3):
		l.Height, l.Width, l.Channels = shape[0], shape[1], shape[2]
	case len(shape) == 3 && (shape[0] == 1 || shape[0] == 3):
		l.Height, l.Width, l.Channels, l.ChannelsFirst = shape[1], shape[2], shape[0], true
	default:
		return Layout{}, false
	}
	return l, min(l.Height, l.Width) >= 4 && max(l.Height, l.Width) <= 1<<14 && (dtype == "uint8" || dtype == "float32")
}

// Pictures turns examples into pictures on one common scale of brightness: 0 to 255 for bytes
// (0 to the largest for data that stays below 128, like the digits' 0 to 16), smallest to largest for floats.
func Pictures(l Layout, examples [][]byte) ([]*Picture, error) {
	values := make([][]float64, len(examples))
	low, high := math.Inf(1), math.Inf(-1)
	for i, e := range examples {
		if len(e) != l.Size() {
			return nil, fmt.Errorf("picture %d has %d bytes, expected %d for %d x %d x %d of %s", i, len(e), l.Size(), l.Height, l.Width, l.Channels, l.DType)
		}
		values[i] = Values(e, l.DType)
		for _, v := range values[i] {
			if finite(v) {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	if l.DType == "uint8" {
		low = 0
		if high >= 128 {
			high = 255
		}
	}
	if !(high > low) {
		low, high = 0, 1
	}
	out := make([]*Picture, len(values))
	for i, v := range values {
		out[i] = l.draw(v, low, high)
	}
	return out, nil
}

// Values decodes an example's numbers.
func Values(b []byte, dtype string) []float64 {
	if dtype != "float32" {
		out := make([]float64, len(b))
		for i, v := range b {
			out[i] = float64(v)
		}
		return out
	}
	out := make([]float64, len(b)/4)
	for i := range out {
		out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
	}
	return out
}

func (l Layout) draw(values []float64, low, high float64) *Picture {
	stride := (max(l.Width, l.Height) + maxSide - 1) / maxSide
	p := &Picture{Width: (l.Width + stride - 1) / stride, Height: (l.Height + stride - 1) / stride}
	runs := map[string]*strings.Builder{}
	for y := range p.Height {
		for x := 0; x < p.Width; {
			colour := l.colour(values, x*stride, y*stride, low, high)
			end := x + 1
			for end < p.Width && l.colour(values, end*stride, y*stride, low, high) == colour {
				end++
			}
			b := runs[colour]
			if b == nil {
				b = &strings.Builder{}
				runs[colour] = b
			}
			// A stroke of width 1 along the middle of the row.
			fmt.Fprintf(b, "M%d %d.5h%d", x, y, end-x)
			x = end
		}
	}
	for colour, b := range runs {
		p.Paths = append(p.Paths, ColourPath{colour, b.String()})
	}
	slices.SortFunc(p.Paths, func(a, b ColourPath) int { return strings.Compare(a.Colour, b.Colour) })
	return p
}

// colour is the pixel's colour with 5 bits a channel: more cannot be seen at this size and makes the page larger.
func (l Layout) colour(values []float64, x, y int, low, high float64) string {
	rgb := 0
	for c := range 3 {
		channel := min(c, l.Channels-1)
		i := (y*l.Width+x)*l.Channels + channel
		if l.ChannelsFirst {
			i = (channel*l.Height+y)*l.Width + x
		}
		level := (values[i] - low) / (high - low)
		if !(level > 0) { // NaN too
			level = 0
		}
		rgb = rgb<<8 | int(math.Round(min(level, 1)*31)*255/31)
	}
	s := strconv.FormatInt(int64(rgb), 16)
	return "#" + strings.Repeat("0", 6-len(s)) + s
}
