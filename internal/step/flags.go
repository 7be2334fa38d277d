package step

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

const (
	everyStep       = "Every step" // category of the flags all steps have
	envPrefix       = "INSITU_"
	bindingSuffix   = "-binding"
	bindingRootEnv  = "SERVICE_BINDING_ROOT"
	defaultOutputs  = "/tmp/outputs"
	defaultTermLog  = "/dev/termination-log"
	termLogEnv      = envPrefix + "TERMINATION_LOG"
	progressFileEnv = "ARGO_PROGRESS_FILE"
	workflowEnv     = envPrefix + "WORKFLOW"
	workflowUIDEnv  = envPrefix + "WORKFLOW_UID"
)

// Env is the flag's environment variable; with _FILE appended, the one that names a file to read the value from.
func (f Flag) Env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// AllFlags are the step's own flags and those every step has, in the order of --help.
func (s Spec) AllFlags() []Flag {
	return append(slices.Clone(s.Flags),
		Flag{Name: "output-dir", Usage: "directory the outputs are written to, one file each, on success only", Category: everyStep, Default: defaultOutputs},
		Flag{Name: "log-level", Usage: "least level that is logged", Category: everyStep, Default: "info", Enum: []string{"debug", "info", "warn", "error"}},
		Flag{Name: "pipeline", Usage: "name in data catalogs of the pipeline this step is part of", Category: everyStep, Default: "insitu"},
		Flag{Name: "timeout", Usage: "give up after this time with exit code 75, for example 30m; no limit when unset", Category: everyStep, Kind: Duration},
	)
}

func (s Spec) flag(name string) (Flag, bool) {
	flags := s.AllFlags()
	i := slices.IndexFunc(flags, func(f Flag) bool { return f.Name == name })
	if i < 0 {
		return Flag{}, false
	}
	return flags[i], true
}

