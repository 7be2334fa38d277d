// Package steptest runs a step in the test's process, with settings of the test's own and none of the machine's.
package steptest

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/insitu-ml/insitu/internal/step"
)

// Result is what a run left behind.
type Result struct {
	Code           int
	Outputs        map[string]string // declared parameters by name
	Files          map[string][]byte // declared artifacts by output name
	Log            []map[string]any  // one entry a line
	Stdout, Stderr string
	// Message is the termination message: the error's text, cut to 4096 bytes.
	Message string
}

// Option changes how Run starts the step.
type Option func(*options)

type options struct {
	env     map[string]string
	args    []string
	signals <-chan os.Signal
	exit    func(int)
}

// Env adds environment variables, under their full names.
func Env(vars map[string]string) Option {
	return func(o *options) { maps.Copy(o.env, vars) }
}

// Args adds command-line arguments after the flags.
func Args(args ...string) Option {
	return func(o *options) { o.args = append(o.args, args...) }
}

// Signals lets the test send signals; exit is what a second one calls.
func Signals(signals <-chan os.Signal, exit func(int)) Option {
	return func(o *options) { o.signals, o.exit = signals, exit }
}

// Run runs the step with flags (flag name to value; secrets go by environment variable) and returns what it left.
func Run(t testing.TB, spec step.Spec, flags map[string]string, opts ...Option) Result {
	t.Helper()
	dir := t.TempDir()
	o := options{env: map[string]string{"INSITU_TERMINATION_LOG": filepath.Join(dir, "termination-log")}}
	outputs, ok := flags["output-dir"]
	if !ok {
		outputs = filepath.Join(dir, "outputs")
		o.env["INSITU_OUTPUT_DIR"] = outputs
	}
	secret := map[string]bool{}
	for _, f := range spec.AllFlags() {
		secret[f.Name] = f.Secret
	}
	for name, value := range flags {
		if secret[name] {
			o.env[step.Flag{Name: name}.Env()] = value
		} else {
			o.args = append(o.args, "--"+name+"="+value)
		}
	}
	for _, opt := range opts {
		opt(&o)
	}
	var stdout, stderr bytes.Buffer
	code := step.Execute(spec, step.Env{
		Args:      o.args,
		LookupEnv: func(name string) (string, bool) { v, ok := o.env[name]; return v, ok },
		Stdout:    &stdout,
		Stderr:    &stderr,
		Signals:   o.signals,
		Exit:      o.exit,
	})
	r := Result{Code: code, Outputs: map[string]string{}, Files: map[string][]byte{}, Stdout: stdout.String(), Stderr: stderr.String()}
	for _, line := range strings.Split(strings.TrimSpace(r.Stderr), "\n") {
		if line == "" {
			continue
		}
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("the log line %q is not a JSON object: %v", line, err)
		}
		r.Log = append(r.Log, entry)
	}
	for _, out := range spec.Outputs {
		name := out.Name
		if out.File != "" {
			name = out.File
		}
		content, err := os.ReadFile(filepath.Join(outputs, name))
		switch {
		case os.IsNotExist(err):
		case err != nil:
			t.Errorf("read output %q: %v", out.Name, err)
		case out.File != "":
			r.Files[out.Name] = content
		default:
			r.Outputs[out.Name] = string(content)
		}
	}
	message, err := os.ReadFile(o.env["INSITU_TERMINATION_LOG"])
	if err != nil && !os.IsNotExist(err) {
		t.Errorf("read the termination message: %v", err)
	}
	r.Message = string(message)
	return r
}

// Binding writes a service binding, a directory of one file a key, under root and returns root for SERVICE_BINDING_ROOT.
func Binding(t testing.TB, root, name string, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(root, name)
	if err := os.MkdirAll(dir, fs.FileMode(0o755)); err != nil {
		t.Fatal(err)
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
