package steps

import (
	"bytes"
	"os"
	"path/filepath"
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

func TestStepsAreSmall(t *testing.T) {
	t.Parallel()
	bin := os.Getenv("INSITU_TEST_BIN")
	if bin == "" {
		t.Skip("needs the built steps: INSITU_TEST_BIN is not set")
	}
	const most = 18.2e6 // bytes: with what a static base image has, an image stays below 20 MB
	for _, spec := range All() {
		content, err := os.ReadFile(filepath.Join(bin, spec.Name))
		if err != nil {
			t.Fatal(err)
		}
		if len(content) > most {
			t.Errorf("%s has %d bytes, expected at most %d", spec.Name, len(content), int(most))
		}
		// See parseArgs in internal/step. The report of evaluate-model is worth it, and shows that there is such a symbol.
		has, may := bytes.Contains(content, []byte("text/template.(*state).evalField")), spec.Name == "evaluate-model"
		if has != may {
			t.Errorf("%s can call methods by name, through text/template: %t, expected %t; where it can, the linker keeps all methods of all packages", spec.Name, has, may)
		}
	}
}
