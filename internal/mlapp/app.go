// Package mlapp is the contract between an ML app and Insitu: a folder with insitu.yaml and learner.py.
//
// It reads apps from folders and archives, gives their code a digest, bundles it for
// the database and checks hyper-parameters. It does not run Python.
package mlapp

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/archive"
	"github.com/insitu-ml/insitu/internal/fault"
)

// The two files every app has.
const (
	ManifestFile = "insitu.yaml"
	LearnerFile  = "learner.py"
)

// Limits in bytes, unless said otherwise. Apps are source code: what is larger is a mistake or an attack.
const (
	maxManifest = 64 << 10
	maxSource   = 1 << 20  // one Python file
	maxSources  = 8 << 20  // all of them
	maxFiles    = 1000     // in a folder or archive
	maxArchive  = 64 << 20 // a packed app with its dataset, decompressed
	maxValues   = 256 << 20
)

// App is an ML app that was read and checked.
type App struct {
	Manifest Manifest
	// Files are the Python sources by slash-separated path; tests (test_*.py, conftest.py) are left out.
	Files map[string]string
	// Digest is the code digest: SHA-256 over insitu.yaml, Files and the runtime they run with.
	Digest string

	manifest string                        // insitu.yaml as it is
	open     func() (io.ReadCloser, error) // the dataset file beside it
}

// Open reads an app from a location: a folder or tar.gz file, as a path or file: URL, or what fetch opens as a tar.gz stream.
func Open(ctx context.Context, location string, fetch func(context.Context, string) (io.ReadCloser, error)) (*App, error) {
	local := strings.TrimPrefix(strings.TrimPrefix(location, "file:"), "//")
	if strings.Contains(local, "://") {
		stream, err := fetch(ctx, location)
		if err != nil {
			return nil, err
		}
		return readAll(stream)
	}
	info, err := os.Stat(local)
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("read ML app: %w", err))
	}
	if info.IsDir() {
		return Load(local)
	}
	f, err := os.Open(local)
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("read ML app: %w", err))
	}
	return readAll(f)
}

func readAll(stream io.ReadCloser) (*App, error) {
	defer func() { _ = stream.Close() }()
	return Read(stream)
}

// Load reads an app from a folder. Links to files are followed, so that a mounted ConfigMap is a folder too.
func Load(dir string) (*App, error) {
	files := map[string]string{}
	err := walk(dir, func(name, file string) error {
		if name != ManifestFile && !isSource(name) {
			return nil
		}
		text, err := readFile(file, maxSource)
		files[name] = string(text)
		return err
	})
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("read ML app %q: %w", dir, err))
	}
	app, err := newApp(files)
	if err != nil {
		return nil, fmt.Errorf("ML app %q: %w", dir, err)
	}
	app.open = func() (io.ReadCloser, error) {
		return os.Open(filepath.Join(dir, filepath.FromSlash(app.DatasetFile())))
	}
	return app, nil
}

