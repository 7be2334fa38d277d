package newapp

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/insitu-ml/insitu/internal/fault"
)

// Written says what Write did, by file.
type Written struct{ New, Changed, Same []string }

// Write puts files into a folder, which it makes if need be.
// A file that is there with other content is an error before anything is written, unless overwrite is set.
func Write(dir string, files map[string][]byte, overwrite bool) (Written, error) {
	var w Written
	for _, name := range slices.Sorted(maps.Keys(files)) {
		found, err := readSized(filepath.Join(dir, filepath.FromSlash(name)), len(files[name]))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			w.New = append(w.New, name)
		case err != nil:
			return Written{}, fault.AsConfiguration(fmt.Errorf("look for what is there: %w", err))
		case string(found) == string(files[name]):
			w.Same = append(w.Same, name)
		default:
			w.Changed = append(w.Changed, name)
		}
	}
	if len(w.Changed) > 0 && !overwrite {
		return Written{}, fault.AsConfiguration(fmt.Errorf("%s is there with other content in %s: nothing was written; --force overwrites, another folder leaves it alone",
			strings.Join(w.Changed, ", "), dir))
	}
	for _, name := range append(slices.Clone(w.New), w.Changed...) {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return Written{}, fault.AsConfiguration(fmt.Errorf("write ML app: %w", err))
		}
		if err := replace(file, files[name]); err != nil {
			return Written{}, fault.AsConfiguration(fmt.Errorf("write ML app: %w", err))
		}
	}
	return w, nil
}

// readSized reads a file of n bytes; of another size, it gives nothing, and does not read it.
func readSized(file string, n int) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", file)
	}
	if info.Size() != int64(n) {
		return nil, nil
	}
	return os.ReadFile(file)
}

// replace writes a file whole or not at all.
func replace(file string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".insitu-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
