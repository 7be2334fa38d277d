// Package evaluation turns predictions into metrics, compares two models on the same rows and decides the gate.
//
// It is pure: packs of labels and predictions in, numbers and a reason out.
// Where the packs come from and what is done with the numbers is its caller's business.
// Memory is bounded: one bit a row (eight bytes for regression) for the paired test and the distribution, a
// classes x classes matrix, and the worst mistakes; packs are not kept.
package evaluation

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
)

// Task is what a model does.
type Task string

// The tasks.
const (
	Classification Task = "classification" // labels are class indices, predictions are probabilities [n, classes]
	Regression     Task = "regression"     // labels are float32 values, predictions are [n, 1]
)

// probabilityClip is where log-loss clips probabilities: float32's machine epsilon (2^-23), as
// scikit-learn clips float32 probabilities. One surely wrong row costs at most 15.94.
const probabilityClip = 1.0 / (1 << 23)

// sumTolerance is how far a row's probabilities may sum from one.
const sumTolerance = 1e-3

// calibrationBins is the number of equal-width confidence bins of the calibration error.
const calibrationBins = 15

// maxConfusions is how many confused pairs Metrics lists.
const maxConfusions = 10

// ErrNotFinite marks values that are NaN or infinite: the model diverged.
var ErrNotFinite = errors.New("not a finite number")

// Metrics is what one model scored on one set of rows.
// The second half is zero for the other task.
type Metrics struct {
	Task Task  `json:"task"`
	Rows int64 `json:"rows"`

	// Classification.
	Correct      int64       `json:"correct,omitempty"`
	Accuracy     float64     `json:"accuracy"`
	AccuracyLow  float64     `json:"accuracy_low,omitempty"`  // 95 % Wilson interval
	AccuracyHigh float64     `json:"accuracy_high,omitempty"` // 95 % Wilson interval
	Baseline     float64     `json:"baseline,omitempty"`      // accuracy of always answering the most frequent class
	MacroF1      float64     `json:"macro_f1"`
	LogLoss      float64     `json:"log_loss"`          // mean, natural logarithm, clipped at 2^-23
	ECE          float64     `json:"ece,omitempty"`     // expected calibration error, 15 equal-width bins
	Classes      []Class     `json:"classes,omitempty"` // in label order
	Confusion    [][]int64   `json:"confusion,omitempty"`
	Confusions   []Confusion `json:"confusions,omitempty"` // most frequent first
	Calibration  []Bin       `json:"calibration,omitempty"`

	// Regression.
	RMSE float64 `json:"rmse,omitempty"`
	MAE  float64 `json:"mae,omitempty"`
	R2   float64 `json:"r2,omitempty"`
	// Estimates is how the predictions are distributed.
	Estimates *Distribution `json:"estimates,omitempty"`

	// Worst holds the rows the model got most wrong, worst first: misclassified rows by
	// -log p(true class), or regression rows by absolute error.
	Worst []Mistake `json:"worst,omitempty"`
}

// Score is the number the gate looks at: accuracy, or R2 for regression.
func (m Metrics) Score() float64 {
	if m.Task == Regression {
		return m.R2
	}
	return m.Accuracy
}

// Class is how one class fared. A precision, recall or F1 with a zero denominator is 0.
type Class struct {
	Name      string  `json:"name"`
	Precision float64 `json:"precision"`
	Recall    float64 `json:"recall"`
	F1        float64 `json:"f1"`
	Support   int64   `json:"support"`   // rows that are of this class
	Predicted int64   `json:"predicted"` // rows the model called this class
}

// Confusion counts the rows of one class that the model called another.
type Confusion struct {
	True      int   `json:"true"`
	Predicted int   `json:"predicted"`
	Count     int64 `json:"count"`
}

// Distribution counts values in tenths; two more bins are for what lies below and above all of them.
// A value is in the bin whose number is that of the edges that are not above it.
type Distribution struct {
	Edges  []float64 `json:"edges"`
	Counts []int64   `json:"counts"`
}

// Bin is one bar of the calibration diagram.
type Bin struct {
	Rows       int64   `json:"rows"`
	Confidence float64 `json:"confidence"` // mean probability of the predicted class
	Accuracy   float64 `json:"accuracy"`
}

// Mistake is one row that the model got wrong, and where to find it.
type Mistake struct {
	Pack      int64   `json:"pack"` // id of the pack
	Row       int     `json:"row"`  // index within the pack
	True      int     `json:"true"`
	Predicted int     `json:"predicted"`
	PTrue     float64 `json:"p_true"`      // probability of the true class
	PPred     float64 `json:"p_predicted"` // probability of the predicted class
	Actual    float64 `json:"actual,omitempty"`
	Estimate  float64 `json:"estimate,omitempty"`
	Loss      float64 `json:"loss"` // -log p(true class), or the absolute error
}

// Pack is one pack of examples with a model's predictions, as the database returns them.
type Pack struct {
	ID          int64
	N           int
	Labels      []byte // N little-endian int32 class indices, or float32 values for regression
	Predictions []byte // [N, outputs] little-endian float32
}

