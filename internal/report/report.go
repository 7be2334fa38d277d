// Package report writes the evaluation of a model as one HTML page for people.
//
// The page is self-contained and safe under the strictest policies: no script, no remote or
// data: resource (Argo's artifact viewer allows neither scripts nor data: images), pictures and
// charts are inline SVG, everything from outside is escaped by html/template.
// The same Report gives the same bytes: the page holds no time of its own.
package report

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/insitu-ml/insitu/internal/evaluation"
)

//go:embed page.gohtml page.css
var files embed.FS

// Limits of what a page can show and people can read.
const (
	maxMatrix   = 40 // classes of a confusion matrix
	maxNumbers  = 20 // classes of a confusion matrix with counts in its cells
	maxClasses  = 40 // rows of the table of classes: those with the lowest F1
	maxFeatures = 24 // columns of a table of features
)

// Report is what the page tells.
type Report struct {
	Model, Version string
	Alias          string // whose holder is the champion
	Decision       evaluation.Decision
	Tolerance      float64
	Candidate      evaluation.Metrics
	Champion       *evaluation.Champion // nil: nobody holds the alias
	Notes          []string             // what the reader must know to read the numbers right

	Sweep     *Sweep // what the version was chosen from; nil if there was no choice
	Curve     []Epoch
	BestEpoch int // whose state the model is

	Mistakes []Mistake
	Features []string // column names of tabular examples

	Dataset   Dataset
	Placement []Shard
	Skew      float64 // of the shards' seconds: the slowest over the average

	Origin     []Fact // digests, job, run
	Parameters []Fact
	Libraries  []Fact
}

// Sweep is the versions of which the one with the lowest validation loss was chosen.
type Sweep struct {
	Parameters []string // that differ
	Contenders []Contender
}

// Contender is one of them.
type Contender struct {
	Version        string
	Values         []string // of the parameters that differ
	Loss, Accuracy float64  // on the validation split; NaN where there is none
	Chosen         bool
}

// Epoch is one point of the learning curve; NaN where a value was not recorded.
type Epoch struct {
	Epoch                       int
	TrainLoss, ValidationLoss   float64
	TrainScore, ValidationScore float64 // accuracy, or R2
}

// Mistake is one row the model got wrong and what it looks like: a picture or features.
type Mistake struct {
	evaluation.Mistake
	Picture  *Picture
	Features []float64
}

// Dataset says what the model learned from and was held to.
type Dataset struct {
	Facts  []Fact // name, digest, format, source
	Splits []Split
}

// Split is one part of the dataset.
type Split struct {
	Name    string // train, validation, test
	Rows    int64
	Classes []int64 // rows of each class, in label order; nil if not known
}

// Shard is how fast one part of the data was trained on.
type Shard struct {
	Shard      int
	Place      string // session or segment
	Rows       int64
	Packs      int64
	RowsPerSec float64
	Seconds    float64
}

// Fact is one line of a list.
type Fact struct{ Name, Value string }