// Check returns what is wrong with the declaration itself: a mistake of the step's author.
func (s Spec) Check() error {
	var problems []error
	seen := map[string]bool{}
	for _, f := range s.AllFlags() {
		switch {
		case seen[f.Name]:
			problems = append(problems, fmt.Errorf("flag %q is declared twice", f.Name))
		case !kebab(f.Name) || f.Name == "help":
			problems = append(problems, fmt.Errorf("flag %q: expected a kebab-case name other than help", f.Name))
		case strings.HasSuffix(f.Name, "-file"):
			problems = append(problems, fmt.Errorf("flag %q: its variable would be taken for the _FILE variant of another", f.Name))
		case f.Usage == "":
			problems = append(problems, fmt.Errorf("flag %q has no usage text", f.Name))
		case f.Secret && f.Default != "":
			problems = append(problems, fmt.Errorf("flag %q: a secret cannot have a default", f.Name))
		}
		seen[f.Name] = true
		if _, err := f.parse(f.Default); f.Default != "" && err != nil {
			problems = append(problems, fmt.Errorf("default of flag %q: %w", f.Name, err))
		}
		if f.Binding != nil {
			if _, ok := s.flag(f.Binding.Binding + bindingSuffix); !ok {
				problems = append(problems, fmt.Errorf("flag %q falls back to the binding %q, but there is no flag %q", f.Name, f.Binding.Binding, f.Binding.Binding+bindingSuffix))
			}
		}
	}
	seen = map[string]bool{}
	for _, o := range s.Outputs {
		if seen[o.fileName()] || !kebab(o.Name) || strings.ContainsAny(o.File, `/\`) {
			problems = append(problems, fmt.Errorf("output %q: expected one kebab-case name and a file name of its own", o.Name))
		}
		seen[o.fileName()] = true
	}
	if s.Run == nil {
		problems = append(problems, errors.New("there is nothing to run"))
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("declaration of step %q: %w", s.Name, err)
	}
	return nil
}

func kebab(name string) bool {
	if name == "" || strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// fileName is the output's file under --output-dir.
func (o Output) fileName() string {
	if o.File != "" {
		return o.File
	}
	return o.Name
}

// parseArgs returns the flags given on the command line; help is set when the help was asked for and printed.
// Errors never hold a value: it may be a password someone hoped to pass.
//
// urfave/cli reads and describes the flags. Its App stays out: it prints help through text/template, and a program that
// can call a method by a name it learns at run time must keep every exported method of every package (5 MB and more).
func (s Spec) parseArgs(args []string, stdout io.Writer) (given map[string]string, help bool, err error) {
	if err := s.refuseSecrets(args); err != nil {
		return nil, false, err
	}
	given = map[string]string{}
	set := flag.NewFlagSet(s.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {} // nothing but an explicit --help is written
	flags := s.cliFlags(given, &help)
	for _, f := range flags {
		if err := f.Apply(set); err != nil {
			return nil, false, err
		}
	}
	if err := set.Parse(args); err != nil {
		return nil, false, err
	}
	if help {
		return nil, true, s.writeHelp(stdout, flags)
	}
	// Parsing stops at the first positional argument, so every flag after it would be dropped.
	if n := set.NArg(); n > 0 {
		return nil, false, fmt.Errorf("%d positional arguments after the flags, expected none: write --flag=value or --flag value, and a boolean as --flag=true", n)
	}
	return given, false, nil
}

// cliFlags are all flags but the secrets, as urfave/cli sees them, those of one category side by side.
func (s Spec) cliFlags(given map[string]string, help *bool) []cli.CategorizableFlag {
	var flags []cli.CategorizableFlag
	for _, f := range s.AllFlags() {
		if !f.Secret {
			flags = append(flags, &cliFlag{Flag: f, given: given})
		}
	}
	return append(flags, &cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "show this text and exit", Category: everyStep, Destination: help, DisableDefaultText: true})
}

// writeHelp prints what --help shows.
func (s Spec) writeHelp(w io.Writer, flags []cli.CategorizableFlag) error {
	indent := func(text string) string {
		return "   " + strings.ReplaceAll(strings.ReplaceAll(text, "\n", "\n   "), "\n   \n", "\n\n")
	}
	fmt.Fprintf(w, "NAME:\n   %s - %s\n\nUSAGE:\n   %s [--flag value ...]\n\nDESCRIPTION:\n%s\n\nOPTIONS:\n", s.Name, s.Summary, s.Name, indent(s.helpText()))
	table := tabwriter.NewWriter(w, 1, 8, 2, ' ', 0)
	category := ""
	for _, f := range flags {
		if f.GetCategory() != category {
			category = f.GetCategory()
			fmt.Fprintf(table, "\n   %s\n\n", category)
		}
		fmt.Fprintf(table, "%s\n", indent(f.String()))
	}
	return table.Flush()
}

// refuseSecrets says how to pass a secret that came as a flag.
func (s Spec) refuseSecrets(args []string) error {
	for _, arg := range args {
		if arg == "--" {
			return nil
		}
		if !strings.HasPrefix(arg, "-") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if f, ok := s.flag(name); ok && f.Secret {
			return fmt.Errorf("--%s would show a secret in the process list: %s", name, f.sources())
		}
	}
	return nil
}

// sources says how the flag can be set.
func (f Flag) sources() string {
	text := "set --" + f.Name + ", " + f.Env() + ", " + f.Env() + "_FILE"
	if f.Secret {
		text = "set " + f.Env() + ", " + f.Env() + "_FILE"
	}
	if f.Binding != nil {
		return text + fmt.Sprintf(" or the file %q of the service binding --%s%s selects", f.Binding.File, f.Binding.Binding, bindingSuffix)
	}
	i := strings.LastIndex(text, ", ")
	return text[:i] + " or" + text[i+1:]
}

// helpText is the description with what the list of command-line flags cannot say.
func (s Spec) helpText() string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(s.Description))
	b.WriteString("\n\nA flag beats its environment variable, which beats the file named by that variable with _FILE appended,\n" +
		"which beats a service binding under $" + bindingRootEnv + ", which beats the default. Empty counts as unset.")
	var secrets []string
	for _, f := range s.AllFlags() {
		if f.Secret {
			secrets = append(secrets, "  "+f.Env()+"  "+f.Usage)
		}
	}
	if len(secrets) > 0 {
		b.WriteString("\n\nSecrets have no flag: the process list shows those. Set the variable, the variable with _FILE, or a binding:\n" + strings.Join(secrets, "\n"))
	}
	if len(s.Outputs) > 0 {
		b.WriteString("\n\nOutputs:")
		for _, o := range s.Outputs {
			b.WriteString("\n  " + o.fileName() + "  " + o.Usage)
		}
	}
	if len(s.Examples) > 0 {
		b.WriteString("\n\nExamples:")
		for _, e := range s.Examples {
			b.WriteString("\n  # " + e.Text + "\n  " + strings.ReplaceAll(e.Command, "\n", "\n  "))
		}
	}
	return strings.TrimSpace(b.String())
}

// cliFlag shows a Flag to urfave/cli, which only collects the text: values are resolved and checked later, all at once.
type cliFlag struct {
	Flag
	given map[string]string
}

// The methods of cli.CategorizableFlag and cli.DocGenerationFlag.

func (f *cliFlag) String() string { return cli.FlagStringer(f) }
func (f *cliFlag) Apply(set *flag.FlagSet) error {
	set.Var(f.value(), f.Name, f.Usage)
	return nil
}
func (f *cliFlag) Names() []string { return []string{f.Name} }
func (f *cliFlag) IsSet() bool     { _, ok := f.given[f.Name]; return ok }
func (f *cliFlag) IsVisible() bool { return true }
func (f *cliFlag) GetCategory() string {
	return f.Category
}
func (f *cliFlag) TakesValue() bool       { return f.Kind != Bool }
func (f *cliFlag) GetUsage() string       { return f.fullUsage() }
func (f *cliFlag) GetValue() string       { return f.Default }
func (f *cliFlag) GetDefaultText() string { return f.Default }
func (f *cliFlag) GetEnvVars() []string   { return []string{f.Env()} }

func (f *cliFlag) value() flag.Value { return &argValue{f} }

// argValue is the standard library's view of a flag.
type argValue struct{ f *cliFlag }

func (v *argValue) String() string { return "" }
func (v *argValue) Set(text string) error {
	v.f.given[v.f.Name] = text
	return nil
}
func (v *argValue) IsBoolFlag() bool { return v.f != nil && v.f.Kind == Bool }

// fullUsage is the usage text with what the declaration adds to it.
func (f Flag) fullUsage() string {
	text := f.Usage
	if r := f.Constraint(); r != "" {
		text += " (" + r + ")"
	}
	if f.Required {
		text += " (required)"
	}
	return text
}
