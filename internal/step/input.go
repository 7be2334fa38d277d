package step

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insitu-ml/insitu/internal/argo"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/lineage"
)

// state is what the shell keeps of a running step.
type state struct {
	spec     Spec
	settings map[string]*setting
	progress *argo.Progress

	mu        sync.Mutex
	problems  []error
	validated bool
	outputs   map[string][]byte // by file name
	reads     []lineage.Asset
	writes    []lineage.Asset
	misuse    []error // of the step's author: undeclared outputs
}

// String returns the flag's value, "" when unset.
func (in *Input) String(name string) string { return get[string](in, name, String) }

// Int returns the flag's value, 0 when unset.
func (in *Input) Int(name string) int { return get[int](in, name, Int) }

// Float returns the flag's value, 0 when unset.
func (in *Input) Float(name string) float64 { return get[float64](in, name, Float) }

// Bool returns the flag's value, false when unset.
func (in *Input) Bool(name string) bool { return get[bool](in, name, Bool) }

// Duration returns the flag's value, 0 when unset.
func (in *Input) Duration(name string) time.Duration { return get[time.Duration](in, name, Duration) }

// JSON returns the flag's object with numbers as json.Number, nil when unset.
func (in *Input) JSON(name string) map[string]any { return get[map[string]any](in, name, JSON) }

// IsSet says whether the flag has a value other than by default.
func (in *Input) IsSet(name string) bool {
	s, ok := in.settings[name]
	return ok && s.source != ""
}

func get[T any](in *Input, name string, kind Kind) T {
	var zero T
	s, ok := in.settings[name]
	if !ok {
		in.record(fmt.Errorf("step %q reads the flag --%s, which it does not declare", in.spec.Name, name))
		return zero
	}
	if s.flag.Kind != kind {
		in.record(fmt.Errorf("step %q reads the flag --%s as %s, but it is declared as %s", in.spec.Name, name, kind, s.flag.Kind))
		return zero
	}
	if s.value == nil {
		return zero
	}
	return s.value.(T)
}

func (in *Input) record(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.problems = append(in.problems, err)
}

// Validate returns one configuration fault that lists every problem with the settings, or nil:
// those found while reading them and the given ones, where nil entries are none.
func (in *Input) Validate(problems ...error) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.validated = true
	var texts []string
	var all []error
	for _, err := range append(slices.Clone(in.problems), problems...) {
		if err != nil && !slices.Contains(texts, err.Error()) {
			texts = append(texts, err.Error())
			all = append(all, err)
		}
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return fault.AsConfiguration(all[0])
	}
	return fault.AsConfiguration(&invalid{texts: texts, errs: all})
}

// invalid is several problems, shown as a list.
type invalid struct {
	texts []string
	errs  []error
}

func (e *invalid) Error() string {
	return fmt.Sprintf("%d settings are not valid:\n- %s", len(e.texts), strings.Join(e.texts, "\n- "))
}
func (e *invalid) Unwrap() []error { return e.errs }

// Output sets the value of a declared output; the last one of a name counts.
func (in *Input) Output(name, value string) { in.output(name, []byte(value), false) }

// OutputFile sets the content of a declared output that is an artifact.
func (in *Input) OutputFile(name string, content []byte) { in.output(name, content, true) }

func (in *Input) output(name string, content []byte, artifact bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	i := slices.IndexFunc(in.spec.Outputs, func(o Output) bool { return o.Name == name && (o.File != "") == artifact })
	if i < 0 {
		in.misuse = append(in.misuse, fmt.Errorf("output %q is not declared", name))
		return
	}
	in.outputs[in.spec.Outputs[i].fileName()] = content
}

// Reads says what the step reads; the shell tells the data catalogs, if there are any. A step that fails has read it, too.
func (in *Input) Reads(assets ...lineage.Asset) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.reads = append(in.reads, assets...)
}

// Writes says what the step writes, or finds written already.
func (in *Input) Writes(assets ...lineage.Asset) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.writes = append(in.writes, assets...)
}

// Binding is the type and the provider of the service binding of that name, as far as the step's settings came from it.
func (in *Input) Binding(name string) (kind, provider string) {
	for _, s := range in.settings {
		if s.bound != nil && s.flag.Binding.Binding == name {
			return s.bound.Kind(), strings.ToLower(s.bound.Provider)
		}
	}
	return "", ""
}

// checkOutputs says which outputs a step that ended well did not declare or did not set.
func (in *Input) checkOutputs() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	problems := slices.Clone(in.misuse)
	if !in.validated {
		problems = append(problems, errors.New("the settings were not validated before the work"))
	}
	for _, o := range in.spec.Outputs {
		if _, ok := in.outputs[o.fileName()]; !ok {
			problems = append(problems, fmt.Errorf("output %q is declared, but was not set", o.Name))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("step %q breaks its own declaration: %w", in.spec.Name, err)
	}
	return nil
}

// Progress reports that done of total units of work are done, to Argo and to whoever runs the workflow.
// It is cheap: the file changes at most every 250 ms.
func (in *Input) Progress(done, total int64) { in.progress.Report(done, total) }

// TempDir is the directory for temporary files: --work-dir if the step has that flag and it is set, else the system's.
func (in *Input) TempDir() string {
	if s, ok := in.settings["work-dir"]; ok && s.text != "" {
		return s.text
	}
	return os.TempDir()
}
