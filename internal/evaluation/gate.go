package evaluation

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Thresholds are what a candidate must reach. For regression MinAccuracy bounds R2 and MinF1 is not used.
type Thresholds struct {
	MinAccuracy float64 `json:"min_accuracy"` // 0: no minimum
	MinF1       float64 `json:"min_f1"`       // macro-F1; 0: no minimum
	// Tolerance is how far the score may lie below the champion's on the same rows; 0.01 is one point of accuracy.
	Tolerance float64 `json:"tolerance"`
}

// Champion is the model version that holds the alias now, as far as it can be compared.
type Champion struct {
	Version string `json:"version"`
	Same    bool   `json:"same,omitempty"` // it is the candidate itself
	// Incomparable says why it cannot be scored on these rows: other classes, another input shape.
	Incomparable string `json:"incomparable,omitempty"`
	OtherData    bool   `json:"other_data,omitempty"` // it was trained on another dataset
	// MayKnow: the other dataset was split in another way, so it may have learned from some of these rows.
	MayKnow    bool       `json:"may_know,omitempty"`
	Metrics    Metrics    `json:"metrics"`
	Comparison Comparison `json:"comparison"`
}

// Scored says whether the champion's metrics and the comparison hold numbers.
func (c *Champion) Scored() bool { return c != nil && !c.Same && c.Incomparable == "" }

// checkDifference names the comparison with the champion among the checks.
const checkDifference = "difference"

// Check is one condition of the gate.
type Check struct {
	Name  string  `json:"name"` // accuracy, macro-F1, R2, difference
	Value float64 `json:"value"`
	Limit float64 `json:"limit"`
	OK    bool    `json:"ok"`
	Text  string  `json:"text"` // accuracy 0.981 >= 0.950
}

// IsDifference says that value and limit are differences from the champion, of which the limit is a negative one.
func (c Check) IsDifference() bool { return c.Name == checkDifference || c.Name == checkLiveScore }

// IsCount says that value and limit are numbers of calls.
func (c Check) IsCount() bool { return c.Name == checkLiveRows || c.Name == checkLiveFailed }

// Decision is the gate's answer and why.
type Decision struct {
	Passed bool    `json:"passed"`
	Reason string  `json:"reason"` // one line for people
	Checks []Check `json:"checks"`
}

// Decide applies the gate: every threshold is reached and, where there is a champion to compare
// with, the candidate is not worse than it beyond the tolerance. The paired test is reported and
// decides nothing: a difference too small to be significant can still be beyond the tolerance.
// A nil champion means that nobody holds the alias yet.
func Decide(candidate Metrics, champion *Champion, t Thresholds) Decision {
	name := scoreName(candidate.Task)
	checks := []Check{minimum(name, candidate.Score(), t.MinAccuracy)}
	if candidate.Task == Classification {
		checks = append(checks, minimum("macro-F1", candidate.MacroF1, t.MinF1))
	}
	var about string
	switch {
	case champion == nil:
		about = "there is no champion yet"
	case champion.Same:
		about = fmt.Sprintf("the champion is this same version %s, so only the absolute thresholds count", champion.Version)
	case champion.Incomparable != "":
		about = fmt.Sprintf("champion version %s cannot be compared (%s), so only the absolute thresholds count", champion.Version, champion.Incomparable)
	default:
		checks = append(checks, notWorse(candidate, *champion, t.Tolerance))
	}

	d := Decision{Passed: true, Checks: checks}
	var met, missed []string
	for _, c := range checks {
		d.Passed = d.Passed && c.OK
		switch {
		case c.Name == checkDifference:
			about = c.Text
			if champion.MayKnow {
				about += "; it learned from data that was split in another way and may know some of these rows"
			}
		case c.OK:
			met = append(met, c.Text)
		default:
			missed = append(missed, c.Text)
		}
	}
	// A missed threshold comes first: the reader looks for it.
	d.Reason = opening(d.Passed) + strings.Join(append(missed, met...), ", ") + "; " + about
	return d
}

func scoreName(t Task) string {
	if t == Regression {
		return "R2"
	}
	return "accuracy"
}

func minimum(name string, value, limit float64) Check {
	c := Check{Name: name, Value: value, Limit: limit, OK: value >= limit}
	if limit == 0 && c.OK {
		c.Text = fmt.Sprintf("%s %s (no minimum set)", name, decimals(value, 3))
		return c
	}
	v, l := apart(value, limit)
	sign := ">="
	if !c.OK {
		sign = "<"
	}
	c.Text = fmt.Sprintf("%s %s %s %s", name, v, sign, l)
	return c
}

func notWorse(candidate Metrics, champion Champion, tolerance float64) Check {
	diff := champion.Comparison.Difference
	// 0.97 - 0.98 is a little less than -0.01 in binary: rounding must not fail the gate.
	const rounding = 1e-9
	c := Check{Name: checkDifference, Value: diff, Limit: -tolerance, OK: diff >= -tolerance-rounding}
	score, _ := apart(champion.Metrics.Score(), candidate.Score())
	test := "McNemar"
	if candidate.Task == Regression {
		test = "paired z test"
	}
	d, _ := apart(diff, -tolerance)
	if diff >= 0 {
		d = "+" + d
	}
	if !c.OK {
		d += " is beyond the tolerance " + decimals(tolerance, 3)
	} else if diff < 0 {
		d += " is within the tolerance " + decimals(tolerance, 3)
	}
	c.Text = fmt.Sprintf("champion version %s has %s on the same %d rows (difference %s, %s p = %s)",
		champion.Version, score, champion.Comparison.Rows, d, test, pValue(champion.Comparison.P))
	return c
}

// apart prints two numbers with three decimals, or as many more as it takes to tell them apart.
func apart(a, b float64) (string, string) {
	for places := 3; places < 9; places++ {
		x, y := decimals(a, places), decimals(b, places)
		if x != y || a == b {
			return x, y
		}
	}
	return decimals(a, 9), decimals(b, 9)
}

// decimals prints x with at least the given places, and without a sign on zero.
func decimals(x float64, places int) string {
	s := strconv.FormatFloat(x, 'f', places, 64)
	if rounded, _ := strconv.ParseFloat(s, 64); rounded == 0 {
		return strings.TrimPrefix(s, "-")
	}
	return s
}

func pValue(p float64) string {
	switch {
	case math.IsNaN(p):
		return "unknown"
	case p < 0.001:
		return strconv.FormatFloat(p, 'g', 2, 64)
	}
	return strconv.FormatFloat(p, 'f', 3, 64)
}
