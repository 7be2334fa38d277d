package main

import (
	"fmt"
	"slices"
	"strings"
)

// sample is a measured figure over rounds.
type sample struct {
	median, low, high float64
	rounds            int
}

// summarize takes the median, the least and the largest of some values.
func summarize(values []float64) sample {
	return sample{median(values), slices.Min(values), slices.Max(values), len(values)}
}

// median is the middle value, or the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// paired divides round by round: what changes from round to round, such as a busy machine, falls out.
func paired(above, below []float64) sample {
	ratios := make([]float64, min(len(above), len(below)))
	for i := range ratios {
		ratios[i] = above[i] / below[i]
	}
	return summarize(ratios)
}

// goal is a bound of a figure. The zero goal asks for nothing.
type goal struct {
	bound  float64
	atMost bool
}

func atLeast(bound float64) goal { return goal{bound: bound} }
func atMost(bound float64) goal  { return goal{bound: bound, atMost: true} }

func (g goal) met(value float64) bool {
	if g.atMost {
		return value <= g.bound
	}
	return value >= g.bound
}

// row is a line of the table.
type row struct {
	group   string
	what    string // what is divided by what, or measured
	goal    goal
	sample  sample
	unit    unit
	missing string // why it was not measured
}

// unit writes a figure.
type unit func(v float64) string

func ratio(v float64) string        { return fmt.Sprintf("%.2f", v) }
func times(v float64) string        { return fmt.Sprintf("%.3gx", v) }
func seconds(v float64) string      { return fmt.Sprintf("%.3g s", v) }
func milliseconds(v float64) string { return fmt.Sprintf("%.0f ms", 1000*v) }
func hundredths(v float64) string   { return fmt.Sprintf("%.2f ms", 1000*v) }
func points(v float64) string       { return fmt.Sprintf("%.2f points", v) }
func percent(v float64) string      { return fmt.Sprintf("%.1f %%", 100*v) }
func perSecond(v float64) string    { return fmt.Sprintf("%.0f/s", v) }
func count(v float64) string        { return fmt.Sprintf("%.0f", v) }
func mebibytes(v float64) string    { return fmt.Sprintf("%.0f MiB", v/(1<<20)) }

func yes(v float64) string {
	if v == 1 {
		return "yes"
	}
	return "no"
}

// verdict is about the median.
func (r row) verdict() string {
	switch {
	case r.missing != "":
		return "not measured"
	case r.goal == goal{}:
		return ""
	case r.goal.met(r.sample.median):
		return "met"
	default:
		return "**not met**"
	}
}

func (r row) cells() []string {
	wanted := ""
	if r.goal != (goal{}) {
		wanted = "≥ " + r.unit(r.goal.bound)
		if r.goal.atMost {
			wanted = "≤ " + r.unit(r.goal.bound)
		}
		if r.unit(1) == "yes" {
			wanted = "yes"
		}
	}
	if r.missing != "" {
		return []string{r.group, r.what, wanted, r.missing, "", r.verdict()}
	}
	measured := r.unit(r.sample.median)
	if r.sample.low != r.sample.high {
		measured += " (" + r.unit(r.sample.low) + " .. " + r.unit(r.sample.high) + ")"
	}
	return []string{r.group, r.what, wanted, measured, fmt.Sprint(r.sample.rounds), r.verdict()}
}

// table writes rows as a Markdown table.
func table(rows []row) string {
	var out strings.Builder
	out.WriteString("| group | what | goal | measured: median (least .. most) | rounds | verdict |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		cells := r.cells()
		for i, cell := range cells {
			cells[i] = strings.ReplaceAll(strings.ReplaceAll(cell, "|", `\|`), "\n", " ")
		}
		out.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	return out.String()
}

// The lines of the page between which the program writes.
const (
	beginMark = "<!-- begin: written by make bench -->"
	endMark   = "<!-- end: written by make bench -->"
)

// replaceBlock puts text between the marks of a page.
func replaceBlock(page, text string) (string, error) {
	before, rest, begun := strings.Cut(page, beginMark+"\n")
	_, after, ended := strings.Cut(rest, endMark)
	if !begun || !ended || strings.Contains(after, beginMark) {
		return "", fmt.Errorf("expected one line %q and after it one line %q", beginMark, endMark)
	}
	return before + beginMark + "\n" + strings.TrimRight(text, "\n") + "\n" + endMark + after, nil
}

// chosen are the groups of a comma-separated list, in their own order; all for an empty one.
func chosen(all []group, only string) ([]group, error) {
	if only == "" {
		return all, nil
	}
	names := strings.Split(only, ",")
	var out []group
	for _, g := range all {
		if i := slices.Index(names, g.name); i >= 0 {
			out, names = append(out, g), slices.Delete(names, i, i+1)
		}
	}
	if len(names) > 0 {
		known := make([]string, len(all))
		for i, g := range all {
			known[i] = g.name
		}
		return nil, fmt.Errorf("-only: unknown group %q; expected some of %s", names[0], strings.Join(known, ","))
	}
	return out, nil
}

// scaled is a share of a size, and at least what a measurement needs to work.
func scaled(n int, by float64, least int) int { return max(int(float64(n)*by), least) }
