package registry

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestAModelDirectory(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		packages map[string]string
		python   string
	}{
		{"known-libraries", map[string]string{"numpy": "1.24.2", "onnx": "1.19.0", "onnxruntime": "1.22.1", "torch": "1.13.1"}, "3.11.2"},
		{"unknown-libraries", nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			files, err := ONNXModel{
				ONNX: []byte("model"), Input: Tensor{"uint8", []int{-1, 8, 8}}, Output: Tensor{"float32", []int{-1, 10}}, RunID: "r1",
				Packages: test.packages, Python: test.python, Created: time.Unix(1700000000, 123456789), Details: map[string]any{"task": "classification"},
			}.Files()
			if err != nil {
				t.Fatal(err)
			}
			var all strings.Builder
			for _, name := range sortedKeys(files) {
				all.WriteString("== " + name + "\n" + strings.TrimSuffix(string(files[name]), "\n") + "\n")
			}
			golden := filepath.Join("testdata", test.name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(all.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), all.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestASignatureNeedsATypeAndAnOpenFirstSize(t *testing.T) {
	t.Parallel()
	good := Tensor{"float32", []int{-1, 2}}
	for _, bad := range []Tensor{{}, {"float32", nil}, {"", []int{-1}}, {"float32", []int{8, 8}}} {
		if _, err := (ONNXModel{Input: bad, Output: good}).Files(); err == nil {
			t.Errorf("%+v was taken as input", bad)
		}
		if _, err := (ONNXModel{Input: good, Output: bad}).Files(); err == nil {
			t.Errorf("%+v was taken as output", bad)
		}
	}
}
