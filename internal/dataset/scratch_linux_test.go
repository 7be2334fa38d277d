package dataset

import (
	"os"
	"testing"
	"time"
)

// A process killed between making a name and removing it would leave the name: there must never be one.
func TestAScratchFileNeverHasAName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := nameless(dir)
	if err != nil {
		t.Skipf("the file system of %s makes no nameless files: %v", dir, err)
	}
	_ = f.Close()
	// Whatever comes or goes in a directory changes its time.
	before := time.Unix(1_000_000_000, 0)
	if err := os.Chtimes(dir, before, before); err != nil {
		t.Fatal(err)
	}
	f, err = scratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !info.ModTime().Equal(before) {
		t.Errorf("the directory changed at %s: the file had a name", info.ModTime())
	}
	if _, err := f.WriteAt([]byte("rows"), 3); err != nil {
		t.Error(err)
	}
	got := make([]byte, 4)
	if _, err := f.ReadAt(got, 3); err != nil || string(got) != "rows" {
		t.Errorf("read %q, %v", got, err)
	}
}
