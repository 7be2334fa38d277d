package evaluation

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// z95 is the normal quantile of a two-sided 95 % interval.
const z95 = 1.959963984540054

// Comparison is how a candidate differs from the champion on the very same rows.
type Comparison struct {
	Rows int64 `json:"rows"`

	// The four cells of the paired table; classification only.
	BothRight     int64 `json:"both_right"`
	OnlyCandidate int64 `json:"only_candidate_right"`
	OnlyChampion  int64 `json:"only_champion_right"`
	BothWrong     int64 `json:"both_wrong"`

	// Difference is candidate minus champion: accuracy, or R2 for regression.
	Difference float64 `json:"difference"`
	// Low and High are its 95 % interval: for accuracy the Wald interval of paired
	// proportions with one row added to each discordant cell (Bonett and Price 2012),
	// which holds its level on small tables; for R2 the normal interval of the mean
	// difference of squared errors.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// P is the two-sided p-value: McNemar's mid-p test for accuracy, a paired z test of the squared errors for R2.
	P float64 `json:"p"`
	// ExactP is McNemar's exact (conservative) p-value; classification only.
	ExactP float64 `json:"exact_p,omitempty"`
}

// Compare pairs two models' scores row by row. Both must have seen the same packs in the same order.
func Compare(candidate, champion *Scores) (Comparison, error) {
	switch {
	case candidate.task != champion.task:
		return Comparison{}, fmt.Errorf("compare a model for %s with one for %s", candidate.task, champion.task)
	case candidate.rows != champion.rows:
		return Comparison{}, fmt.Errorf("compare models on %d and on %d rows: the rows must be the same", candidate.rows, champion.rows)
	case candidate.order.Sum64() != champion.order.Sum64():
		return Comparison{}, errors.New("compare models on different rows: the rows must be the same, in the same order")
	case candidate.rows == 0:
		return Comparison{}, errors.New("compare models on no rows")
	case candidate.task == Regression:
		return compareErrors(candidate, champion), nil
	}
	c := Comparison{Rows: candidate.rows}
	for i, a := range candidate.bits {
		b := champion.bits[i]
		c.BothRight += int64(bits.OnesCount64(a & b))
		c.OnlyCandidate += int64(bits.OnesCount64(a &^ b))
		c.OnlyChampion += int64(bits.OnesCount64(b &^ a))
	}
	c.BothWrong = c.Rows - c.BothRight - c.OnlyCandidate - c.OnlyChampion
	c.Difference = float64(c.OnlyCandidate-c.OnlyChampion) / float64(c.Rows)
	c.Low, c.High = bonettPrice(c.OnlyCandidate, c.OnlyChampion, c.Rows)
	c.ExactP, c.P = mcNemar(c.OnlyCandidate, c.OnlyChampion)
	return c, nil
}

func compareErrors(candidate, champion *Scores) Comparison {
	n := float64(candidate.rows)
	var mean, m2 float64 // of champion's minus candidate's squared error, Welford
	for i, square := range candidate.squares {
		d := float64(champion.squares[i]) - float64(square)
		delta := d - mean
		mean += delta / float64(i+1)
		m2 += delta * (d - mean)
	}
	c := Comparison{Rows: candidate.rows, Difference: candidate.r2() - champion.r2(), P: 1}
	c.Low, c.High = c.Difference, c.Difference
	if n < 2 || m2 == 0 || candidate.m2 == 0 {
		return c
	}
	se := math.Sqrt(m2 / (n - 1) / n)
	scale := n / candidate.m2 // mean squared error to R2
	c.Low, c.High = c.Difference-z95*se*scale, c.Difference+z95*se*scale
	c.P = math.Erfc(math.Abs(mean/se) / math.Sqrt2)
	return c
}

// bonettPrice is the adjusted Wald interval of (b - c)/n, within -1 and 1.
func bonettPrice(b, c, n int64) (low, high float64) {
	total := float64(n) + 2
	p, q := float64(b+1)/total, float64(c+1)/total
	half := z95 * math.Sqrt((p+q-(p-q)*(p-q))/total)
	return max(p-q-half, -1), min(p-q+half, 1)
}

// mcNemar returns the exact and the mid-p two-sided p-values of b against c discordant rows:
// a sign test, binomial with probability one half. No discordant row is no evidence: 1.
func mcNemar(b, c int64) (exact, mid float64) {
	n, k := b+c, min(b, c)
	if n == 0 {
		return 1, 1
	}
	point := math.Exp(logChoose(n, k) - float64(n)*math.Ln2)
	below := 0.0 // P(X < k), summed downwards while terms count
	term := point
	for i := k; i > 0 && term > below*1e-17; i-- {
		term *= float64(i) / float64(n-i+1)
		below += term
	}
	return min(2*(below+point), 1), min(2*(below+point/2), 1)
}

func logChoose(n, k int64) float64 {
	lg := func(x int64) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
	return lg(n) - lg(k) - lg(n-k)
}

// wilson is the 95 % score interval of hits out of n.
func wilson(hits, n int64) (low, high float64) {
	total, p := float64(n), ratio(hits, n)
	z2 := z95 * z95
	middle := p + z2/(2*total)
	half := z95 * math.Sqrt(p*(1-p)/total+z2/(4*total*total))
	return max((middle-half)/(1+z2/total), 0), min((middle+half)/(1+z2/total), 1)
}
