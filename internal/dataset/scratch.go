package dataset

import (
	"fmt"
	"os"
)

// scratch opens a file without a name: it takes room until it is closed and, where the system makes files that never had
// a name, cannot be left behind by a process killed at any moment; elsewhere one killed here leaves it empty.
func scratch(dir string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	if f, err := nameless(dir); err == nil {
		return f, nil
	}
	f, err := os.CreateTemp(dir, ".insitu-*")
	if err != nil {
		return nil, fmt.Errorf("make a scratch file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make a scratch file: %w", err)
	}
	return f, nil
}
