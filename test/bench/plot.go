package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// curve is a line of a chart.
type curve struct {
	name string
	x, y []float64
}

// first is where a curve gets to a height.
func (c curve) first(height float64) (x float64, found bool) {
	for i, y := range c.y {
		if y >= height {
			return c.x[i], true
		}
	}
	return 0, false
}

// The plot's sizes in its own units.
const (
	plotWidth   = 900.0
	nameWidth   = 560.0 // of what a ratio compares
	lineHeight  = 18.0
	chartHeight = 260.0
)

// plot draws every goal with how far the figure is from it, time to accuracy, and epochs over rows.
func (b *bench) plot() string {
	var out strings.Builder
	goals := slices.DeleteFunc(slices.Clone(b.rows), func(r row) bool {
		return r.goal == goal{} || r.missing != "" || r.unit(1) == "yes"
	})
	height := 60 + lineHeight*float64(len(goals)) + 40 + chartHeight + 40
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="11">`+"\n", plotWidth, height)
	fmt.Fprintf(&out, `<rect width="%g" height="%g" fill="white"/>`+"\n", plotWidth, height)
	drawGoals(&out, goals)
	top := 60 + lineHeight*float64(len(goals)) + 40
	drawChart(&out, 0, top, "Validation accuracy over seconds of training (CNN)", b.curves)
	drawChart(&out, plotWidth/2, top, "Seconds an epoch over rows (softmax)", b.epochs)
	out.WriteString("</svg>\n")
	return out.String()
}

func text(out *strings.Builder, x, y float64, more, s string) {
	fmt.Fprintf(out, `<text x="%.1f" y="%.1f"%s>%s</text>`+"\n", x, y, more, html.EscapeString(s))
}

// drawGoals draws a line a goal: 1 is met to the point, right of it is better.
func drawGoals(out *strings.Builder, rows []row) {
	text(out, 10, 20, ` font-size="14" font-weight="bold"`, "Measured against the goal: right of the line is met (logarithmic)")
	const reach = 4.0 // the axis goes from a quarter to four times the goal
	at := func(v float64) float64 {
		v = min(max(v, 1/reach), reach)
		return nameWidth + (math.Log(v)/math.Log(reach)+1)/2*(plotWidth-nameWidth-30)
	}
	bottom := 50 + lineHeight*float64(len(rows))
	for _, v := range []float64{0.25, 0.5, 1, 2, 4} {
		colour := "#ddd"
		if v == 1 {
			colour = "#555"
		}
		fmt.Fprintf(out, `<line x1="%.1f" x2="%.1f" y1="44" y2="%.1f" stroke="%s"/>`+"\n", at(v), at(v), bottom, colour)
		text(out, at(v), 40, ` text-anchor="middle" fill="#555"`, fmt.Sprintf("%gx", v))
	}
	for i, r := range rows {
		y := 58 + lineHeight*float64(i)
		better := func(v float64) float64 {
			switch {
			case r.goal.atMost && v <= 0: // an accuracy that is better than the one it is compared with
				return reach
			case r.goal.atMost:
				return r.goal.bound / v
			}
			return v / r.goal.bound
		}
		colour := "#1a7f37"
		if !r.goal.met(r.sample.median) {
			colour = "#c4320a"
		}
		name := []rune(r.group + ": " + r.what)
		if len(name) > 96 {
			name = append(name[:95], '…')
		}
		text(out, 10, y+4, "", string(name))
		fmt.Fprintf(out, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-width="2"/>`+"\n", at(better(r.sample.low)), at(better(r.sample.high)), y, y, colour)
		fmt.Fprintf(out, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"><title>%s</title></circle>`+"\n", at(better(r.sample.median)), y, colour, html.EscapeString(strings.Join(r.cells()[1:4], "; ")))
	}
}

func tick(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// drawChart draws curves into half of the width.
func drawChart(out *strings.Builder, left, top float64, title string, curves []curve) {
	text(out, left+10, top, ` font-size="14" font-weight="bold"`, title)
	if len(curves) == 0 {
		text(out, left+10, top+30, "", "not measured")
		return
	}
	const margin = 50.0
	x0, x1, y0, y1 := left+margin, left+plotWidth/2-90, top+chartHeight-10, top+20
	highX, lowY, highY := 0.0, math.Inf(1), 0.0
	for _, c := range curves {
		highX, lowY, highY = max(highX, slices.Max(c.x)), min(lowY, slices.Min(c.y)), max(highY, slices.Max(c.y))
	}
	if lowY > 0 && lowY < 0.5*highY {
		lowY = 0
	}
	if highY == lowY {
		lowY = 0
	}
	toX := func(v float64) float64 { return x0 + v/highX*(x1-x0) }
	toY := func(v float64) float64 { return y0 + (v-lowY)/(highY-lowY)*(y1-y0) }
	fmt.Fprintf(out, `<path d="M%.1f %.1fV%.1fH%.1f" fill="none" stroke="#555"/>`+"\n", x0, y1, y0, x1)
	for i := range 5 {
		x, y := highX*float64(i)/4, lowY+(highY-lowY)*float64(i)/4
		text(out, toX(x), y0+16, ` text-anchor="middle" fill="#555"`, tick(x))
		text(out, x0-6, toY(y)+4, ` text-anchor="end" fill="#555"`, tick(y))
	}
	colours := []string{"#0969da", "#c4320a", "#1a7f37", "#8250df"}
	for i, c := range curves {
		path := ""
		for k := range c.x {
			path += fmt.Sprintf("%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[k == 0], toX(c.x[k]), toY(c.y[k]))
			fmt.Fprintf(out, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", toX(c.x[k]), toY(c.y[k]), colours[i%len(colours)])
		}
		fmt.Fprintf(out, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", path, colours[i%len(colours)])
		text(out, x1-80, y0-12-14*float64(len(curves)-1-i), fmt.Sprintf(` fill="%s"`, colours[i%len(colours)]), c.name)
	}
}
