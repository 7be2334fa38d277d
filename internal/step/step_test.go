package step_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/step/steptest"
)

func ptr(v float64) *float64 { return &v }

// trial is a step with a flag of every kind that gives back what it read.
func trial(run func(ctx context.Context, in *step.Input) error) step.Spec {
	database := func(name string, f step.Flag) step.Flag {
		f.Name, f.Usage, f.Binding = "db-"+name, "the database's "+name, &step.BindingFile{Binding: "db", File: name}
		return f
	}
	return step.Spec{
		Name:        "trial",
		Summary:     "tries the shell",
		Description: "Gives back what it read.",
		Flags: []step.Flag{
			{Name: "text", Usage: "a text", Default: "default"},
			{Name: "count", Usage: "a count", Kind: step.Int, Default: "3", Min: ptr(1), Max: ptr(10)},
			{Name: "rate", Usage: "a rate", Kind: step.Float, Min: ptr(0)},
			{Name: "fast", Usage: "a switch", Kind: step.Bool},
			{Name: "wait", Usage: "a time", Kind: step.Duration},
			{Name: "options", Usage: "an object", Kind: step.JSON},
			{Name: "color", Usage: "a colour", Enum: []string{"red", "green"}},
			{Name: "needed", Usage: "what must be set", Required: true},
			{Name: "pass-phrase", Usage: "a secret", Secret: true},
			{Name: "db-binding", Usage: "selects the database", Default: "greenplum/vmware"},
			database("host", step.Flag{}),
			database("port", step.Flag{Kind: step.Int, Default: "5432"}),
			database("password", step.Flag{Secret: true}),
		},
		Outputs: []step.Output{
			{Name: "read", Usage: "the settings as JSON"},
			{Name: "report", Usage: "a page", File: "report.html"},
		},
		Examples: []step.Example{{Text: "Try it", Command: "trial --needed=x"}},
		Run:      run,
	}
}

// settings are what echo read.
type settings struct {
	Text, Color, Needed, Secret, Host, Password string
	Count, Port                                 int
	Rate                                        float64
	Fast                                        bool
	Wait                                        time.Duration
	Options                                     map[string]any
	Set                                         []string
}

