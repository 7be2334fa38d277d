package evaluation

import (
	"fmt"
	"strings"
)

// Live is what came of the calls that a route sent to the champion and to the candidate, its challenger, in the inference database.
type Live struct {
	Candidate int      `json:"candidate"` // versions
	Champion  int      `json:"champion"`  // 0: there is none to compare with
	Rows      int64    `json:"rows"`      // calls that both predicted
	Errors    int64    `json:"errors"`    // calls that the candidate failed to predict
	Truths    int64    `json:"truths"`    // calls whose true label is known by now
	Agreement *float64 `json:"agreement"` // share of equal labels among all calls; nil where there are none, as below
	// Of the calls whose truth is known. A regression has mean absolute errors in place of accuracies.
	ChampionAccuracy  *float64 `json:"champion_accuracy"`
	CandidateAccuracy *float64 `json:"candidate_accuracy"`
	ChampionMAE       *float64 `json:"champion_mean_absolute_error"`
	CandidateMAE      *float64 `json:"candidate_mean_absolute_error"`
}

// Names of the checks of live calls.
const (
	checkLiveRows   = "live calls"
	checkLiveFailed = "live calls without an error"
	checkLiveScore  = "difference on live calls"
)

// Decide applies the gate of live calls: there are at least so many, the candidate failed at none of them, and where the truth of at least
// so many is known, it is not less accurate than the champion by more than the tolerance (a regression: its mean absolute error
// is not larger than the champion's by more than that share of it).
// The truth of fewer calls, and how often the two agree, are told and decide nothing: who disagrees may be right.
func (l Live) Decide(least int, tolerance float64) Decision {
	rows := Check{Name: checkLiveRows, Value: float64(l.Rows), Limit: float64(least), OK: l.Champion != 0 && l.Rows >= int64(least)}
	if l.Champion == 0 {
		rows.Text = "no version holds the alias, so no live calls compare this one with it"
		return verdict([]Check{rows})
	}
	rows.Text = fmt.Sprintf("%d live calls were sent to both champion version %d and version %d, expected at least %d", l.Rows, l.Champion, l.Candidate, least)
	if !rows.OK {
		rows.Text += ": give it a larger share with set_route, or more time"
		return verdict([]Check{rows})
	}
	failed := Check{Name: checkLiveFailed, Value: float64(l.Rows - l.Errors), Limit: float64(l.Rows), OK: l.Errors == 0, Text: fmt.Sprintf("%d of them failed", l.Errors)}
	checks := []Check{rows, failed}
	told := []string{}
	if l.Agreement != nil {
		told = append(told, fmt.Sprintf("the two agree on %s of them", decimals(*l.Agreement, 3)))
	}
	score, ok := l.notWorse(tolerance)
	switch {
	case ok && l.Truths >= int64(least):
		checks = append(checks, score)
	case ok:
		told = append(told, fmt.Sprintf("%s, which decides nothing: expected at least %d truths", score.Text, least))
	default:
		told = append(told, "the truth of none of them is known")
	}
	d := verdict(checks)
	d.Reason += "; " + strings.Join(told, "; ")
	return d
}

// notWorse compares the two where the truth is known; it reports false where none is.
func (l Live) notWorse(tolerance float64) (Check, bool) {
	const rounding = 1e-9
	c := Check{Name: checkLiveScore, Limit: -tolerance}
	var name string
	var candidate, champion float64
	switch {
	case l.Truths == 0:
		return c, false
	case l.CandidateMAE != nil && l.ChampionMAE != nil:
		name, candidate, champion = "mean absolute error", *l.CandidateMAE, *l.ChampionMAE
		if c.Value = champion - candidate; champion > 0 {
			c.Value /= champion
		}
	case l.CandidateAccuracy != nil && l.ChampionAccuracy != nil:
		name, candidate, champion = "accuracy", *l.CandidateAccuracy, *l.ChampionAccuracy
		c.Value = candidate - champion
	default: // the candidate failed at all of them
		return c, false
	}
	c.OK = c.Value >= -tolerance-rounding
	x, y := apart(candidate, champion)
	c.Text = fmt.Sprintf("%s %s on %d of them with known truth, the champion's is %s", name, x, l.Truths, y)
	if !c.OK {
		c.Text += ", which is beyond the tolerance " + decimals(tolerance, 3)
	}
	return c, true
}

// verdict passes when every check is OK; the reason begins with those that are not.
func verdict(checks []Check) Decision {
	d := Decision{Passed: true, Checks: checks}
	var met, missed []string
	for _, c := range checks {
		if c.OK {
			met = append(met, c.Text)
		} else {
			d.Passed = false
			missed = append(missed, c.Text)
		}
	}
	d.Reason = opening(d.Passed) + strings.Join(append(missed, met...), ", ")
	return d
}

// And is the decision of both: it passes when both do, and the reason tells both.
func (d Decision) And(live Decision) Decision {
	_, mine, _ := strings.Cut(d.Reason, ": ")
	out := Decision{Passed: d.Passed && live.Passed, Checks: append(append([]Check{}, d.Checks...), live.Checks...)}
	_, theirs, _ := strings.Cut(live.Reason, ": ")
	parts := []string{mine, "live evidence: " + theirs}
	if d.Passed && !live.Passed { // what was missed comes first
		parts[0], parts[1] = parts[1], parts[0]
	}
	out.Reason = opening(out.Passed) + strings.Join(parts, "; ")
	return out
}

func opening(passed bool) string {
	if passed {
		return "passed: "
	}
	return "not passed: "
}
