package newapp

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Option is one thing that the maker of an ML app chooses.
// The flags and questions of insitu init, the parameters of the Backstage template and the options of the TAP accelerator
// are all made of this, so that none of them can know more or less than the others.
type Option struct {
	Name        string // of the flag; in templates with "_" for "-"
	Title       string // a few words: the question
	Description string // a sentence
	Page        string // options that are asked together
	Default     string
	Choices     []Choice // the only values there are; none for text
	Pattern     string   // text has to match it; understood alike by Go, JavaScript and Java
	Expected    string   // the pattern in words
}

// Choice is one value of an option.
type Choice struct{ Value, Title string }

// Names of the options that this package asks for by name.
const (
	optionName       = "name"
	optionLearner    = "learner"
	optionOwner      = "owner"
	optionRepository = "repository"
)

// The pages, in the order in which they are asked.
const (
	pageApp      = "The ML app"
	pagePlace    = "Where it lives"
	pagePipeline = "How it is run"
)

// Required tells whether the option cannot be left empty.
func (o Option) Required() bool { return !regexp.MustCompile(o.Pattern).MatchString("") }

// Key is the option's name in templates.
func (o Option) Key() string { return strings.ReplaceAll(o.Name, "-", "_") }

// Options are all options, in the order in which they are asked.
func Options() []Option {
	const (
		pipelines = "in-database-pipeline"
		binding   = `^[a-z0-9-]+(/[a-z0-9-]+)?$`
		inWords   = "type or type/provider, in lower case"
	)
	var learners []Choice
	for _, l := range allLearners() {
		learners = append(learners, Choice{l.name, l.title})
	}
	return choicesAsPatterns([]Option{
		{
			Name: optionName, Page: pageApp, Title: "Name", Description: "Name of the ML app: of its registered model and of what portals list.",
			Pattern: `^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`, Expected: "up to 40 lower-case letters, digits and -, a letter first",
		},
		{
			Name: optionLearner, Page: pageApp, Title: "Learner", Description: "Algorithm that learner.py starts with, and sample data for it.",
			Default: "softmax", Choices: learners,
		},
		{
			Name: "dataset", Page: pageApp, Title: "Dataset URL", Description: "Where the data is, if it is not the sample: http, https, s3 or file. Describe it in insitu.yaml.",
			Pattern: `^((https?|s3|file):[A-Za-z0-9._~:/?&=%@+,-]+)?$`, Expected: "a URL that begins with http:, https:, s3: or file:",
		},
		{
			Name: optionOwner, Page: pageApp, Title: "Owner", Description: "Who owns the ML app in the software catalog: a group or user.",
			Default: "guests", Pattern: `^((group|user):)?([A-Za-z0-9-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`, Expected: "a name such as data-science or group:default/data-science",
		},
		{
			Name: optionRepository, Page: pagePlace, Title: "Repository", Description: "URL of the Git repository that the files will be in.",
			Default:  "https://github.com/your-organisation/your-ml-app",
			Pattern:  `^(https?://[A-Za-z0-9.-]+(:[0-9]+)?/[A-Za-z0-9._~/-]+|ssh://([A-Za-z0-9._-]+@)?[A-Za-z0-9.-]+(:[0-9]+)?/[A-Za-z0-9._~/-]+|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[A-Za-z0-9._~/-]+)$`,
			Expected: "https://, ssh:// or user@host:path, without a password",
		},
		{
			Name: "branch", Page: pagePlace, Title: "Branch", Description: "Branch whose commits are run.",
			Default: "main", Pattern: `^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$`, Expected: "the name of a branch",
		},
		{
			Name: "app-name", Page: pagePlace, Title: "App", Description: "Name of the App in Kubernetes, and of its runs: NAME-ver-1 and so on. Empty: the ML app's name.",
			Pattern: `^([a-z]([a-z0-9-]{0,48}[a-z0-9])?)?$`, Expected: "up to 50 lower-case letters, digits and -, a letter first",
		},
		{
			Name: "workflow", Page: pagePipeline, Title: "Workflow", Description: "WorkflowTemplate that is run.",
			Default: pipelines, Choices: []Choice{{pipelines, "a pod a step"}, {pipelines + "-express", "two pods, without sweeps"}},
		},
		{
			Name: "experiment", Page: pagePipeline, Title: "Experiment", Description: "MLflow experiment. Empty: the ML app's name.",
			Pattern: `^([A-Za-z0-9][A-Za-z0-9 ._/-]{0,99})?$`, Expected: "letters, digits, spaces and . _ / -",
		},
		{
			Name: "schema", Page: pagePipeline, Title: "Schema", Description: "Schema (the tenant) in both databases. Empty: the ML app's name, with _ for -.",
			Pattern: `^([a-z_][a-z0-9_]{0,62})?$`, Expected: "up to 63 lower-case letters, digits and _, no digit first",
		},
		{
			Name: "stage", Page: pagePipeline, Title: "Stage", Description: "Alias in the model registry that a model which passes its evaluation moves to.",
			Default: "staging", Pattern: `^[A-Za-z][A-Za-z0-9_-]{0,99}$`, Expected: "letters, digits, _ and -, a letter first",
		},
		{
			Name: "approval", Page: pagePipeline, Title: "Stage on pass", Description: "What happens to a model that passes its evaluation.",
			Default: "none", Choices: []Choice{{"none", "staged and deployed at once"}, {"required", "waits until a person approves"}},
		},
		{
			Name: "training-binding", Page: pagePipeline, Title: "Training database", Description: "Its service binding: type or type/provider.",
			Default: "greenplum/vmware", Pattern: binding, Expected: inWords,
		},
		{
			Name: "inference-binding", Page: pagePipeline, Title: "Inference database", Description: "Its service binding: type or type/provider.",
			Default: "postgres/vmware", Pattern: binding, Expected: inWords,
		},
	})
}

// choicesAsPatterns gives options with choices the pattern that these are.
func choicesAsPatterns(options []Option) []Option {
	for i, o := range options {
		if len(o.Choices) == 0 {
			continue
		}
		values := make([]string, len(o.Choices))
		for j, c := range o.Choices {
			values[j] = c.Value
		}
		options[i].Pattern = "^(" + strings.Join(values, "|") + ")$"
		options[i].Expected = "one of " + strings.Join(values, ", ")
	}
	return options
}

// Values are what was chosen, by the names of the options.
type Values map[string]string

// Check says what is wrong with a value.
func (o Option) Check(value string) error {
	if !regexp.MustCompile(o.Pattern).MatchString(value) {
		return fmt.Errorf("%s %q: expected %s", o.Name, value, o.Expected)
	}
	return nil
}

// complete adds defaults and returns every problem at once.
func (v Values) complete() (Values, error) {
	out := Values{}
	var problems []error
	options := Options()
	for _, o := range options {
		value, given := v[o.Name]
		if !given || value == "" {
			value = o.Default
		}
		problems = append(problems, o.Check(value))
		out[o.Name] = value
	}
	for name := range v {
		if !slices.ContainsFunc(options, func(o Option) bool { return o.Name == name }) {
			problems = append(problems, fmt.Errorf("there is no option %q", name))
		}
	}
	return out, errors.Join(problems...)
}