func echo(_ context.Context, in *step.Input) error {
	s := settings{
		Text: in.String("text"), Color: in.String("color"), Needed: in.String("needed"), Secret: in.String("pass-phrase"),
		Host: in.String("db-host"), Password: in.String("db-password"), Port: in.Int("db-port"), Count: in.Int("count"),
		Rate: in.Float("rate"), Fast: in.Bool("fast"), Wait: in.Duration("wait"), Options: in.JSON("options"),
	}
	for _, name := range []string{"text", "count", "color", "db-host"} {
		if in.IsSet(name) {
			s.Set = append(s.Set, name)
		}
	}
	if err := in.Validate(); err != nil {
		return err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	in.Output("read", string(text))
	in.OutputFile("report", []byte("<p>"))
	return nil
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSettings(t *testing.T) {
	t.Parallel()
	gp := steptest.Binding(t, t.TempDir(), "gp", map[string]string{"type": "greenplum", "provider": "vmware", "host": "gp", "port": "6000", "password": "binding-secret"})
	base := settings{Text: "default", Needed: "n", Count: 3, Port: 5432}
	with := func(change func(*settings)) settings { s := base; change(&s); return s }
	for _, c := range []struct {
		name  string
		flags map[string]string
		args  []string
		env   map[string]string
		want  settings
	}{
		{"defaults count where nothing is set", nil, nil, nil, base},
		{"a flag beats its variable",
			map[string]string{"text": "flag"}, nil, map[string]string{"INSITU_TEXT": "env"},
			with(func(s *settings) { s.Text, s.Set = "flag", []string{"text"} })},
		{"a variable beats the file",
			nil, nil, map[string]string{"INSITU_TEXT": "env", "INSITU_TEXT_FILE": write(t, "x", "file")},
			with(func(s *settings) { s.Text, s.Set = "env", []string{"text"} })},
		{"the file beats the binding, and its newline goes",
			nil, nil, map[string]string{"INSITU_DB_HOST_FILE": write(t, "x", "file\n"), "SERVICE_BINDING_ROOT": gp},
			with(func(s *settings) {
				s.Host, s.Port, s.Password, s.Set = "file", 6000, "binding-secret", []string{"db-host"}
			})},
		{"the binding beats the default",
			nil, nil, map[string]string{"SERVICE_BINDING_ROOT": gp},
			with(func(s *settings) {
				s.Host, s.Port, s.Password, s.Set = "gp", 6000, "binding-secret", []string{"db-host"}
			})},
		{"empty counts as unset everywhere",
			map[string]string{"text": "", "count": "", "fast": "", "rate": ""}, nil,
			map[string]string{"INSITU_TEXT": "", "INSITU_TEXT_FILE": "", "INSITU_COUNT_FILE": write(t, "x", "\n"), "INSITU_NEEDED": "n", "SERVICE_BINDING_ROOT": ""},
			base},
		{"an empty flag lets the variable through",
			map[string]string{"text": ""}, nil, map[string]string{"INSITU_TEXT": "env"},
			with(func(s *settings) { s.Text, s.Set = "env", []string{"text"} })},
		{"every kind is read",
			map[string]string{"count": "10", "rate": "0.5", "wait": "1m30s", "options": `{"big": 9007199254740993}`, "color": "red"}, []string{"--fast"}, nil,
			with(func(s *settings) {
				s.Count, s.Rate, s.Wait, s.Color, s.Fast = 10, 0.5, 90*time.Second, "red", true
				s.Options, s.Set = map[string]any{"big": json.Number("9007199254740993")}, []string{"count", "color"}
			})},
		{"a flag may stand apart from its value", nil, []string{"--text", "apart", "--fast=false"}, nil,
			with(func(s *settings) { s.Text, s.Set = "apart", []string{"text"} })},
		{"a secret comes by variable or file", nil, nil,
			map[string]string{"INSITU_PASS_PHRASE": "open", "INSITU_DB_PASSWORD_FILE": write(t, "x", "sesame\n")},
			with(func(s *settings) { s.Secret, s.Password = "open", "sesame" })},
		{"a binding that is missing does no harm when nothing needs it", nil, nil,
			map[string]string{"SERVICE_BINDING_ROOT": t.TempDir(), "INSITU_DB_BINDING": "greenplum/vmware"}, base},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			flags := map[string]string{"needed": "n"}
			for k, v := range c.flags {
				flags[k] = v
			}
			r := steptest.Run(t, trial(echo), flags, steptest.Env(c.env), steptest.Args(c.args...))
			if r.Code != 0 {
				t.Fatalf("exit code %d:\n%s", r.Code, r.Stderr)
			}
			var got settings
			d := json.NewDecoder(strings.NewReader(r.Outputs["read"]))
			d.UseNumber()
			if err := d.Decode(&got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if r.Stdout != "" {
				t.Errorf("stdout holds %q, which Argo would take for outputs.result", r.Stdout)
			}
		})
	}
}

func TestMistakesInSettings(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	steptest.Binding(t, root, "one", map[string]string{"type": "greenplum", "provider": "vmware", "uri": "postgres://u:se/cret@h/d"})
	two := t.TempDir()
	steptest.Binding(t, two, "one", map[string]string{"type": "greenplum", "provider": "vmware"})
	steptest.Binding(t, two, "two", map[string]string{"type": "greenplum", "provider": "vmware"})
	needed := map[string]string{"needed": "n"}
	for _, c := range []struct {
		name  string
		flags map[string]string
		args  []string
		env   map[string]string
		want  string
	}{
		{"a required flag says how to set it", nil, nil, nil,
			`--needed is required: set --needed, INSITU_NEEDED or INSITU_NEEDED_FILE`},
		{"every problem is reported at once",
			map[string]string{"count": "11", "rate": "NaN", "fast": "yes", "wait": "-1s", "color": "blue"}, nil,
			map[string]string{"INSITU_OPTIONS": "[1]", "INSITU_TEXT_FILE": "/does/not/exist", "INSITU_LOG_LEVEL": "loud"},
			`9 settings are not valid:
- --text: INSITU_TEXT_FILE: stat /does/not/exist: no such file or directory
- --count: "11" is not valid, expected an integer, 1 to 10
- --rate: "NaN" is not valid, expected a finite number, such as 0.5
- --fast: "yes" is not valid, expected true or false
- --wait: "-1s" is not valid, expected a duration that is not negative, such as 90s or 5m
- --options: from INSITU_OPTIONS: "[1]" is not valid, expected a JSON object, such as {"epochs": 3} (json: cannot unmarshal array into Go value of type map[string]interface {})
- --color: "blue" is not valid, expected one of red, green
- --needed is required: set --needed, INSITU_NEEDED or INSITU_NEEDED_FILE
- --log-level: from INSITU_LOG_LEVEL: "loud" is not valid, expected one of debug, info, warn, error`},
		{"an integer is decimal", map[string]string{"needed": "n", "count": "1e0"}, nil, nil,
			`--count: "1e0" is not valid, expected a decimal integer, such as 10`},
		{"text after an object is refused", map[string]string{"needed": "n", "options": "{} {}"}, nil, nil,
			`--options: "{} {}" is not valid, expected a JSON object, such as {"epochs": 3} (there is more text after the object)`},
		{"null is no object", map[string]string{"needed": "n", "options": "null"}, nil, nil,
			`--options: "null" is not valid, expected a JSON object, such as {"epochs": 3} (null is not an object)`},
		{"positional arguments are refused, and not shown", needed, []string{"hunter2", "--text=dropped"}, nil,
			`2 positional arguments after the flags, expected none: write --flag=value or --flag value, and a boolean as --flag=true; trial --help lists the flags`},
		{"a boolean's value apart from it is positional", needed, []string{"--fast", "true"}, nil,
			`1 positional arguments after the flags, expected none: write --flag=value or --flag value, and a boolean as --flag=true; trial --help lists the flags`},
		{"an unknown flag is refused", needed, []string{"--txet=x"}, nil,
			`flag provided but not defined: -txet; trial --help lists the flags`},
		{"a secret has no flag, and is not shown", needed, []string{"--pass-phrase=hunter2"}, nil,
			`--pass-phrase would show a secret in the process list: set INSITU_PASS_PHRASE or INSITU_PASS_PHRASE_FILE; trial --help lists the flags`},
		{"a secret with a binding names that too", needed, []string{"--db-password", "hunter2"}, nil,
			`--db-password would show a secret in the process list: set INSITU_DB_PASSWORD, INSITU_DB_PASSWORD_FILE or the file "password" of the service binding --db-binding selects; trial --help lists the flags`},
		{"a binding chosen and not found is an error", needed, nil, map[string]string{"SERVICE_BINDING_ROOT": root, "INSITU_DB_BINDING": "mysql"},
			`--db-binding: no service binding matches "mysql" under ` + root + `: found greenplum/vmware in "one"`},
		{"a binding chosen without a root is an error", needed, nil, map[string]string{"INSITU_DB_BINDING": "mysql"},
			`--db-binding is set, but SERVICE_BINDING_ROOT is not: there is no place to look for service bindings`},
		{"a binding that cannot be told from another is an error when a secret is missing", map[string]string{"needed": "n", "db-host": "h"}, nil,
			map[string]string{"SERVICE_BINDING_ROOT": two},
			`--db-binding: 2 service bindings match "greenplum/vmware" under ` + two + `, expected one: found greenplum/vmware in "one", greenplum/vmware in "two"`},
		{"a wrong uri is reported once, and not shown", needed, nil, map[string]string{"SERVICE_BINDING_ROOT": root},
			`file "uri" of the service binding in "` + root + `/one": expected postgresql://username:password@host:port/database?sslmode=... with special characters percent-encoded`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := steptest.Run(t, trial(echo), c.flags, steptest.Env(c.env), steptest.Args(c.args...))
			if r.Code != 2 {
				t.Errorf("exit code %d, want 2", r.Code)
			}
			if diff := cmp.Diff(c.want, r.Message); diff != "" {
				t.Error(diff)
			}
			if r.Stdout != "" || strings.Contains(r.Stderr, "hunter2") || strings.Contains(r.Stderr, "se/cret") {
				t.Errorf("stdout %q must be empty and no secret be on stderr %q", r.Stdout, r.Stderr)
			}
			if len(r.Outputs)+len(r.Files) > 0 {
				t.Errorf("outputs %v after a failure", r.Outputs)
			}
		})
	}
}

