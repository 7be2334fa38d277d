package newapp

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/insitu-ml/insitu/internal/fault"
)

// The expressions of the skeleton: values.x, values.x or "text", values.x or values.y, values.x or (values.y | replace("-", "_")).
// They mean what they mean in Backstage, where Nunjucks or its successor renders them; the tests compare.
var (
	expression = regexp.MustCompile(`\$\{\{ values\.([a-z_]+)(?: or (?:"([^"]*)"|values\.([a-z_]+)|\(values\.([a-z_]+) \| replace\("-", "_"\)\)))? \}\}`)
	foreign    = regexp.MustCompile(`\$\{\{|\{%|\{#`) // what a template engine would take for its own
)

// App is the files of a new ML app by path. openAPI is the description of the API that serves its model.
func App(v Values, openAPI []byte) (map[string][]byte, error) {
	v, err := v.complete()
	if err != nil {
		return nil, fault.AsConfiguration(err)
	}
	byKey := map[string]string{}
	for _, o := range Options() {
		byKey[o.Key()] = v[o.Name]
	}
	out := map[string][]byte{}
	add := func(files map[string]string, err error) error {
		if err != nil {
			return err
		}
		for name, text := range files {
			if binary(name) {
				out[name] = []byte(text)
			} else if out[name], err = render(text, byKey); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}
	if err := add(common(openAPI)); err != nil {
		return nil, err
	}
	for _, l := range allLearners() {
		if l.name == v[optionLearner] {
			return out, add(l.own())
		}
	}
	return nil, fmt.Errorf("there is no learner %q", v[optionLearner])
}

func render(text string, values map[string]string) ([]byte, error) {
	if found := foreign.FindString(expression.ReplaceAllString(text, "")); found != "" {
		return nil, fmt.Errorf("it holds %q, which is no expression of the skeleton", found)
	}
	var unknown error
	value := func(key string) string {
		found, ok := values[key]
		if !ok {
			unknown = fmt.Errorf("there is no value %q", key)
		}
		return found
	}
	out := expression.ReplaceAllStringFunc(text, func(match string) string {
		m := expression.FindStringSubmatch(match)
		first, literal, other, replaced := value(m[1]), m[2], m[3], m[4]
		switch {
		case first != "":
			return first
		case other != "":
			return value(other)
		case replaced != "":
			return strings.ReplaceAll(value(replaced), "-", "_")
		}
		return literal
	})
	return []byte(out), unknown
}
