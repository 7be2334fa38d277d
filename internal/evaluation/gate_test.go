package evaluation

import "testing"

func TestDecide(t *testing.T) {
	t.Parallel()
	model := func(correct int64, f1 float64) Metrics {
		return Metrics{Task: Classification, Rows: 270, Correct: correct, Accuracy: float64(correct) / 270, MacroF1: f1}
	}
	against := func(candidate, champion int64, p float64) *Champion {
		return &Champion{Version: "3", Metrics: model(champion, 0), Comparison: Comparison{Rows: 270, Difference: float64(candidate-champion) / 270, P: p}}
	}
	limits := Thresholds{MinAccuracy: 0.95, MinF1: 0.94, Tolerance: 0.01}
	tests := []struct {
		name      string
		candidate Metrics
		champion  *Champion
		limits    Thresholds
		passed    bool
		reason    string
	}{
		{"a better candidate passes", model(265, 0.981), against(265, 264, 0.62), limits, true,
			"passed: accuracy 0.981 >= 0.950, macro-F1 0.981 >= 0.940; champion version 3 has 0.978 on the same 270 rows (difference +0.004, McNemar p = 0.620)"},
		{"a slightly worse candidate passes within the tolerance", model(262, 0.97), against(262, 264, 0.5), limits, true,
			"passed: accuracy 0.970 >= 0.950, macro-F1 0.970 >= 0.940; champion version 3 has 0.978 on the same 270 rows (difference -0.007 is within the tolerance 0.010, McNemar p = 0.500)"},
		{"a worse candidate fails beyond the tolerance", model(258, 0.955), against(258, 264, 0.0000123), limits, false,
			"not passed: accuracy 0.956 >= 0.950, macro-F1 0.955 >= 0.940; champion version 3 has 0.978 on the same 270 rows (difference -0.022 is beyond the tolerance 0.010, McNemar p = 1.2e-05)"},
		{"a missed threshold comes first", model(265, 0.93), nil, limits, false,
			"not passed: macro-F1 0.930 < 0.940, accuracy 0.981 >= 0.950; there is no champion yet"},
		{"beating the champion does not excuse a missed threshold", model(250, 0.95), against(250, 240, 0.01), limits, false,
			"not passed: accuracy 0.926 < 0.950, macro-F1 0.950 >= 0.940; champion version 3 has 0.889 on the same 270 rows (difference +0.037, McNemar p = 0.010)"},
		{"no thresholds and no champion pass", model(27, 0.02), nil, Thresholds{}, true,
			"passed: accuracy 0.100 (no minimum set), macro-F1 0.020 (no minimum set); there is no champion yet"},
		{"the champion itself is held to the thresholds", model(265, 0.98), &Champion{Version: "3", Same: true}, limits, true,
			"passed: accuracy 0.981 >= 0.950, macro-F1 0.980 >= 0.940; the champion is this same version 3, so only the absolute thresholds count"},
		{"an incomparable champion leaves the thresholds", model(265, 0.98), &Champion{Version: "3", Incomparable: "it knows 5 classes, the dataset has 10"}, limits, true,
			"passed: accuracy 0.981 >= 0.950, macro-F1 0.980 >= 0.940; champion version 3 cannot be compared (it knows 5 classes, the dataset has 10), so only the absolute thresholds count"},
		{"a hair below the threshold is told apart", Metrics{Task: Classification, Rows: 1e6, Accuracy: 0.94999, MacroF1: 0.94}, nil, limits, false,
			"not passed: accuracy 0.94999 < 0.95000, macro-F1 0.940 >= 0.940; there is no champion yet"},
		{"exactly the tolerance passes whatever binary makes of it", Metrics{Task: Classification, Rows: 100, Accuracy: 0.97, MacroF1: 0.97},
			&Champion{Version: "1", Metrics: Metrics{Task: Classification, Accuracy: 0.98}, Comparison: Comparison{Rows: 100, Difference: 0.97 - 0.98, P: 1}}, limits, true,
			"passed: accuracy 0.970 >= 0.950, macro-F1 0.970 >= 0.940; champion version 1 has 0.980 on the same 100 rows (difference -0.010 is within the tolerance 0.010, McNemar p = 1.000)"},
		{"a champion of another split may know the rows", Metrics{Task: Classification, Rows: 100, Accuracy: 0.99, MacroF1: 0.97},
			&Champion{Version: "1", OtherData: true, MayKnow: true, Metrics: Metrics{Task: Classification, Accuracy: 0.98}, Comparison: Comparison{Rows: 100, Difference: 0.01, P: 1}}, limits, true,
			"passed: accuracy 0.990 >= 0.950, macro-F1 0.970 >= 0.940; champion version 1 has 0.980 on the same 100 rows (difference +0.010, McNemar p = 1.000); it learned from data that was split in another way and may know some of these rows"},
		{"regression is held to R2", Metrics{Task: Regression, Rows: 50, R2: 0.8},
			&Champion{Version: "2", Metrics: Metrics{Task: Regression, R2: 0.7}, Comparison: Comparison{Rows: 50, Difference: 0.1, P: 0.04}}, Thresholds{MinAccuracy: 0.75, MinF1: 0.9}, true,
			"passed: R2 0.800 >= 0.750; champion version 2 has 0.700 on the same 50 rows (difference +0.100, paired z test p = 0.040)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := Decide(test.candidate, test.champion, test.limits)
			if d.Passed != test.passed || d.Reason != test.reason {
				t.Errorf("got  %t %q\nwant %t %q", d.Passed, d.Reason, test.passed, test.reason)
			}
		})
	}
}