func TestCheckValue(t *testing.T) {
	t.Parallel()
	spec := trial(echo)
	for _, c := range []struct{ flag, value, want string }{
		{"count", "3", ""},
		{"count", "", ""},
		{"needed", "", ""},
		{"color", "green", ""},
		{"timeout", "5m", ""},
		{"count", "abc", `--count: "abc" is not valid, expected a decimal integer, such as 10`},
		{"count", "0", `--count: "0" is not valid, expected an integer, 1 to 10`},
		{"rate", "-0.5", `--rate: "-0.5" is not valid, expected a number, at least 0`},
		{"color", "blue", `--color: "blue" is not valid, expected one of red, green`},
		{"colour", "red", `step "trial" has no flag --colour`},
	} {
		got := ""
		if err := spec.CheckValue(c.flag, c.value); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("CheckValue(%q, %q) = %q, want %q", c.flag, c.value, got, c.want)
		}
	}
}

func TestValidateJoinsTheStepsOwnProblems(t *testing.T) {
	t.Parallel()
	r := steptest.Run(t, trial(func(_ context.Context, in *step.Input) error {
		return in.Validate(nil, errors.New("the split adds up to 0.9, expected 1"), nil)
	}), map[string]string{"count": "x"})
	want := `3 settings are not valid:
- --count: "x" is not valid, expected a decimal integer, such as 10
- --needed is required: set --needed, INSITU_NEEDED or INSITU_NEEDED_FILE
- the split adds up to 0.9, expected 1`
	if r.Code != 2 || r.Message != want {
		t.Errorf("exit code %d and message %q, want 2 and %q", r.Code, r.Message, want)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		err     error
		code    int
		message string
	}{
		{"a permanent error", errors.New("read row 3: ragged"), 1, "read row 3: ragged"},
		{"a configuration error", fault.AsConfiguration(errors.New("wrong password")), 2, "wrong password"},
		{"a temporary error", fmt.Errorf("load: %w", fault.AsTemporary(errors.New("server starting"))), 75, "load: server starting"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := steptest.Run(t, trial(func(_ context.Context, in *step.Input) error {
				in.Output("read", "x")
				in.OutputFile("report", nil)
				return errors.Join(in.Validate(), c.err)
			}), map[string]string{"needed": "n"})
			if r.Code != c.code || r.Message != c.message {
				t.Errorf("exit code %d and message %q, want %d and %q", r.Code, r.Message, c.code, c.message)
			}
			if len(r.Outputs)+len(r.Files) > 0 {
				t.Errorf("outputs %v after a failure", r.Outputs)
			}
			if n := strings.Count(r.Stderr, c.message); n != 1 {
				t.Errorf("the error is logged %d times, want once:\n%s", n, r.Stderr)
			}
		})
	}
}