// Scores accumulates what one model predicts, pack by pack.
type Scores struct {
	task    Task
	classes []string
	keep    int

	rows  int64
	bits  []uint64 // classification: row i was right
	worst worstHeap
	order hashSum // over ids and labels: proof that two models saw the same rows

	confusion []int64 // [true, predicted]
	logLoss   float64
	bins      [calibrationBins]struct {
		rows, right int64
		confidence  float64
	}

	mean, m2             float64 // of the true values, Welford
	sumSquares, sumError float64
	squares              []float32 // squared error of every row
	estimates            []float32 // of every row
}

type hashSum interface {
	Write([]byte) (int, error)
	Sum64() uint64
}

// New returns an empty accumulator that keeps the given number of worst mistakes.
// Classification takes the class names in label order; regression takes none.
func New(task Task, classes []string, worst int) (*Scores, error) {
	s := &Scores{task: task, classes: classes, keep: worst, order: fnv.New64a()}
	switch task {
	case Classification:
		if len(classes) < 2 {
			return nil, fmt.Errorf("classification has %d classes, expected at least 2", len(classes))
		}
		s.confusion = make([]int64, len(classes)*len(classes))
	case Regression:
	default:
		return nil, fmt.Errorf("task is %q, expected %q or %q", task, Classification, Regression)
	}
	return s, nil
}

// Rows is the number of rows added so far.
func (s *Scores) Rows() int64 { return s.rows }

// Add scores one pack. It returns an error, and scores nothing of the pack, when lengths do not
// fit, a label is no class, or predictions are no probabilities (ErrNotFinite for NaN and infinity).
func (s *Scores) Add(p Pack) error {
	var add func(Pack) error
	if s.task == Regression {
		add = s.addRegression
	} else {
		add = s.addClassification
	}
	if err := add(p); err != nil {
		return fmt.Errorf("pack %d: %w", p.ID, err)
	}
	_ = binary.Write(s.order, binary.LittleEndian, p.ID)
	_, _ = s.order.Write(p.Labels)
	return nil
}

func (s *Scores) addClassification(p Pack) error {
	k := len(s.classes)
	labels, err := decodeLabels(p.Labels, p.N, k)
	if err != nil {
		return err
	}
	probabilities, err := decodePredictions(p.Predictions, p.N, k)
	if err != nil {
		return err
	}
	for row := range p.N {
		var sum float64
		for class, v := range probabilities[row*k : (row+1)*k] {
			if v < -sumTolerance || v > 1+sumTolerance {
				return fmt.Errorf("row %d gives class %q the probability %g, expected 0 to 1: the exported model must end in a softmax", row, s.classes[class], v)
			}
			sum += float64(v)
		}
		if math.Abs(sum-1) > sumTolerance {
			return fmt.Errorf("row %d has probabilities that sum to %g, expected 1: the exported model must end in a softmax", row, sum)
		}
	}
	for row := range p.N {
		s.addRow(p.ID, row, int(labels[row]), probabilities[row*k:(row+1)*k])
	}
	return nil
}

func (s *Scores) addRow(pack int64, row, label int, probabilities []float32) {
	predicted := 0 // the first of equals, as numpy's argmax
	for class, v := range probabilities {
		if v > probabilities[predicted] {
			predicted = class
		}
	}
	right := predicted == label
	if s.rows%64 == 0 {
		s.bits = append(s.bits, 0)
	}
	if right {
		s.bits[s.rows/64] |= 1 << (s.rows % 64)
	}
	s.rows++
	s.confusion[label*len(s.classes)+predicted]++

	loss := -math.Log(min(max(float64(probabilities[label]), probabilityClip), 1-probabilityClip))
	s.logLoss += loss

	confidence := float64(probabilities[predicted])
	bin := &s.bins[min(max(int(math.Ceil(confidence*calibrationBins))-1, 0), calibrationBins-1)]
	bin.rows++
	bin.confidence += confidence
	if right {
		bin.right++
		return
	}
	s.remember(Mistake{
		Pack: pack, Row: row, True: label, Predicted: predicted,
		PTrue: float64(probabilities[label]), PPred: confidence, Loss: loss,
	})
}

func (s *Scores) addRegression(p Pack) error {
	labels, err := decodeFloats(p.Labels, p.N, 1, "labels")
	if err != nil {
		return err
	}
	estimates, err := decodePredictions(p.Predictions, p.N, 1)
	if err != nil {
		return err
	}
	for row := range p.N {
		actual, estimate := float64(labels[row]), float64(estimates[row])
		s.rows++
		delta := actual - s.mean
		s.mean += delta / float64(s.rows)
		s.m2 += delta * (actual - s.mean)
		e := estimate - actual
		s.sumSquares += e * e
		s.sumError += math.Abs(e)
		s.squares = append(s.squares, float32(e*e))
		s.estimates = append(s.estimates, estimates[row])
		if e != 0 {
			s.remember(Mistake{Pack: p.ID, Row: row, Actual: actual, Estimate: estimate, Loss: math.Abs(e)})
		}
	}
	return nil
}

