package inference

import (
	"strings"
	"testing"
)

func TestTheChangesetNamesWhatTheModelWasMadeOf(t *testing.T) {
	t.Parallel()
	for manifest, want := range map[string]string{
		`{"job":"0123456789abcdef"}`: "model-digits-2-0123456789ab",
		`{"classes":["a"]}`:          "model-digits-2-ffffffffffff",
	} {
		set, err := Model{Name: "digits", Version: 2, Digest: strings.Repeat("f", 64), Manifest: manifest, Metrics: "{}"}.changeset()
		if err != nil || set.ID != want {
			t.Errorf("%s: id %q, error %v, want %q", manifest, set.ID, err, want)
		}
	}
}
