// Package argo speaks the file side of the contract between a step's container and Argo Workflows:
// output files, the progress file and Kubernetes' termination message.
//
// It imports no Argo module: Argo's types alone make an empty program 33 MB.
package argo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// TerminationMessageBytes is what Kubernetes keeps of a container's termination message.
const TerminationMessageBytes = 4096

// progressInterval is how often the progress file changes at most; Argo reads it every three seconds.
const progressInterval = 250 * time.Millisecond

// WriteOutputs writes each content to the file of its name in dir, which is created when missing.
// All files are written under temporary names first, so that an error leaves none of them behind.
func WriteOutputs(dir string, outputs map[string][]byte) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create the output directory: %w", err)
	}
	written := make(map[string]string, len(outputs)) // temporary path by name
	defer func() {
		if err == nil {
			return
		}
		for _, path := range written {
			_ = os.Remove(path)
		}
		_ = RemoveOutputs(dir, keys(outputs))
	}()
	for name, content := range outputs {
		path, err := writeTemp(dir, name, content)
		if path != "" {
			written[name] = path
		}
		if err != nil {
			return fmt.Errorf("write output %q: %w", name, err)
		}
	}
	for name, path := range written {
		if err := os.Rename(path, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("write output %q: %w", name, err)
		}
	}
	return nil
}

// RemoveOutputs deletes the named files of dir, so that an earlier attempt's results are not taken for this one's,
// and the temporary files that an attempt killed while it wrote them has left.
func RemoveOutputs(dir string, names []string) error {
	var problems []error
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, fmt.Errorf("remove stale outputs: %w", err))
	}
	stale := func(file string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return file == name || strings.HasPrefix(file, tempPrefix(name)) })
	}
	for _, e := range entries {
		if !stale(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, fmt.Errorf("remove stale output %q: %w", e.Name(), err))
		}
	}
	return errors.Join(problems...)
}

// tempPrefix begins the names of an output's temporary files.
func tempPrefix(name string) string { return "." + name + "." }

func keys(m map[string][]byte) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	return names
}

// writeTemp returns the path of the file it made, also when writing to it went wrong.
func writeTemp(dir, name string, content []byte) (string, error) {
	f, err := os.CreateTemp(dir, tempPrefix(name)+"*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	// Argo's wait container may run as another user than the step.
	return f.Name(), errors.Join(err, f.Chmod(0o644), f.Close())
}

// Progress writes "done/total" to the file Argo names in ARGO_PROGRESS_FILE.
// Its methods may be called from several goroutines.
type Progress struct {
	path string

	mu      sync.Mutex
	pending string
	last    time.Time
	err     error
}

// NewProgress reports to the file at path; an empty path reports nowhere.
func NewProgress(path string) *Progress { return &Progress{path: path} }

// Report says that done of total units are done.
// Argo refuses anything but 0 <= done <= total with total > 0, so done is clamped and a total below one is dropped.
// Reports closer than 250 ms after the last one wait for the next report or for Flush, but a finished one does not.
func (p *Progress) Report(done, total int64) {
	if p.path == "" || total < 1 {
		return
	}
	done = max(0, min(done, total))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = fmt.Sprintf("%d/%d\n", done, total)
	if done == total || time.Since(p.last) >= progressInterval {
		p.write()
	}
}

// Flush writes the last report if it still waits.
// It returns the first error of all writes: progress is a courtesy, which must not fail a step.
func (p *Progress) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending != "" {
		p.write()
	}
	return p.err
}

func (p *Progress) write() {
	temp, err := writeTemp(filepath.Dir(p.path), filepath.Base(p.path), []byte(p.pending))
	if err == nil {
		err = os.Rename(temp, p.path)
	}
	if err != nil && temp != "" {
		_ = os.Remove(temp)
	}
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("write progress: %w", err)
	}
	p.pending, p.last = "", time.Now()
}

// WriteTerminationMessage writes text to the file at path, cut to what Kubernetes keeps.
// The file is a mount point, so it is written in place. A file that does not exist is not made unless create is set.
func WriteTerminationMessage(path, text string, create bool) error {
	flags := os.O_WRONLY | os.O_TRUNC
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the termination message: %w", err)
	}
	_, err = f.WriteString(Cut(text, TerminationMessageBytes))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the termination message: %w", err)
	}
	return nil
}

// Cut returns at most limit bytes of text, valid UTF-8, ending at a rune boundary.
func Cut(text string, limit int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