// Read reads an app from a tar.gz stream, whose files may lie in a folder of it.
func Read(r io.Reader) (*App, error) {
	all := map[string]string{}
	root, depth := "", -1
	limits := archive.Limits{MaxFiles: maxFiles, MaxBytes: maxArchive}
	err := archive.WalkTarGz(r, limits, func(name string, _ int64, content io.Reader) error {
		text, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		all[name] = string(text)
		if at := strings.Count(name, "/"); path.Base(name) == ManifestFile && (depth < 0 || at < depth) {
			root, depth = strings.TrimSuffix(name, ManifestFile), at
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read ML app: %w", err)
	}
	files := map[string]string{}
	for name, text := range all {
		if inside, ok := strings.CutPrefix(name, root); ok && (inside == ManifestFile || isSource(inside)) {
			files[inside] = text
		}
	}
	app, err := newApp(files)
	if err != nil {
		return nil, fmt.Errorf("ML app: %w", err)
	}
	app.open = func() (io.ReadCloser, error) {
		text, found := all[root+app.DatasetFile()]
		if !found {
			return nil, fmt.Errorf("the archive has no file %q: %w", root+app.DatasetFile(), fs.ErrNotExist)
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}
	return app, nil
}

// newApp checks insitu.yaml and the Python sources.
func newApp(files map[string]string) (*App, error) {
	text, found := files[ManifestFile]
	if !found {
		return nil, fault.AsConfiguration(fmt.Errorf("there is no %s", ManifestFile))
	}
	m, err := ParseManifest([]byte(text))
	if err != nil {
		return nil, err
	}
	delete(files, ManifestFile)
	app := &App{Manifest: m, Files: files, manifest: text}
	if err := app.checkSources(); err != nil {
		return nil, fault.AsConfiguration(err)
	}
	app.Digest = digest(app.withRuntime(map[string]string{ManifestFile: text}))
	return app, nil
}

var learnerClass = regexp.MustCompile(`(?m)^class Learner\b|^(from .* )?import .*\bLearner\b|^Learner *=`)

func (a *App) checkSources() error {
	learner, found := a.Files[LearnerFile]
	if !found {
		return fmt.Errorf("there is no %s", LearnerFile)
	}
	if !learnerClass.MatchString(learner) {
		return fmt.Errorf("%s defines no class Learner", LearnerFile)
	}
	total := 0
	for _, name := range sortedKeys(a.Files) {
		text := a.Files[name]
		total += len(text)
		switch {
		case strings.HasPrefix(name, "insitu_"):
			return fmt.Errorf("%s: names that begin with %q belong to Insitu", name, "insitu_")
		case len(text) > maxSource || total > maxSources:
			return fmt.Errorf("%s: Python files may have %d bytes each and %d together", name, maxSource, maxSources)
		case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
			return fmt.Errorf("%s is not UTF-8 text", name)
		}
	}
	return nil
}

// digest is the SHA-256 over path, length and content of all files, in the order of their paths.
func digest(files map[string]string) string {
	sum := sha256.New()
	for _, name := range sortedKeys(files) {
		_, _ = fmt.Fprintf(sum, "%s\x00%d\x00%s", name, len(files[name]), files[name]) // a hash never fails
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func (a *App) withRuntime(files map[string]string) map[string]string {
	maps.Copy(files, database.Runtime())
	maps.Copy(files, a.Files)
	return files
}

// Bundle is what travels to the database: a JSON object from path to source, of the runtime and the app's Python.
func (a *App) Bundle() (string, error) { return Bundle(a.withRuntime(map[string]string{})) }

// Bundle writes sources as a JSON object, sorted by path.
func Bundle(files map[string]string) (string, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(files); err != nil {
		return "", fmt.Errorf("write the bundle: %w", err)
	}
	return strings.TrimSuffix(text.String(), "\n"), nil
}

// ManifestJSON is the manifest as releases.manifest keeps it, with the parameters that every app has.
func (a *App) ManifestJSON() (string, error) {
	m := a.Manifest
	m.Parameters = m.AllParameters()
	text, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("write the manifest: %w", err)
	}
	return string(text), nil
}

// DatasetFile is the path of the dataset in the app's folder, "" when the manifest names none or a URL.
func (a *App) DatasetFile() string {
	if s := a.Manifest.Dataset.Source; s != "" && !strings.Contains(s, ":") {
		return path.Clean(s)
	}
	return ""
}

// OpenDataset opens the dataset file that came with the app.
func (a *App) OpenDataset() (io.ReadCloser, error) {
	if a.DatasetFile() == "" {
		return nil, fault.AsConfiguration(fmt.Errorf("the app comes without data: %s names no file as dataset.source", ManifestFile))
	}
	f, err := a.open()
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("open the app's dataset: %w", err))
	}
	return f, nil
}

// Pack writes the app in a folder as tar.gz: the manifest, the Python, its dataset file and its README.
// The same files give the same bytes.
func Pack(dir string) ([]byte, error) {
	app, err := Load(dir)
	if err != nil {
		return nil, err
	}
	files := map[string]string{ManifestFile: app.manifest}
	maps.Copy(files, app.Files)
	err = walk(dir, func(name, file string) error {
		if name != app.DatasetFile() && !strings.HasPrefix(name, "README") {
			return nil
		}
		text, err := readFile(file, maxArchive/2)
		files[name] = string(text)
		return err
	})
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("pack ML app %q: %w", dir, err))
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	t := tar.NewWriter(z)
	for _, name := range sortedKeys(files) {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(files[name])), Mode: 0o644, Format: tar.FormatPAX}
		if err := t.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("pack %q: %w", name, err)
		}
		if _, err := t.Write([]byte(files[name])); err != nil {
			return nil, fmt.Errorf("pack %q: %w", name, err)
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, fmt.Errorf("pack ML app %q: %w", dir, err)
	}
	return out.Bytes(), nil
}

var moduleName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// isSource tells whether a file travels to the database: Python that can be imported and is no test.
func isSource(name string) bool {
	module, isPython := strings.CutSuffix(name, ".py")
	base := path.Base(module)
	if !isPython || strings.HasPrefix(base, "test_") || base == "conftest" {
		return false
	}
	for part := range strings.SplitSeq(module, "/") {
		if !moduleName.MatchString(part) {
			return false
		}
	}
	return true
}

// walk visits the regular files of a folder, hidden ones and __pycache__ excepted.
func walk(dir string, each func(name, file string) error) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	seen := 0
	return filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := entry.Name()
		if file != dir && (strings.HasPrefix(base, ".") || base == "__pycache__") {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			return nil
		}
		if seen++; seen > maxFiles {
			return fmt.Errorf("the folder holds more than %d files; expected a folder of its own for the app", maxFiles)
		}
		info, err := os.Stat(file)
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		return each(filepath.ToSlash(name), file)
	})
}

func readFile(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", file, limit)
	}
	return text, err
}