// Metrics computes the metrics of all packs added so far; with no rows all are zero.
func (s *Scores) Metrics() Metrics {
	m := Metrics{Task: s.task, Rows: s.rows, Worst: slices.SortedFunc(slices.Values(s.worst), worstFirst)}
	if s.rows == 0 {
		return m
	}
	n := float64(s.rows)
	if s.task == Regression {
		m.RMSE = math.Sqrt(s.sumSquares / n)
		m.MAE = s.sumError / n
		m.R2 = s.r2()
		m.Estimates = distribution(s.estimates)
		return m
	}
	s.classMetrics(&m)
	m.Accuracy = float64(m.Correct) / n
	m.AccuracyLow, m.AccuracyHigh = wilson(m.Correct, s.rows)
	m.LogLoss = s.logLoss / n
	for _, b := range s.bins {
		bin := Bin{Rows: b.rows}
		if b.rows > 0 {
			bin.Confidence = b.confidence / float64(b.rows)
			bin.Accuracy = float64(b.right) / float64(b.rows)
		}
		m.ECE += float64(b.rows) / n * math.Abs(bin.Accuracy-bin.Confidence)
		m.Calibration = append(m.Calibration, bin)
	}
	return m
}

// r2 is 1 - SSE/SST. Like scikit-learn: 1 for a perfect fit of a constant, 0 for an imperfect one.
func (s *Scores) r2() float64 {
	if s.m2 == 0 {
		if s.sumSquares == 0 {
			return 1
		}
		return 0
	}
	return 1 - s.sumSquares/s.m2
}

// classMetrics fills what the confusion matrix decides. Macro-F1 averages, like scikit-learn,
// over the classes that occur among labels or predictions.
func (s *Scores) classMetrics(m *Metrics) {
	k := len(s.classes)
	m.Confusion = make([][]int64, k)
	m.Classes = make([]Class, k)
	for i := range k {
		m.Confusion[i] = slices.Clone(s.confusion[i*k : (i+1)*k])
		m.Classes[i].Name = s.classes[i]
	}
	for i, row := range m.Confusion {
		for j, count := range row {
			m.Classes[i].Support += count
			m.Classes[j].Predicted += count
			if i != j && count > 0 {
				m.Confusions = append(m.Confusions, Confusion{True: i, Predicted: j, Count: count})
			}
		}
	}
	var sum float64
	var present int
	for i := range m.Classes {
		c, hits := &m.Classes[i], m.Confusion[i][i]
		m.Correct += hits
		c.Precision = ratio(hits, c.Predicted)
		c.Recall = ratio(hits, c.Support)
		c.F1 = ratio(2*hits, c.Support+c.Predicted)
		m.Baseline = max(m.Baseline, ratio(c.Support, s.rows))
		if c.Support+c.Predicted > 0 {
			present++
			sum += c.F1
		}
	}
	m.MacroF1 = sum / float64(present)
	slices.SortFunc(m.Confusions, func(a, b Confusion) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.True, b.True), cmp.Compare(a.Predicted, b.Predicted))
	})
	m.Confusions = slices.Clip(m.Confusions[:min(len(m.Confusions), maxConfusions)])
}

func ratio(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// remember keeps the mistake if it is among the worst.
func (s *Scores) remember(m Mistake) {
	switch {
	case s.keep <= 0:
	case len(s.worst) < s.keep:
		heap.Push(&s.worst, m)
	case worstFirst(m, s.worst[0]) < 0:
		s.worst[0] = m
		heap.Fix(&s.worst, 0)
	}
}

// worstFirst orders by loss, then by place, so that the same rows always give the same list.
func worstFirst(a, b Mistake) int {
	return cmp.Or(cmp.Compare(b.Loss, a.Loss), cmp.Compare(a.Pack, b.Pack), cmp.Compare(a.Row, b.Row))
}

// worstHeap has the least bad of the kept mistakes on top.
type worstHeap []Mistake

func (h worstHeap) Len() int           { return len(h) }
func (h worstHeap) Less(i, j int) bool { return worstFirst(h[i], h[j]) > 0 }
func (h worstHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *worstHeap) Push(x any)        { *h = append(*h, x.(Mistake)) }
func (h *worstHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// distribution sorts values into tenths, as insitu_runtime/drift.py does.
func distribution(values []float32) *Distribution {
	sorted := slices.Sorted(slices.Values(values))
	edges := []float32{sorted[0]}
	for tenth := 1; tenth < 10; tenth++ {
		edges = append(edges, sorted[(tenth*len(sorted)+9)/10-1])
	}
	edges = slices.Compact(append(edges, math.Nextafter32(sorted[len(sorted)-1], float32(math.Inf(1)))))
	d := &Distribution{Counts: make([]int64, len(edges)+1)}
	for _, e := range edges {
		d.Edges = append(d.Edges, float64(e))
	}
	for _, v := range sorted {
		after, _ := slices.BinarySearchFunc(edges, v, func(edge, v float32) int {
			if edge <= v {
				return -1
			}
			return 1
		})
		d.Counts[after]++
	}
	return d
}
