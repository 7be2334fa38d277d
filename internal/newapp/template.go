package newapp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"text/template"

	"github.com/insitu-ml/insitu/internal/fault"
)

// skeletonFolder holds the skeleton beside a template: the folder common, and one a learner.
const (
	skeletonFolder = "skeleton"
	commonFolder   = "common"
)

// Backstage is a software template for Backstage: template.yaml and the skeleton, by path.
// What v chooses are the defaults of its form; there is no name to choose.
func Backstage(v Values, openAPI []byte) (map[string][]byte, error) {
	options, err := withDefaults(v)
	if err != nil {
		return nil, err
	}
	folders, err := skeleton(openAPI)
	if err != nil {
		return nil, err
	}
	type page struct {
		Title    string
		Required []string
		Options  []Option
	}
	type fetch struct{ ID, Name, Folder string }
	data := struct {
		Owner, Host string
		Pages       []page
		Options     []Option
		Fetches     []fetch
	}{Options: options, Fetches: []fetch{
		{"fetch-common", "Write the pipeline files", commonFolder},
		{"fetch-learner", "Write the learner, its tests and sample data", "${{ parameters." + optionLearner + " }}"},
	}}
	for _, o := range options {
		if n := len(data.Pages); n == 0 || data.Pages[n-1].Title != o.Page {
			data.Pages = append(data.Pages, page{Title: o.Page, Required: []string{}})
		}
		p := &data.Pages[len(data.Pages)-1]
		p.Options = append(p.Options, o)
		if o.Required() {
			p.Required = append(p.Required, o.Key())
		}
		switch o.Name {
		case optionOwner:
			data.Owner = o.Default
		case optionRepository:
			u, err := url.Parse(o.Default)
			if err != nil || u.Scheme != "https" {
				return nil, fault.AsConfiguration(fmt.Errorf("%s %q: expected https://, so that the form can offer its host", o.Name, o.Default))
			}
			data.Host = u.Host
		}
	}
	return described("template.yaml", "backstage.yaml.gotmpl", data, folders)
}

// source is a set of skeleton files that the accelerator's engine treats alike.
type source struct {
	Folder, Learner string // Learner is empty for the files of every app
	Files           []string
	Substitutions   []substitution
}

// substitution replaces a text by the value of an expression in SpEL.
type substitution struct{ Text, With string }

// Accelerator is an accelerator for the Tanzu Application Platform: accelerator.yaml and the skeleton, by path.
// What v chooses are the defaults of its form; there is no name to choose.
func Accelerator(v Values, openAPI []byte) (map[string][]byte, error) {
	options, err := withDefaults(v)
	if err != nil {
		return nil, err
	}
	folders, err := skeleton(openAPI)
	if err != nil {
		return nil, err
	}
	data := struct {
		Options []Option
		Sources []source
	}{Options: options}
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		plain := source{Folder: folder}
		if folder != commonFolder {
			plain.Learner = folder
		}
		filled := plain
		seen := map[string]bool{}
		for _, name := range slices.Sorted(maps.Keys(folders[folder])) {
			text, file := folders[folder][name], skeletonFolder+"/"+folder+"/"+name
			found := expression.FindAllStringSubmatch(text, -1)
			if binary(name) || len(found) == 0 {
				plain.Files = append(plain.Files, file)
				continue
			}
			filled.Files = append(filled.Files, file)
			for _, m := range found {
				if !seen[m[0]] {
					seen[m[0]] = true
					filled.Substitutions = append(filled.Substitutions, substitution{m[0], spel(m)})
				}
			}
		}
		data.Sources = append(data.Sources, filled, plain)
	}
	return described("accelerator.yaml", "accelerator.yaml.gotmpl", data, folders)
}

// spel is the Spring expression that means what a match of expression means. Its operator ?: takes empty text for none.
func spel(match []string) string {
	first, literal, other, replaced := match[1], match[2], match[3], match[4]
	variable := func(key string) string { return "#" + camel(key) }
	switch {
	case other != "":
		return variable(first) + " ?: " + variable(other)
	case replaced != "":
		return variable(first) + " ?: " + variable(replaced) + ".replace('-', '_')"
	}
	return variable(first) + " ?: '" + literal + "'"
}

// camel is the name of an option as accelerators want it: trainingBinding for training-binding and training_binding.
// Every accelerator asks for the name of the project, as projectName.
func camel(name string) string {
	if name == optionName {
		return "projectName"
	}
	words := strings.FieldsFunc(name, func(r rune) bool { return r == '-' || r == '_' })
	for i, word := range words[1:] {
		words[i+1] = strings.ToUpper(word[:1]) + word[1:]
	}
	return strings.Join(words, "")
}

// withDefaults are the options, with what v chooses for defaults.
func withDefaults(v Values) ([]Option, error) {
	options := Options()
	var problems []error
	for i, o := range options {
		value := v[o.Name]
		switch {
		case value == "":
		case o.Name == optionName:
			problems = append(problems, errors.New("a template has no name to choose: whoever uses it does"))
		default:
			problems = append(problems, o.Check(value))
			options[i].Default = value
		}
	}
	return options, fault.AsConfiguration(errors.Join(problems...))
}

// skeleton is all files with their expressions, by folder and name.
func skeleton(openAPI []byte) (map[string]map[string]string, error) {
	files, err := common(openAPI)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]string{commonFolder: files}
	for _, l := range allLearners() {
		if out[l.name], err = l.own(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// described is the skeleton with the file that describes it, which a Go template makes.
func described(name, source string, data any, folders map[string]map[string]string) (map[string][]byte, error) {
	text, err := files.ReadFile("files/" + source)
	if err != nil {
		return nil, err
	}
	t, err := template.New(source).Delims("<<", ">>").Funcs(template.FuncMap{"json": quoted, "camel": camel}).Parse(string(text))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, err
	}
	all := map[string][]byte{name: out.Bytes()}
	for folder, files := range folders {
		for file, text := range files {
			all[skeletonFolder+"/"+folder+"/"+file] = []byte(text)
		}
	}
	return all, nil
}

// quoted is JSON, which YAML is, too.
func quoted(value any) (string, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return strings.TrimSuffix(out.String(), "\n"), err
}
