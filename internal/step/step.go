// Package step is the shell all six steps share: flags, environment, service
// bindings, logger, signals, outputs, progress and exit codes.
//
// It knows nothing of databases, models or Argo's types.
// A step declares a Spec; its main calls Main and nothing else.
package step

import (
	"context"

	"go.uber.org/zap"
)

// Kind is the type of a flag's value.
type Kind int

// The kinds of flag values.
const (
	String   Kind = iota
	Int           // decimal int64
	Float         // finite float64
	Bool          // true or false
	Duration      // Go duration: 90s, 5m
	JSON          // a JSON object
)

// Spec declares one step: what users see in --help, docs and workflow checks, and what it does.
type Spec struct {
	Name        string // as in the workflow: upload-dataset
	Summary     string // one line, no full stop
	Description string // Markdown
	Flags       []Flag
	Outputs     []Output
	Examples    []Example
	// Run does the work. It reads every flag through in first, then calls in.Validate.
	Run func(ctx context.Context, in *Input) error
}

// Flag is one setting. Its environment variable is INSITU_ + the name in UPPER_SNAKE.
type Flag struct {
	Name     string // kebab-case
	Usage    string
	Category string
	Kind     Kind
	Default  string   // "" for none; empty values count as unset everywhere
	Enum     []string // allowed values, if restricted
	Min, Max *float64 // bounds of Int and Float values, if any
	Required bool
	Secret   bool // no command-line flag: environment, _FILE or binding only
	// Binding names the file of a service binding that the value falls back to.
	Binding *BindingFile
}

// BindingFile is one file of the service binding chosen by the flag --<Binding>-binding ("type" or "type/provider").
type BindingFile struct {
	Binding string // training, inference, s3, mlflow
	File    string // host, port, password, ...
}

// Output is one declared result of a step: a file of that name under --output-dir.
type Output struct {
	Name  string
	Usage string
	File  string // for artifacts: the file name (report.html); "" for parameters
}

// Example is one command line for --help and the docs.
type Example struct {
	Text    string // what it does
	Command string
}

// Input is what a running step sees of the outside: resolved flags, logger, outputs, progress.
// Getters record problems instead of failing; Validate reports them all at once.
type Input struct {
	Log *zap.Logger
	// unexported state
	*state
}
