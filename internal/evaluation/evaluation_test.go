package evaluation

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

type golden struct {
	Classification []struct {
		Name                  string
		Classes               int
		Labels                []int32
		Predictions           [][]float32
		Accuracy              float64
		AccuracyLow           float64 `json:"accuracy_low"`
		AccuracyHigh          float64 `json:"accuracy_high"`
		MacroF1               float64 `json:"macro_f1"`
		LogLoss               float64 `json:"log_loss"`
		LogLossSklearn        float64 `json:"log_loss_sklearn"`
		ECE                   float64
		Precision, Recall, F1 []float64
		Support               []int64
		Confusion             [][]int64
	}
	Regression struct {
		Actual              []float32
		Candidate, Champion struct {
			Predictions   []float32
			RMSE, MAE, R2 float64
		}
		P float64
	}
	Paired []struct {
		OnlyCandidate int64 `json:"only_candidate"`
		OnlyChampion  int64 `json:"only_champion"`
		Rows          int64
		ExactP        float64 `json:"exact_p"`
		MidP          float64 `json:"mid_p"`
		Low, High     float64
	}
}

func readGolden(t *testing.T) golden {
	t.Helper()
	b, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func bytesOf(t *testing.T, values any) []byte {
	t.Helper()
	b, err := binary.Append(nil, binary.LittleEndian, values)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// score adds rows in packs of size rows, as the database would return them.
func score(t *testing.T, s *Scores, labels []int32, predictions [][]float32, size int) {
	t.Helper()
	for from := 0; from < len(labels); from += size {
		to := min(from+size, len(labels))
		var flat []float32
		for _, row := range predictions[from:to] {
			flat = append(flat, row...)
		}
		p := Pack{ID: int64(from / size), N: to - from, Labels: bytesOf(t, labels[from:to]), Predictions: bytesOf(t, flat)}
		if err := s.Add(p); err != nil {
			t.Fatal(err)
		}
	}
}

func names(k int) []string {
	out := make([]string, k)
	for i := range out {
		out[i] = fmt.Sprintf("c%d", i)
	}
	return out
}

func newScores(t *testing.T, task Task, classes []string, worst int) *Scores {
	t.Helper()
	s, err := New(task, classes, worst)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestClassificationMetricsEqualScikitLearn(t *testing.T) {
	t.Parallel()
	for _, g := range readGolden(t).Classification {
		for _, size := range []int{1, 7, 256} {
			t.Run(fmt.Sprintf("%s in packs of %d", g.Name, size), func(t *testing.T) {
				t.Parallel()
				s := newScores(t, Classification, names(g.Classes), 5)
				score(t, s, g.Labels, g.Predictions, size)
				m := s.Metrics()
				got := []float64{m.Accuracy, m.AccuracyLow, m.AccuracyHigh, m.MacroF1, m.LogLoss, m.LogLoss, m.ECE}
				want := []float64{g.Accuracy, g.AccuracyLow, g.AccuracyHigh, g.MacroF1, g.LogLoss, g.LogLossSklearn, g.ECE}
				if d := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-9)); d != "" {
					t.Errorf("accuracy, its interval, macro-F1, log-loss (twice), ECE (-want +got):\n%s", d)
				}
				for i, c := range m.Classes {
					want := Class{Name: fmt.Sprintf("c%d", i), Precision: g.Precision[i], Recall: g.Recall[i], F1: g.F1[i], Support: g.Support[i], Predicted: c.Predicted}
					if d := cmp.Diff(want, c, cmpopts.EquateApprox(0, 1e-12)); d != "" {
						t.Errorf("class %d (-want +got):\n%s", i, d)
					}
				}
				if d := cmp.Diff(g.Confusion, m.Confusion); d != "" {
					t.Errorf("confusion (-want +got):\n%s", d)
				}
			})
		}
	}
}

func TestRegressionMetricsEqualScikitLearn(t *testing.T) {
	t.Parallel()
	g := readGolden(t).Regression
	candidate, champion := newScores(t, Regression, nil, 3), newScores(t, Regression, nil, 0)
	for from := 0; from < len(g.Actual); from += 32 {
		to := min(from+32, len(g.Actual))
		p := Pack{ID: int64(from), N: to - from, Labels: bytesOf(t, g.Actual[from:to])}
		p.Predictions = bytesOf(t, g.Candidate.Predictions[from:to])
		if err := candidate.Add(p); err != nil {
			t.Fatal(err)
		}
		p.Predictions = bytesOf(t, g.Champion.Predictions[from:to])
		if err := champion.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	a, b := candidate.Metrics(), champion.Metrics()
	c, err := Compare(candidate, champion)
	if err != nil {
		t.Fatal(err)
	}
	got := []float64{a.RMSE, a.MAE, a.R2, b.RMSE, b.MAE, b.R2, c.Difference}
	want := []float64{g.Candidate.RMSE, g.Candidate.MAE, g.Candidate.R2, g.Champion.RMSE, g.Champion.MAE, g.Champion.R2, g.Candidate.R2 - g.Champion.R2}
	if d := cmp.Diff(want, got, cmpopts.EquateApprox(1e-9, 0)); d != "" {
		t.Errorf("rmse, mae, r2 of both, difference (-want +got):\n%s", d)
	}
	// Squared errors are kept as float32.
	if math.Abs(c.P-g.P) > 1e-5*g.P {
		t.Errorf("p = %g, want %g", c.P, g.P)
	}
	if len(a.Worst) != 3 || a.Worst[0].Loss < a.Worst[1].Loss || c.Low >= c.Difference || c.High <= c.Difference {
		t.Errorf("worst %v, interval %g to %g", a.Worst, c.Low, c.High)
	}
}

func TestPairedTestsEqualStatsmodels(t *testing.T) {
	t.Parallel()
	for _, g := range readGolden(t).Paired {
		t.Run(fmt.Sprintf("%d against %d of %d", g.OnlyCandidate, g.OnlyChampion, g.Rows), func(t *testing.T) {
			t.Parallel()
			exact, mid := mcNemar(g.OnlyCandidate, g.OnlyChampion)
			low, high := bonettPrice(g.OnlyCandidate, g.OnlyChampion, g.Rows)
			if d := cmp.Diff([]float64{g.ExactP, g.MidP, g.Low, g.High}, []float64{exact, mid, low, high}, cmpopts.EquateApprox(1e-8, 1e-14)); d != "" {
				t.Errorf("exact p, mid-p, low, high (-want +got):\n%s", d)
			}
		})
	}
}

// rows of a two-class problem: 1 is a right prediction, 0 a wrong one; the label is always class 0.
func rightAndWrong(t *testing.T, s *Scores, pattern string, confidence float32) {
	t.Helper()
	var predictions [][]float32
	for _, r := range pattern {
		if r == '1' {
			predictions = append(predictions, []float32{confidence, 1 - confidence})
		} else {
			predictions = append(predictions, []float32{1 - confidence, confidence})
		}
	}
	score(t, s, make([]int32, len(pattern)), predictions, 100)
}

func TestCompareCountsPairsOfRows(t *testing.T) {
	t.Parallel()
	a, b := newScores(t, Classification, names(2), 0), newScores(t, Classification, names(2), 0)
	rightAndWrong(t, a, strings.Repeat("1110", 50), 0.9) // 200 rows cross the 64-bit words
	rightAndWrong(t, b, strings.Repeat("1010", 49)+"1001", 0.9)
	c, err := Compare(a, b)
	if err != nil {
		t.Fatal(err)
	}
	want := Comparison{Rows: 200, BothRight: 99, OnlyCandidate: 51, OnlyChampion: 1, BothWrong: 49, Difference: 50.0 / 200}
	if d := cmp.Diff(want, c, cmpopts.IgnoreFields(Comparison{}, "Low", "High", "P", "ExactP")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestCompareRefusesWhatIsNotPaired(t *testing.T) {
	t.Parallel()
	base := newScores(t, Classification, names(2), 0)
	rightAndWrong(t, base, "1101", 0.9)
	fewer := newScores(t, Classification, names(2), 0)
	rightAndWrong(t, fewer, "110", 0.9)
	other := newScores(t, Classification, names(2), 0)
	score(t, other, []int32{1, 1, 1, 1}, [][]float32{{1, 0}, {1, 0}, {1, 0}, {1, 0}}, 4)
	for name, champion := range map[string]*Scores{
		"another number of rows": fewer,
		"other labels":           other,
		"another task":           newScores(t, Regression, nil, 0),
	} {
		if _, err := Compare(base, champion); err == nil {
			t.Errorf("%s: compared without an error", name)
		}
	}
	if _, err := Compare(newScores(t, Regression, nil, 0), newScores(t, Regression, nil, 0)); err == nil {
		t.Error("no rows: compared without an error")
	}
}

func TestWorstMistakesAreTheSurestAndInAStableOrder(t *testing.T) {
	t.Parallel()
	labels := []int32{0, 0, 0, 0, 0, 0}
	predictions := [][]float32{{0.3, 0.7}, {0.9, 0.1}, {0.05, 0.95}, {0.3, 0.7}, {0.2, 0.8}, {0.3, 0.7}}
	s := newScores(t, Classification, names(2), 3)
	score(t, s, labels, predictions, 4)
	var got []string
	for _, m := range s.Metrics().Worst {
		got = append(got, fmt.Sprintf("pack %d row %d p %.2f", m.Pack, m.Row, m.PTrue))
	}
	want := []string{"pack 0 row 2 p 0.05", "pack 1 row 0 p 0.20", "pack 0 row 0 p 0.30"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestConfusionsAreSortedByCount(t *testing.T) {
	t.Parallel()
	s := newScores(t, Classification, names(3), 0)
	score(t, s, []int32{0, 0, 2, 2, 1}, [][]float32{{0, 1, 0}, {0, 0, 1}, {0, 1, 0}, {0, 1, 0}, {0, 1, 0}}, 5)
	want := []Confusion{{2, 1, 2}, {0, 1, 1}, {0, 2, 1}}
	if d := cmp.Diff(want, s.Metrics().Confusions); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestAddRefusesAndScoresNothing(t *testing.T) {
	t.Parallel()
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	tests := map[string]struct {
		n           int
		labels      []int32
		predictions []float32
		want        string
	}{
		"too few labels":                {2, []int32{0}, []float32{1, 0, 1, 0}, "labels have 4 bytes, expected 4 bytes for each of 2 rows x 1"},
		"a label beyond the classes":    {2, []int32{0, 2}, []float32{1, 0, 1, 0}, "row 1 has the label 2, expected 0 to 1"},
		"a negative label":              {1, []int32{-1}, []float32{1, 0}, "row 0 has the label -1, expected 0 to 1"},
		"outputs of another model":      {2, []int32{0, 1}, []float32{1, 0, 0, 1, 0, 0}, "predictions have 3 values a row, expected 2"},
		"logits in place of softmax":    {1, []int32{0}, []float32{3.5, -2}, `row 0 gives class "c0" the probability 3.5`},
		"probabilities that sum to two": {1, []int32{0}, []float32{1, 1}, "row 0 has probabilities that sum to 2"},
		"NaN":                           {2, []int32{0, 1}, []float32{1, 0, nan, 0}, "row 1, value 0 is NaN: not a finite number"},
		"infinity":                      {1, []int32{0}, []float32{inf, 0}, "value 0 is +Inf"},
		"a negative number of rows":     {-1, nil, nil, "-1 rows of 1 labels make no array"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScores(t, Classification, names(2), 5)
			err := s.Add(Pack{ID: 7, N: test.n, Labels: bytesOf(t, test.labels), Predictions: bytesOf(t, test.predictions)})
			if err == nil || !strings.Contains(err.Error(), "pack 7: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if m := s.Metrics(); m.Rows != 0 {
				t.Errorf("%d rows were scored", m.Rows)
			}
			if (name == "NaN" || name == "infinity") != errors.Is(err, ErrNotFinite) {
				t.Errorf("errors.Is(ErrNotFinite) on %v", err)
			}
		})
	}
}

func TestNewRefusesUnknownTasksAndOneClass(t *testing.T) {
	t.Parallel()
	for _, task := range []Task{"", "clustering", Classification} {
		if _, err := New(task, []string{"only"}, 1); err == nil {
			t.Errorf("task %q with one class: no error", task)
		}
	}
}

func TestLogLossOfASurelyWrongRowIsClipped(t *testing.T) {
	t.Parallel()
	s := newScores(t, Classification, names(2), 0)
	score(t, s, []int32{0}, [][]float32{{0, 1}}, 1)
	if got := s.Metrics().LogLoss; math.Abs(got-23*math.Ln2) > 1e-12 {
		t.Errorf("log-loss %g, want 23 ln 2", got)
	}
}

func FuzzAdd(f *testing.F) {
	f.Add(2, []byte{0, 0, 0, 0, 1, 0, 0, 0}, []byte{0, 0, 128, 63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 63})
	f.Add(math.MaxInt/2, []byte{}, []byte{1})
	f.Add(-1, []byte{1, 2, 3}, []byte(nil))
	f.Fuzz(func(t *testing.T, n int, labels, predictions []byte) {
		for _, task := range []Task{Classification, Regression} {
			s, err := New(task, names(2), 2)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Add(Pack{N: n, Labels: labels, Predictions: predictions}); err != nil {
				if s.Rows() != 0 {
					t.Fatalf("%d rows scored in spite of %v", s.Rows(), err)
				}
				continue
			}
			m := s.Metrics()
			if m.Rows != int64(n) || len(labels) != 4*n {
				t.Fatalf("%d rows scored of n = %d, %d bytes of labels", m.Rows, n, len(labels))
			}
			if n > 0 && task == Classification && (m.Accuracy < 0 || m.Accuracy > 1 || m.LogLoss < 0 || m.LogLoss > 16 || math.IsNaN(m.MacroF1+m.ECE)) {
				t.Fatalf("impossible metrics %+v", m)
			}
		}
	})
}

func TestTheDistributionIsInTenths(t *testing.T) {
	t.Parallel()
	var values []float32
	for i := range 100 {
		values = append(values, float32((37*i)%100+1)) // 1 to 100, in some order
	}
	above := float64(math.Nextafter32(100, 101))
	for name, c := range map[string]struct {
		values []float32
		want   *Distribution
	}{
		"1 to 100":      {values, &Distribution{[]float64{1, 10, 20, 30, 40, 50, 60, 70, 80, 90, above}, []int64{0, 9, 10, 10, 10, 10, 10, 10, 10, 10, 11, 0}}},
		"always 100":    {[]float32{100, 100, 100}, &Distribution{[]float64{100, above}, []int64{0, 3, 0}}},
		"nothing else":  {[]float32{100}, &Distribution{[]float64{100, above}, []int64{0, 1, 0}}},
		"mostly a zero": {[]float32{0, 0, 0, 0, 0, 0, 0, 0, 0, 100}, &Distribution{[]float64{0, above}, []int64{0, 10, 0}}},
	} {
		if d := cmp.Diff(c.want, distribution(c.values)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}
