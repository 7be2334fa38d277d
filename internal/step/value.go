package step

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// String names the kind as the documentation does.
func (k Kind) String() string {
	return [...]string{"string", "integer", "number", "boolean", "duration", "JSON object"}[k]
}

// CheckValue says what is wrong with a value for the named flag: its kind, allowed values or bounds.
// The empty value is right for every flag, since it counts as unset.
func (s Spec) CheckValue(flagName, value string) error {
	f, ok := s.flag(flagName)
	if !ok {
		return fmt.Errorf("step %q has no flag --%s", s.Name, flagName)
	}
	if value == "" {
		return nil
	}
	if _, err := f.parse(value); err != nil {
		return fmt.Errorf("--%s: %w", f.Name, err)
	}
	return nil
}

// Constraint says in words what the flag restricts its values to; "" for nothing.
func (f Flag) Constraint() string {
	switch {
	case len(f.Enum) > 0:
		return "one of " + strings.Join(f.Enum, ", ")
	case f.Min != nil && f.Max != nil:
		return number(*f.Min) + " to " + number(*f.Max)
	case f.Min != nil:
		return "at least " + number(*f.Min)
	case f.Max != nil:
		return "at most " + number(*f.Max)
	}
	return ""
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// parse returns the value of text as the flag's kind: string, int, float64, bool, time.Duration or map[string]any.
func (f Flag) parse(text string) (any, error) {
	wrong := func(expected string) error {
		if f.Secret {
			return fmt.Errorf("the value is not valid, expected %s", expected)
		}
		return fmt.Errorf("%q is not valid, expected %s", shorten(text), expected)
	}
	if len(f.Enum) > 0 && !slices.Contains(f.Enum, text) {
		return nil, wrong(f.Constraint())
	}
	switch f.Kind {
	case Int:
		v, err := strconv.ParseInt(text, 10, strconv.IntSize)
		if err != nil {
			return nil, wrong("a decimal integer, such as 10")
		}
		if !f.within(float64(v)) {
			return nil, wrong("an integer, " + f.Constraint())
		}
		return int(v), nil
	case Float:
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, wrong("a finite number, such as 0.5")
		}
		if !f.within(v) {
			return nil, wrong("a number, " + f.Constraint())
		}
		return v, nil
	case Bool:
		if text != "true" && text != "false" {
			return nil, wrong("true or false")
		}
		return text == "true", nil
	case Duration:
		v, err := time.ParseDuration(text)
		if err != nil || v < 0 {
			return nil, wrong("a duration that is not negative, such as 90s or 5m")
		}
		return v, nil
	case JSON:
		v, err := parseObject(text)
		if err != nil {
			return nil, wrong(`a JSON object, such as {"epochs": 3}` + " (" + err.Error() + ")")
		}
		return v, nil
	default:
		return text, nil
	}
}

func (f Flag) within(v float64) bool {
	return (f.Min == nil || v >= *f.Min) && (f.Max == nil || v <= *f.Max)
}

// parseObject keeps numbers as json.Number, so that large integers stay exact.
func parseObject(text string) (map[string]any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, err
	}
	if object == nil {
		return nil, errors.New("null is not an object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more text after the object")
	}
	return object, nil
}

// shorten keeps a value in an error readable.
func shorten(text string) string {
	const limit = 120
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "..."
}
