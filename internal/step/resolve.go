package step

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/insitu-ml/insitu/internal/binding"
)

// setting is one flag's resolved value.
type setting struct {
	flag   Flag
	text   string           // "" when unset
	source string           // what it came from, for messages: --x, INSITU_X, the path of a file; "" for the default
	value  any              // of the flag's kind; nil when unset or wrong
	bound  *binding.Binding // the service binding it came from, if it did
}

// resolver finds values: flag, environment variable, file named by the variable with _FILE, binding, default.
type resolver struct {
	spec      Spec
	given     map[string]string
	lookupEnv func(string) (string, bool)

	settings map[string]*setting
	bindings map[string]*bindingResult
	problems []error
}

// bindingResult is one binding, or why there is none.
type bindingResult struct {
	*binding.Binding
	err      error
	explicit bool // the user chose the binding, so its absence is a mistake whatever else is set
}

func (s Spec) resolve(given map[string]string, lookupEnv func(string) (string, bool)) (map[string]*setting, []error) {
	r := &resolver{spec: s, given: given, lookupEnv: lookupEnv, settings: map[string]*setting{}, bindings: map[string]*bindingResult{}}
	flags := s.AllFlags()
	for _, f := range flags { // those without binding first: they hold the selectors
		if f.Binding == nil {
			r.resolve(f)
		}
	}
	for _, f := range flags {
		if f.Binding != nil {
			r.resolve(f)
		}
	}
	return r.settings, r.problems
}

func (r *resolver) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf(format, args...))
}

func (r *resolver) resolve(f Flag) {
	s := &setting{flag: f}
	r.settings[f.Name] = s
	var err error
	if s.text, s.source, err = r.outside(f); err != nil {
		r.problem("--%s: %w", f.Name, err)
		return
	}
	if s.text == "" && f.Binding != nil && !r.fromBinding(s) {
		return
	}
	if s.text == "" {
		s.text = f.Default
	}
	if s.text == "" {
		if f.Required {
			r.problem("--%s is required: %s", f.Name, f.sources())
		}
		return
	}
	if s.value, err = f.parse(s.text); err != nil {
		if s.source != "" && s.source != "--"+f.Name {
			err = fmt.Errorf("from %s: %w", s.source, err)
		}
		r.problem("--%s: %w", f.Name, err)
	}
}

// outside looks at the command line, the environment and the _FILE variant, in that order.
func (r *resolver) outside(f Flag) (text, source string, err error) {
	if text := r.given[f.Name]; text != "" {
		return text, "--" + f.Name, nil
	}
	if text, _ := r.lookupEnv(f.Env()); text != "" {
		return text, f.Env(), nil
	}
	path, _ := r.lookupEnv(f.Env() + "_FILE")
	if path == "" {
		return "", "", nil
	}
	text, err = binding.ReadValueFile(path)
	if err != nil {
		return "", "", fmt.Errorf("%s_FILE: %w", f.Env(), err)
	}
	if text == "" {
		return "", "", nil
	}
	return text, path, nil
}

// fromBinding fills the setting from its binding; false when a reported problem makes the rest pointless.
//
// A binding that is not there is no problem while the user sets everything needed in other ways.
// One that cannot be told from others, or not be read, is a problem as soon as a secret would have come from it:
// the step would fail later, with the less helpful words of a server that was given no password.
func (r *resolver) fromBinding(s *setting) bool {
	b := r.binding(s.flag.Binding.Binding)
	if b == nil {
		return true
	}
	if b.err != nil {
		needed := b.explicit || s.flag.Required && s.flag.Default == "" ||
			s.flag.Secret && !errors.Is(b.err, binding.ErrNotFound)
		if needed {
			r.problem("%w", b.err) // the same for each setting; Validate shows it once
		}
		// Where there is no binding, the user may mean to set the value in another way: say that it is required, too.
		return !needed || errors.Is(b.err, binding.ErrNotFound)
	}
	text, ok, err := b.Value(s.flag.Binding.File)
	if err != nil {
		r.problem("%w", err)
		return false
	}
	if ok {
		s.text, s.source, s.bound = text, fmt.Sprintf("the service binding in %s", b.Dir), b.Binding
	}
	return true
}

// binding returns the named binding, looked for once; nil when there is no binding root.
func (r *resolver) binding(name string) *bindingResult {
	if b, ok := r.bindings[name]; ok {
		return b
	}
	root, _ := r.lookupEnv(bindingRootEnv)
	selector := r.settings[name+bindingSuffix]
	// A workflow passes the default along as if it were chosen.
	explicit := selector.source != "" && selector.text != selector.flag.Default
	var b *bindingResult
	switch {
	case root != "":
		found, err := binding.Find(root, selector.text)
		if err != nil {
			err = fmt.Errorf("--%s%s: %w", name, bindingSuffix, err)
		}
		b = &bindingResult{Binding: found, err: err, explicit: explicit}
	case explicit:
		b = &bindingResult{err: fmt.Errorf("--%s%s is set, but %s is not: there is no place to look for service bindings", name, bindingSuffix, bindingRootEnv), explicit: true}
	}
	r.bindings[name] = b
	return b
}

// secrets are the values that must not appear in logs and errors: those of secret flags and passwords within URLs.
func secrets(settings map[string]*setting) []string {
	var found []string
	for _, s := range settings {
		if s.text == "" {
			continue
		}
		if s.flag.Secret {
			found = append(found, s.text)
			continue
		}
		if u, err := url.Parse(s.text); err == nil {
			if password, ok := u.User.Password(); ok {
				found = append(found, password)
			}
		}
	}
	return found
}
