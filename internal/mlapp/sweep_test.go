package mlapp

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/fault"
)

func TestASweepHasACandidateForEachCombination(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		given, sweep map[string]any
		want         string // the candidates as JSON
	}{
		"nothing given: the app's own training, shown by its epochs": {want: `[{"epochs":10}]`},
		"no sweep":               {given: map[string]any{"width": json.Number("4.0"), "kind": `tanh`}, want: `[{"epochs":10,"kind":"tanh","width":4}]`},
		"an empty sweep is none": {given: map[string]any{"epochs": 2}, sweep: map[string]any{}, want: `[{"epochs":2}]`},
		"two lists": {
			given: map[string]any{"kind": "tanh"},
			sweep: map[string]any{"rate": []any{json.Number("0.5"), json.Number("1e-7")}, "epochs": []any{json.Number("5"), json.Number("10")}},
			want:  `[{"epochs":5,"kind":"tanh","rate":0.5},{"epochs":5,"kind":"tanh","rate":1e-7},{"epochs":10,"kind":"tanh","rate":0.5},{"epochs":10,"kind":"tanh","rate":1e-7}]`,
		},
		"texts and truth values": {
			sweep: map[string]any{"fast": []any{true, false}, "kind": []any{"relu"}},
			want:  `[{"epochs":10,"fast":true,"kind":"relu"},{"epochs":10,"fast":false,"kind":"relu"}]`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			candidates, err := parameters(t).Candidates(tt.given, tt.sweep)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(candidates)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestASweepTellsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	numbers := func(n int) (out []any) {
		for i := range n {
			out = append(out, i+4)
		}
		return out
	}
	tests := map[string]struct {
		given, sweep map[string]any
		want         string
	}{
		"names and values": {
			given: map[string]any{"kind": "sine", "fast": true},
			sweep: map[string]any{"depth": []any{1}, "fast": []any{false}, "kind": []any{"relu", "sine"}, "rate": []any{2, json.Number("0.5"), 0.5}, "width": json.Number("4"), "epochs": []any{}},
			want: `parameter "kind": sine is none of [relu tanh]
sweep: parameter "depth" is not declared in insitu.yaml; expected one of ["epochs" "fast" "kind" "patience" "rate" "width"]
sweep: parameter "epochs": expected a list of values, such as [10]
parameter "fast" has a value and a sweep, expected one of them
parameter "kind" has a value and a sweep, expected one of them
sweep: parameter "kind": sine is none of [relu tanh]
sweep: parameter "rate": 2 is more than 1
sweep: parameter "rate": 0.5 is listed twice
sweep: parameter "width": expected a list of values, such as [8]`,
		},
		"too many": {
			sweep: map[string]any{"epochs": numbers(13), "width": numbers(5)},
			want:  `the sweep has 65 candidates, one for each combination of its values; expected at most 64`,
		},
		"far too many": {
			sweep: map[string]any{"epochs": numbers(100000), "width": numbers(100000), "patience": numbers(100000)},
			want:  `the sweep has 1000000000000000 candidates, one for each combination of its values; expected at most 64`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parameters(t).Candidates(tt.given, tt.sweep)
			if fault.Of(err) != fault.Configuration {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if candidates, err := parameters(t).Candidates(nil, map[string]any{"epochs": numbers(16), "patience": numbers(4)}); err != nil || len(candidates) != 64 {
		t.Errorf("64 combinations: %d candidates, %v", len(candidates), err)
	}
}
