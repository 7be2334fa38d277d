package examples

import (
	"bytes"
	"os"
	"testing"
)

func TestExamplesWithTheSameAlgorithmHaveTheSameLearner(t *testing.T) {
	t.Parallel()
	for one, other := range map[string]string{"linear": "logistic", "shapes": "cifar10"} {
		a, err := os.ReadFile(one + "/learner.py")
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(other + "/learner.py")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("examples/%s/learner.py is not that of examples/%s: copy the one you edited over the other", one, other)
		}
	}
}
