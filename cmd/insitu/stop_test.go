package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStopRemovesNothingButLocalServices(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := execute(t.Context(), nil, []string{"insitu", "stop", "--purge", "--state", dir}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("a directory without local services was removed:", err)
	}
	if want := "There are no local services in " + dir; !strings.Contains(stdout.String(), want) {
		t.Errorf("output %q, expected %q", &stdout, want)
	}
}