func TestPanicIsAnErrorWithItsStackInTheLog(t *testing.T) {
	t.Parallel()
	r := steptest.Run(t, trial(func(context.Context, *step.Input) error { panic("index 7 of 3") }), nil)
	last := r.Log[len(r.Log)-1]
	if stack, _ := last["stack"].(string); r.Code != 1 || !strings.Contains(stack, "TestPanicIsAnError") {
		t.Errorf("exit code %d and stack %q, want 1 and this test in it", r.Code, stack)
	}
	if want := "panic, a mistake in the program: index 7 of 3"; r.Message != want {
		t.Errorf("message %q, want %q without the stack", r.Message, want)
	}
}

func TestTimeoutIsTemporaryWhateverTheStepSays(t *testing.T) {
	t.Parallel()
	r := steptest.Run(t, trial(func(ctx context.Context, in *step.Input) error {
		<-ctx.Done()
		return fault.AsPermanent(errors.New("canceling statement due to user request"))
	}), map[string]string{"timeout": "10ms"})
	if want := "not done within --timeout 10ms: canceling statement due to user request"; r.Code != 75 || r.Message != want {
		t.Errorf("exit code %d and message %q, want 75 and %q", r.Code, r.Message, want)
	}
}

func TestSecretsDoNotReachLogOrMessage(t *testing.T) {
	t.Parallel()
	const secret, hidden = `p@ss "hunter/2`, "url-secret"
	r := steptest.Run(t, trial(func(_ context.Context, in *step.Input) error {
		in.Log.With(zap.String("dsn", "password="+secret)).Info("connecting with "+secret, zap.Error(fmt.Errorf("bad url %q", secret)), zap.String("url", in.String("text")))
		return fmt.Errorf("cannot parse `postgres://u:p%%40ss%%20%%22hunter%%2F2@h` or %q or %s", secret, in.String("text"))
	}), map[string]string{"needed": "n", "pass-phrase": secret, "text": "http://u:" + hidden + "@h", "log-level": "debug"})
	for _, text := range []string{r.Stderr, r.Message} {
		for _, part := range []string{"hunter", hidden} {
			if strings.Contains(text, part) {
				t.Errorf("%q is in %s", part, text)
			}
		}
		if !strings.Contains(text, "[redacted]") {
			t.Errorf("nothing is redacted in %s", text)
		}
	}
}

