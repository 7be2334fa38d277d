package evaluation

import (
	"testing"
)

func TestLiveCallsSpeakForAVersionOrAgainstIt(t *testing.T) {
	t.Parallel()
	is := func(x float64) *float64 { return &x }
	enough := Live{Candidate: 4, Champion: 3, Rows: 800, Agreement: is(0.95)}
	with := func(change func(*Live)) Live {
		l := enough
		change(&l)
		return l
	}
	const both = "800 live calls were sent to both champion version 3 and version 4, expected at least 500"
	for name, tt := range map[string]struct {
		live   Live
		passed bool
		reason string
	}{
		"nobody holds the alias": {Live{Candidate: 4, Rows: 800}, false, "not passed: no version holds the alias, so no live calls compare this one with it"},
		"too few calls": {with(func(l *Live) { l.Rows = 499 }), false,
			"not passed: 499 live calls were sent to both champion version 3 and version 4, expected at least 500: give it a larger share with set_route, or more time"},
		"no call at all": {Live{Candidate: 4, Champion: 3}, false,
			"not passed: 0 live calls were sent to both champion version 3 and version 4, expected at least 500: give it a larger share with set_route, or more time"},
		"no truths": {enough, true, "passed: " + both + ", 0 of them failed; the two agree on 0.950 of them; the truth of none of them is known"},
		"an error":  {with(func(l *Live) { l.Errors = 1 }), false, "not passed: 1 of them failed, " + both + "; the two agree on 0.950 of them; the truth of none of them is known"},
		"every call an error, with truths": {with(func(l *Live) { l.Errors, l.Agreement, l.Truths, l.ChampionAccuracy = 800, nil, 800, is(1) }), false,
			"not passed: 800 of them failed, " + both + "; the truth of none of them is known"},
		"better": {with(func(l *Live) { l.Truths, l.ChampionAccuracy, l.CandidateAccuracy = 500, is(0.9), is(0.95) }), true,
			"passed: " + both + ", 0 of them failed, accuracy 0.950 on 500 of them with known truth, the champion's is 0.900; the two agree on 0.950 of them"},
		"worse within the tolerance": {with(func(l *Live) { l.Truths, l.ChampionAccuracy, l.CandidateAccuracy = 500, is(0.98), is(0.97) }), true,
			"passed: " + both + ", 0 of them failed, accuracy 0.970 on 500 of them with known truth, the champion's is 0.980; the two agree on 0.950 of them"},
		"worse": {with(func(l *Live) { l.Truths, l.ChampionAccuracy, l.CandidateAccuracy = 500, is(0.98), is(0.96) }), false,
			"not passed: accuracy 0.960 on 500 of them with known truth, the champion's is 0.980, which is beyond the tolerance 0.010, " + both + ", 0 of them failed; the two agree on 0.950 of them"},
		"worse on a few": {with(func(l *Live) { l.Truths, l.ChampionAccuracy, l.CandidateAccuracy = 2, is(1), is(0.5) }), true,
			"passed: " + both + ", 0 of them failed; the two agree on 0.950 of them; accuracy 0.500 on 2 of them with known truth, the champion's is 1.000, which is beyond the tolerance 0.010, which decides nothing: expected at least 500 truths"},
		"a regression that is worse": {with(func(l *Live) {
			l.Truths, l.ChampionAccuracy, l.CandidateAccuracy, l.ChampionMAE, l.CandidateMAE = 500, is(0), is(0), is(10), is(10.2)
		}), false, "not passed: mean absolute error 10.200 on 500 of them with known truth, the champion's is 10.000, which is beyond the tolerance 0.010, " + both + ", 0 of them failed; the two agree on 0.950 of them"},
		"a regression within the tolerance": {with(func(l *Live) { l.Truths, l.ChampionMAE, l.CandidateMAE = 500, is(10), is(10.1) }), true,
			"passed: " + both + ", 0 of them failed, mean absolute error 10.100 on 500 of them with known truth, the champion's is 10.000; the two agree on 0.950 of them"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if d := tt.live.Decide(500, 0.01); d.Passed != tt.passed || d.Reason != tt.reason {
				t.Errorf("passed %t, %q;\nwant %t, %q", d.Passed, d.Reason, tt.passed, tt.reason)
			}
		})
	}
	gate := Decision{Passed: true, Reason: "passed: accuracy 0.9; no champion", Checks: []Check{{Name: "accuracy", OK: true}}}
	if d := gate.And(Live{Candidate: 4}.Decide(500, 0)); d.Passed || len(d.Checks) != 2 || d.Reason != "not passed: live evidence: no version holds the alias, so no live calls compare this one with it; accuracy 0.9; no champion" {
		t.Errorf("%+v", d)
	}
	gate.Passed, gate.Reason = false, "not passed: accuracy 0.9"
	if d := gate.And(enough.Decide(500, 0)); d.Passed || len(d.Checks) != 3 {
		t.Errorf("%+v", d)
	}
}
