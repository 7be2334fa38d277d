package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/xrash/smetrics"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/localrun"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/step"
)

// setParameters gives the workflow the values of -p name=value and reports everything wrong with them at once.
func setParameters(w *localrun.Workflow, given []string) (map[string]bool, error) {
	known := map[string]bool{}
	for _, p := range w.Parameters() {
		known[p.Name] = true
	}
	set := map[string]bool{}
	var problems []error
	for _, text := range given {
		name, value, ok := strings.Cut(text, "=")
		switch {
		case !ok:
			problems = append(problems, fmt.Errorf("-p %q: expected name=value", text))
		case !known[name]:
			problems = append(problems, fmt.Errorf("-p %s: workflow %q has no parameter %q%s", text, w.Name, name, suggest(name, w.Parameters())))
		case set[name]:
			problems = append(problems, fmt.Errorf("-p %s: parameter %q is given twice", text, name))
		default:
			set[name] = true
			if err := w.Set(name, value); err != nil {
				problems = append(problems, fmt.Errorf("-p %s: %w", text, err))
			}
		}
	}
	return set, fault.AsConfiguration(errors.Join(problems...))
}

// suggest names the parameter that is spelled most like name.
func suggest(name string, params []localrun.Parameter) string {
	best, distance := "", 1+len(name)/2
	for _, p := range params {
		if d := smetrics.WagnerFischer(name, p.Name, 1, 1, 1); d < distance {
			best, distance = p.Name, d
		}
	}
	if best == "" {
		return "; insitu run --help lists them"
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// checkParameters compares every parameter's value with what the steps that get it declare, before anything is touched.
func checkParameters(w *localrun.Workflow, specs []step.Spec) error {
	var problems []error
	seen := map[string]bool{}
	for _, use := range w.Uses() {
		for _, spec := range specs {
			if spec.Name != use.Command {
				continue
			}
			for _, flag := range spec.AllFlags() {
				value := w.Value(use.Parameter)
				if flag.Env() != use.Env || value == "" && !flag.Required {
					continue
				}
				var err error
				if value == "" {
					err = fmt.Errorf("needs a value: %s", flag.Usage)
				} else {
					err = spec.CheckValue(flag.Name, value)
				}
				if err == nil {
					continue
				}
				if text := fmt.Sprintf("parameter %q: %v", use.Parameter, err); !seen[text] {
					seen[text] = true
					problems = append(problems, errors.New(text))
				}
			}
		}
	}
	return fault.AsConfiguration(errors.Join(problems...))
}

// tenant turns an ML app's name into a schema name: lower case, digits and underscores, at most 63 bytes.
func tenant(app string) string {
	name := regexp.MustCompile(`[^a-z0-9_]+`).ReplaceAllString(strings.ToLower(app), "_")
	name = strings.Trim(name, "_")
	if name == "" || name[0] >= '0' && name[0] <= '9' || strings.HasPrefix(name, "pg_") {
		name = "app_" + name
	}
	return name[:min(len(name), 63)]
}

// commit is the commit of the work tree that holds the folder; "" when there is none, or when the folder has
// changes that are in no commit.
func commit(ctx context.Context, dir string) string {
	status, err := exec.CommandContext(ctx, "git", "-C", dir, "status", "--porcelain", "--", ".").Output()
	if err != nil || len(strings.TrimSpace(string(status))) > 0 {
		return ""
	}
	sha, err := exec.CommandContext(ctx, "git", "-C", dir, "rev-parse", "HEAD").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(sha))
}

// sourceURL makes an absolute file: URL of a path; URLs stay as they are.
func sourceURL(source string) (string, error) {
	scheme, rest, ok := strings.Cut(source, ":")
	switch {
	case source == "":
		return "", nil
	case ok && scheme == "file":
		path, err := url.PathUnescape(strings.TrimPrefix(rest, "//"))
		if err != nil {
			return "", fmt.Errorf("dataset %q: %w", source, err)
		}
		source = path
	case ok && regexp.MustCompile(`^[a-z][a-z0-9+.-]+$`).MatchString(scheme):
		return source, nil
	}
	abs, err := filepath.Abs(source)
	if err != nil {
		return "", fmt.Errorf("dataset %q: %w", source, err)
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: abs}).String(), nil
}

// checkHyperParameters compares the JSON objects "parameters" and "sweep", and "epochs" beside them, with what the ML app declares.
func checkHyperParameters(w *localrun.Workflow, m *mlapp.Manifest) error {
	given, err := object(w, "parameters")
	sweep, sweepErr := object(w, "sweep")
	if err := errors.Join(err, sweepErr); err != nil {
		return fault.AsConfiguration(err)
	}
	if epochs := w.Value("epochs"); epochs != "" {
		given["epochs"] = json.Number(epochs)
	}
	_, err = m.Candidates(given, sweep)
	return err
}

// object reads a parameter that is a JSON object; it has no members when it is empty.
func object(w *localrun.Workflow, parameter string) (map[string]any, error) {
	out := map[string]any{}
	text := w.Value(parameter)
	if text == "" {
		return out, nil
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&out); err != nil {
		return nil, fmt.Errorf("parameter %q: %w", parameter, err)
	}
	return out, nil
}
