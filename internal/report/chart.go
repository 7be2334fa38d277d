package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size of a chart in its own units; the page scales it to the width of its column.
const (
	chartWidth, chartHeight = 440.0, 250.0
	plotLeft, plotRight     = 46.0, 360.0 // room for tick labels and for the names of the lines
	plotTop, plotBottom     = 26.0, 214.0
)

// Chart is a line chart, ready to draw.
type Chart struct {
	Title, Summary string
	Lines          []Line
	XTicks, YTicks []Tick
	BestX          string // "" if the best epoch is not on the axis
	BestLabel      string
}

// Series is one line's data; NaN leaves a gap.
type Series struct {
	Name, Class string
	Y           []float64
}

// Line is one line, its points, and its name at the right end.
type Line struct {
	Name, Class, Path string
	Dots              []Dot
	LabelY            float64
	LastX, LastY      string
}

// Dot is one point.
type Dot struct{ X, Y, Title string }

// Tick is one label of an axis.
type Tick struct{ At, Text string }

// newChart scales the series; it reports false when there is no point to draw.
func newChart(title string, x []float64, series []Series, best int) (Chart, bool) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, s := range series {
		for _, y := range s.Y {
			if finite(y) {
				low, high = min(low, y), max(high, y)
			}
		}
	}
	if low > high {
		return Chart{}, false
	}
	yTicks := ticks(low, high, 5)
	low, high = min(low, yTicks[0]), max(high, yTicks[len(yTicks)-1])
	xLow, xHigh := x[0], x[len(x)-1]
	if xLow == xHigh {
		xLow, xHigh = xLow-1, xHigh+1
	}
	toX := func(v float64) float64 { return plotLeft + (v-xLow)/(xHigh-xLow)*(plotRight-plotLeft) }
	toY := func(v float64) float64 { return plotBottom - (v-low)/(high-low)*(plotBottom-plotTop) }

	c := Chart{Title: title}
	for _, v := range yTicks {
		c.YTicks = append(c.YTicks, Tick{coordinate(toY(v)), tickText(v, yTicks)})
	}
	for _, v := range ticks(xLow, xHigh, 7) {
		if v == math.Trunc(v) && v >= x[0] && v <= x[len(x)-1] {
			c.XTicks = append(c.XTicks, Tick{coordinate(toX(v)), strconv.Itoa(int(v))})
		}
	}
	var told []string
	for _, s := range series {
		l := Line{Name: s.Name, Class: s.Class}
		var path strings.Builder
		last, command := math.NaN(), "M"
		for i, y := range s.Y {
			if !finite(y) {
				command = "M"
				continue
			}
			px, py := coordinate(toX(x[i])), coordinate(toY(y))
			path.WriteString(command + px + " " + py)
			command = "L"
			l.Dots = append(l.Dots, Dot{px, py, fmt.Sprintf("%s, epoch %g: %s", s.Name, x[i], decimals(y))})
			l.LastX, l.LastY, l.LabelY, last = px, py, toY(y), y
		}
		if l.Path = path.String(); l.Path == "" {
			continue
		}
		if len(l.Dots) > 40 { // a dot each would be a sausage
			l.Dots = nil
		}
		c.Lines = append(c.Lines, l)
		told = append(told, fmt.Sprintf("%s ends at %s", s.Name, decimals(last)))
	}
	spread(c.Lines)
	if b := float64(best); b >= x[0] && b <= x[len(x)-1] {
		c.BestX = coordinate(toX(b))
		c.BestLabel = fmt.Sprintf("epoch %d kept", best)
		told = append(told, c.BestLabel)
	}
	c.Summary = fmt.Sprintf("%s over %d epochs: %s.", title, len(x), strings.Join(told, ", "))
	return c, true
}

// spread keeps the names of two lines that end close together apart.
func spread(lines []Line) {
	const least = 15.0
	if len(lines) != 2 {
		return
	}
	upper, lower := &lines[0], &lines[1]
	if upper.LabelY > lower.LabelY {
		upper, lower = lower, upper
	}
	if gap := lower.LabelY - upper.LabelY; gap < least {
		upper.LabelY -= (least - gap) / 2
		lower.LabelY += (least - gap) / 2
	}
}

// Interval is a point with its 95 % interval against zero and the tolerance.
type Interval struct {
	Low, At, High, Zero, Tolerance string // positions, 0 to 400
	Width                          string
	ToleranceText                  string
	HasTolerance                   bool
	Summary                        string
}

func newInterval(low, at, high, tolerance float64) Interval {
	left, right := min(low, -tolerance, 0), max(high, tolerance, 0)
	if left == right {
		left, right = -0.01, 0.01
	}
	margin := (right - left) * 0.08
	left, right = left-margin, right+margin
	to := func(v float64) float64 { return (v - left) / (right - left) * 400 }
	return Interval{
		Low: coordinate(to(low)), At: coordinate(to(at)), High: coordinate(to(high)), Width: coordinate(to(high) - to(low)),
		Zero: coordinate(to(0)), Tolerance: coordinate(to(-tolerance)), HasTolerance: tolerance > 0, ToleranceText: signed(-tolerance),
		Summary: fmt.Sprintf("difference %s, 95 %% interval %s to %s, tolerance %s", signed(at), signed(low), signed(high), signed(-tolerance)),
	}
}

// ticks are about n round numbers that enclose low and high.
func ticks(low, high float64, n int) []float64 {
	if high-low < 1e-9*max(math.Abs(low), math.Abs(high), 1e-3) {
		pad := max(math.Abs(high)*0.1, 0.1)
		low, high = low-pad, high+pad
	}
	raw := (high - low) / float64(n)
	step := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5, 10} {
		if step*m >= raw {
			step *= m
			break
		}
	}
	from, to := math.Floor(low/step+1e-9), math.Ceil(high/step-1e-9)
	var out []float64
	for i := from; i <= to; i++ {
		out = append(out, i*step)
	}
	return out
}

// tickText prints as many decimals as the step between ticks needs.
func tickText(v float64, all []float64) string {
	places := 0
	if len(all) > 1 {
		places = max(0, int(math.Ceil(-math.Log10(all[1]-all[0])-1e-9)))
	}
	return strings.TrimPrefix(strconv.FormatFloat(v+0, 'f', min(places, 8), 64), "-0 ")
}

func coordinate(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(v, 'f', 1, 64), "0"), ".")
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