// HTML renders the page.
func (r Report) HTML() ([]byte, error) {
	css, err := files.ReadFile("page.css")
	if err != nil {
		return nil, err
	}
	t, err := template.New("page.gohtml").Funcs(template.FuncMap{
		"css":     func() template.CSS { return template.CSS(css) }, // our own file
		"dec":     decimals,
		"count":   thousands,
		"signed":  signed,
		"value":   checked,
		"p":       pValue,
		"percent": func(x float64) string { return strconv.FormatFloat(100*x, 'f', 1, 64) },
		"join":    strings.Join,
	}).ParseFS(files, "page.gohtml")
	if err != nil {
		return nil, fmt.Errorf("parse the report's template: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, view{r}); err != nil {
		return nil, fmt.Errorf("render the report of model %q version %s: %w", r.Model, r.Version, err)
	}
	return b.Bytes(), nil
}

// view adds to a Report what the template asks for.
type view struct{ Report }

func (v view) Regression() bool { return v.Candidate.Task == evaluation.Regression }

// ScoreName is the gate's number in words.
func (v view) ScoreName() string {
	if v.Regression() {
		return "R²"
	}
	return "accuracy"
}

// Verdict is the reason without its first word, which the badge says, in a page's typography.
func (v view) Verdict() string {
	_, rest, ok := strings.Cut(v.Decision.Reason, ": ")
	rest = strings.NewReplacer(" >= ", " ≥ ", "difference -", "difference −").Replace(rest)
	if !ok || rest == "" {
		return v.Decision.Reason
	}
	return strings.ToUpper(rest[:1]) + rest[1:]
}

// Key is one key number, next to the champion's.
type Key struct {
	Name, Value, Champion, Change, Note string
	Better, Worse                       bool
}

// Keys are the numbers at the top of the page.
func (v view) Keys() []Key {
	c, champion := v.Candidate, evaluation.Metrics{}
	if v.Champion.Scored() {
		champion = v.Champion.Metrics
	}
	key := func(name string, value, other float64, higher bool, note string) Key {
		k := Key{Name: name, Value: decimals(value), Note: note}
		if v.Champion.Scored() {
			k.Champion, k.Change = decimals(other), signed(value-other)
			same := k.Value == k.Champion
			k.Better = !same && (value > other) == higher
			k.Worse = !same && !k.Better
		}
		return k
	}
	if v.Regression() {
		return []Key{
			key("R²", c.R2, champion.R2, true, "1 is perfect, 0 is the mean"),
			key("RMSE", c.RMSE, champion.RMSE, false, "root of the mean squared error"),
			key("MAE", c.MAE, champion.MAE, false, "mean absolute error"),
		}
	}
	return []Key{
		key("Accuracy", c.Accuracy, champion.Accuracy, true, fmt.Sprintf("95 %% interval %s to %s", decimals(c.AccuracyLow), decimals(c.AccuracyHigh))),
		key("Macro-F1", c.MacroF1, champion.MacroF1, true, "mean over classes"),
		key("Log-loss", c.LogLoss, champion.LogLoss, false, "lower is better"),
		key("Calibration error", c.ECE, champion.ECE, false, "expected gap of confidence and accuracy"),
	}
}

// Curves are the charts of the learning curve: loss, and the score where it was recorded.
func (v view) Curves() []Chart {
	if len(v.Curve) == 0 {
		return nil
	}
	x := make([]float64, len(v.Curve))
	columns := make([][]float64, 4)
	for i, e := range v.Curve {
		x[i] = float64(e.Epoch)
		for j, y := range []float64{e.TrainLoss, e.ValidationLoss, e.TrainScore, e.ValidationScore} {
			columns[j] = append(columns[j], y)
		}
	}
	var charts []Chart
	name := v.ScoreName()
	for i, title := range []string{"Loss", strings.ToUpper(name[:1]) + name[1:]} {
		c, ok := newChart(title, x, []Series{{Name: "train", Class: "train", Y: columns[2*i]}, {Name: "validation", Class: "validation", Y: columns[2*i+1]}}, v.BestEpoch)
		if ok {
			charts = append(charts, c)
		}
	}
	return charts
}

// Cell is one cell of the confusion matrix.
type Cell struct {
	Count          int64
	Share          string // of the row, 0 to 1: the strength of the colour
	Strong         bool   // the colour is dark: the text must be light
	Right, Numbers bool
	Title          string
}

// MatrixRow is one true class.
type MatrixRow struct {
	Name    string
	Cells   []Cell
	Support int64
}

// Matrix is the confusion matrix; nil if there are more classes than fit.
func (v view) Matrix() []MatrixRow {
	m := v.Candidate
	if len(m.Classes) == 0 || len(m.Classes) > maxMatrix {
		return nil
	}
	rows := make([]MatrixRow, len(m.Classes))
	for i, counts := range m.Confusion {
		rows[i] = MatrixRow{Name: m.Classes[i].Name, Support: m.Classes[i].Support}
		for j, n := range counts {
			share := 0.0
			if rows[i].Support > 0 {
				share = float64(n) / float64(rows[i].Support)
			}
			strength, dark := share*share, 0.72
			if i != j && n > 0 { // a single error among many rows must still be seen
				strength, dark = 0.25+0.75*math.Sqrt(share), 0.9
			}
			rows[i].Cells = append(rows[i].Cells, Cell{
				Count: n, Share: strconv.FormatFloat(strength, 'f', 2, 64), Strong: strength > dark,
				Right: i == j, Numbers: len(m.Classes) <= maxNumbers,
				Title: fmt.Sprintf("%s of %s %q rows called %q", thousands(n), thousands(rows[i].Support), m.Classes[i].Name, m.Classes[j].Name),
			})
		}
	}
	return rows
}

// Upright says whether the names of the matrix' columns must stand upright to fit.
func (v view) Upright() bool {
	return len(v.Candidate.Classes) > maxNumbers ||
		slices.ContainsFunc(v.Candidate.Classes, func(c evaluation.Class) bool { return len(c.Name) > 4 })
}

// ClassRow is one class of the table of classes.
type ClassRow struct {
	evaluation.Class
	Index    int
	Champion string // its F1
	Change   string
}

// ClassRows are the classes in label order, or the worst of them if there are many.
func (v view) ClassRows() []ClassRow {
	rows := make([]ClassRow, len(v.Candidate.Classes))
	for i, c := range v.Candidate.Classes {
		rows[i] = ClassRow{Class: c, Index: i}
		if v.Champion.Scored() && i < len(v.Champion.Metrics.Classes) {
			f1 := v.Champion.Metrics.Classes[i].F1
			rows[i].Champion, rows[i].Change = decimals(f1), signed(c.F1-f1)
		}
	}
	if len(rows) > maxClasses {
		slices.SortStableFunc(rows, func(a, b ClassRow) int {
			switch {
			case a.F1 < b.F1:
				return -1
			case a.F1 > b.F1:
				return 1
			}
			return 0
		})
		rows = rows[:maxClasses]
	}
	return rows
}

// ClassName is the name of a class by its label.
func (v view) ClassName(label int) string {
	if label < 0 || label >= len(v.Candidate.Classes) {
		return strconv.Itoa(label)
	}
	return v.Candidate.Classes[label].Name
}

// Pictures says whether the mistakes are pictures.
func (v view) Pictures() bool { return len(v.Mistakes) > 0 && v.Mistakes[0].Picture != nil }

// FeatureNames are the columns that are shown.
func (v view) FeatureNames() []string { return v.Features[:min(len(v.Features), maxFeatures)] }

// Cut limits a row of features to the columns that are shown.
func (v view) Cut(row []float64) []string {
	out := make([]string, min(len(row), maxFeatures))
	for i := range out {
		out[i] = strconv.FormatFloat(row[i], 'g', 4, 64)
	}
	return out
}

// HiddenFeatures is how many columns are not shown.
func (v view) HiddenFeatures() int { return max(len(v.Features)-maxFeatures, 0) }

// HistogramRow is one class over the splits.
type HistogramRow struct {
	Name  string
	Cells []HistogramCell
}

// HistogramCell is a count and its share of the largest count of its split, in percent.
type HistogramCell struct {
	Count int64
	Width string
}

// Histogram is the class histogram by split; nil where it is not known or too long.
func (v view) Histogram() []HistogramRow {
	classes := v.Candidate.Classes
	if len(classes) == 0 || len(classes) > maxClasses {
		return nil
	}
	rows := make([]HistogramRow, len(classes))
	for i, c := range classes {
		rows[i].Name = c.Name
	}
	for _, s := range v.Dataset.Splits {
		if len(s.Classes) != len(classes) {
			return nil
		}
		top := max(slices.Max(s.Classes), 1)
		for i, n := range s.Classes {
			rows[i].Cells = append(rows[i].Cells, HistogramCell{n, strconv.FormatFloat(100*float64(n)/float64(top), 'f', 1, 64)})
		}
	}
	return rows
}

// TotalRows is the number of rows of all splits.
func (v view) TotalRows() (n int64) {
	for _, s := range v.Dataset.Splits {
		n += s.Rows
	}
	return n
}

// Difference is the chart of the difference from the champion.
func (v view) Difference() Interval {
	c := v.Champion.Comparison
	return newInterval(c.Low, c.Difference, c.High, v.Tolerance)
}

// checked prints a value or limit of one of the gate's conditions: a difference with its sign, a number of calls as one.
func checked(c evaluation.Check, x float64) string {
	switch {
	case c.IsDifference():
		return signed(x)
	case c.IsCount():
		return thousands(int64(x))
	}
	return decimals(x)
}

// decimals prints three decimals, or more digits of small numbers.
func decimals(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case x != 0 && math.Abs(x) < 0.01, math.Abs(x) >= 1000:
		return strconv.FormatFloat(x, 'g', 3, 64)
	}
	return strconv.FormatFloat(x, 'f', 3, 64)
}

// signed prints three decimals with a plus or a true minus sign; zero is ±0.
func signed(x float64) string {
	s := strconv.FormatFloat(math.Abs(x), 'f', 3, 64)
	switch rounded, _ := strconv.ParseFloat(s, 64); {
	case rounded == 0:
		return "±0"
	case x < 0:
		return "−" + s
	}
	return "+" + s
}

func pValue(p float64) string {
	if p < 0.001 {
		return "< 0.001"
	}
	return "= " + strconv.FormatFloat(p, 'f', 3, 64)
}

// thousands prints 1797 as 1,797.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
