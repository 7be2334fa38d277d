package steps

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEveryStepIsDeclaredRightly(t *testing.T) {
	t.Parallel()
	var names []string
	for _, s := range All() {
		names = append(names, s.Name)
		if err := s.Check(); err != nil {
			t.Error(err)
		}
		if s.Summary == "" || s.Summary[len(s.Summary)-1] == '.' {
			t.Errorf("step %q: summary %q, expected one line without a full stop", s.Name, s.Summary)
		}
	}
	want := []string{"upload-dataset", "deploy-training-code", "train-model", "evaluate-model", "promote-model-to-staging", "deploy-inference-db"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}