func TestASecretThatStartsWithAnotherIsRedactedWhole(t *testing.T) {
	t.Parallel()
	r := steptest.Run(t, trial(func(context.Context, *step.Input) error { return errors.New("hunter and hunter2hidden") }),
		map[string]string{"pass-phrase": "hunter2hidden", "db-password": "hunter"})
	if want := "[redacted] and [redacted]"; r.Message != want {
		t.Errorf("message %q, want %q", r.Message, want)
	}
}

func TestShortSecretsDoNotMangleTheText(t *testing.T) {
	t.Parallel()
	r := steptest.Run(t, trial(func(context.Context, *step.Input) error { return errors.New("a plain text") }),
		map[string]string{"pass-phrase": "a"})
	if r.Message != "a plain text" {
		t.Errorf("message %q", r.Message)
	}
}

func TestOutputsAreThoseDeclared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		run  func(in *step.Input)
		want string
	}{
		{"one that is missing", func(in *step.Input) { in.Output("read", "x") },
			`step "trial" breaks its own declaration: output "report" is declared, but was not set`},
		{"one that is not declared", func(in *step.Input) { in.Output("read", "x"); in.OutputFile("report", nil); in.Output("raed", "x") },
			`step "trial" breaks its own declaration: output "raed" is not declared`},
		{"an artifact set as a parameter", func(in *step.Input) { in.Output("read", "x"); in.OutputFile("report", nil); in.Output("report", "x") },
			`step "trial" breaks its own declaration: output "report" is not declared`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := steptest.Run(t, trial(func(_ context.Context, in *step.Input) error {
				c.run(in)
				return in.Validate()
			}), map[string]string{"needed": "n"})
			if r.Code != 1 || r.Message != c.want {
				t.Errorf("exit code %d and message %q, want 1 and %q", r.Code, r.Message, c.want)
			}
			if len(r.Outputs)+len(r.Files) > 0 {
				t.Errorf("outputs %v after a failure", r.Outputs)
			}
		})
	}
}

func TestAStepThatSkipsValidationFails(t *testing.T) {
	t.Parallel()
	r := steptest.Run(t, trial(func(_ context.Context, in *step.Input) error {
		in.Output("read", "x")
		in.OutputFile("report", nil)
		return nil
	}), nil)
	if want := `step "trial" breaks its own declaration: the settings were not validated before the work`; r.Code != 1 || r.Message != want {
		t.Errorf("exit code %d and message %q, want 1 and %q", r.Code, r.Message, want)
	}
}

func TestReadingAFlagOtherwiseThanDeclaredIsReported(t *testing.T) {
	t.Parallel()
	r := steptest.Run(t, trial(func(_ context.Context, in *step.Input) error {
		_, _ = in.String("txet"), in.Int("text")
		return in.Validate()
	}), map[string]string{"needed": "n"})
	want := `2 settings are not valid:
- step "trial" reads the flag --txet, which it does not declare
- step "trial" reads the flag --text as integer, but it is declared as string`
	if r.Message != want {
		t.Errorf("message %q, want %q", r.Message, want)
	}
}

func TestAnEarlierAttemptsOutputsAreRemovedFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"read", "report.html", "of-another-step"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("stale"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := steptest.Run(t, trial(echo), map[string]string{"output-dir": dir}) // fails: needed is not set
	if r.Code != 2 || len(r.Outputs)+len(r.Files) > 0 {
		t.Errorf("exit code %d and outputs %v, want 2 and none", r.Code, r.Outputs)
	}
	if _, err := os.Stat(filepath.Join(dir, "of-another-step")); err != nil {
		t.Errorf("a file that is no output of the step is gone: %v", err)
	}
}

func TestProgressAndTempDir(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "progress")
	spec := trial(func(ctx context.Context, in *step.Input) error {
		in.Progress(1, 3)
		in.Progress(2, 3) // too soon: written at the end
		if got := in.TempDir(); got != os.TempDir() {
			t.Errorf("TempDir() = %q, want the system's", got)
		}
		return echo(ctx, in)
	})
	r := steptest.Run(t, spec, map[string]string{"needed": "n"}, steptest.Env(map[string]string{"ARGO_PROGRESS_FILE": path}))
	if content, err := os.ReadFile(path); r.Code != 0 || string(content) != "2/3\n" {
		t.Errorf("exit code %d and progress %q (%v), want 0 and 2/3", r.Code, content, err)
	}
	spec = trial(func(ctx context.Context, in *step.Input) error {
		if got := in.TempDir(); got != "/scratch" {
			t.Errorf("TempDir() = %q, want --work-dir", got)
		}
		return echo(ctx, in)
	})
	spec.Flags = append(spec.Flags, step.Flag{Name: "work-dir", Usage: "temporary files"})
	steptest.Run(t, spec, map[string]string{"needed": "n", "work-dir": "/scratch"})
}

func TestHelpIsAllThatGoesToStdout(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"-h"}, {"--needed=x", "--help"}} {
		var stdout, stderr strings.Builder
		code := step.Execute(trial(echo), step.Env{
			Args: args, Stdout: &stdout, Stderr: &stderr,
			LookupEnv: func(string) (string, bool) { return "", false },
		})
		if code != 0 || stderr.Len() > 0 {
			t.Errorf("%v: exit code %d and stderr %q, want 0 and none", args, code, stderr.String())
		}
		for _, want := range []string{"trial - tries the shell", "--count value", "(1 to 10) (default: 3) [$INSITU_COUNT]", "INSITU_PASS_PHRASE  a secret", "report.html", "# Try it", "--timeout"} {
			if !strings.Contains(stdout.String(), want) {
				t.Errorf("%v: the help lacks %q:\n%s", args, want, stdout.String())
			}
		}
		if strings.Contains(stdout.String(), "--pass-phrase") {
			t.Errorf("the help offers a flag for a secret:\n%s", stdout.String())
		}
	}
}

func TestEveryLogLineIsKept(t *testing.T) {
	t.Parallel()
	r := steptest.Run(t, trial(func(ctx context.Context, in *step.Input) error {
		for range 500 {
			in.Log.Info("the same text")
		}
		in.Log.Debug("not asked for")
		return echo(ctx, in)
	}), map[string]string{"needed": "n"})
	if got := strings.Count(r.Stderr, "the same text"); got != 500 {
		t.Errorf("%d of 500 lines in the log: it is sampled", got)
	}
	if strings.Contains(r.Stderr, "not asked for") {
		t.Error("debug lines are logged at level info")
	}
	for _, key := range []string{"time", "level", "msg", "step"} {
		if _, ok := r.Log[0][key]; !ok {
			t.Errorf("the log entry %v lacks %q", r.Log[0], key)
		}
	}
}

func TestDeclarationsAreChecked(t *testing.T) {
	t.Parallel()
	spec := step.Spec{
		Name: "wrong",
		Flags: []step.Flag{
			{Name: "a", Usage: "a", Kind: step.Int, Default: "x"},
			{Name: "a", Usage: "a"},
			{Name: "Loud", Usage: "a"},
			{Name: "key-file", Usage: "a"},
			{Name: "mute"},
			{Name: "timeout", Usage: "taken"},
			{Name: "open", Usage: "a", Secret: true, Default: "x"},
			{Name: "host", Usage: "a", Binding: &step.BindingFile{Binding: "db", File: "host"}},
		},
		Outputs: []step.Output{{Name: "x"}, {Name: "y", File: "x"}, {Name: "z", File: "../z"}},
	}
	err := spec.Check()
	if err == nil {
		t.Fatal("no error")
	}
	want := `declaration of step "wrong": default of flag "a": "x" is not valid, expected a decimal integer, such as 10
flag "a" is declared twice
flag "Loud": expected a kebab-case name other than help
flag "key-file": its variable would be taken for the _FILE variant of another
flag "mute" has no usage text
flag "open": a secret cannot have a default
flag "host" falls back to the binding "db", but there is no flag "db-binding"
flag "timeout" is declared twice
output "y": expected one kebab-case name and a file name of its own
output "z": expected one kebab-case name and a file name of its own
there is nothing to run`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}
