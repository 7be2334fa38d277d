package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/newapp"
)

// initialise runs insitu init and returns its exit code and what it printed.
func initialise(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errors bytes.Buffer
	code = execute(t.Context(), nil, append([]string{"insitu", "init"}, args...), &out, &errors)
	return code, out.String(), errors.String()
}

func TestEveryOptionOfANewAppIsAFlag(t *testing.T) {
	t.Parallel()
	var want, got []string
	for _, o := range newapp.Options() {
		want = append(want, o.Name)
	}
	for _, f := range initCommand().Flags {
		if name := f.Names()[0]; !slices.Contains([]string{"format", "force", "yes"}, name) {
			got = append(got, name)
		}
		if d, ok := f.(cli.DocGenerationFlag); !ok || d.GetUsage() == "" {
			t.Errorf("--%s is not explained", f.Names()[0])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flags (-options +flags):\n%s", diff)
	}
}

func TestInitTwiceSaysThatThereIsNothingToDo(t *testing.T) {
	t.Parallel()
	for format, file := range map[string]string{"app": "insitu.yaml", "backstage": "template.yaml", "accelerator": "accelerator.yaml"} {
		dir := filepath.Join(t.TempDir(), "my-app")
		for _, want := range []string{" 0 overwritten, 0 as they should be", "nothing to do"} {
			code, stdout, stderr := initialise(t, dir, "--format", format, "--learner", "boosting")
			if code != 0 || !strings.Contains(stdout, want) || stderr != "" {
				t.Errorf("%s: exit code %d, expected 0 and %q\n%s%s", format, code, want, stdout, stderr)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Errorf("%s: %v", format, err)
		}
	}
}

func TestInitRefusesWhatItCannotWrite(t *testing.T) {
	t.Parallel()
	edited := filepath.Join(t.TempDir(), "my-app")
	if err := os.MkdirAll(edited, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(edited, "learner.py"), []byte("# mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no name":                    {nil, "has no name: expected a folder"},
		"a folder that is no name":   {[]string{filepath.Join(t.TempDir(), "My App")}, `name "My App": expected up to 40 lower-case letters`},
		"a learner there is not":     {[]string{"x", "--learner", "svm"}, `learner "svm": expected one of cnn, softmax,`},
		"two folders":                {[]string{"x", "y"}, "expected one folder"},
		"another format":             {[]string{"x", "--format", "helm"}, `--format "helm": expected app, backstage or accelerator`},
		"a template without folder":  {[]string{"--format", "backstage"}, "expected the folder that the template is written to"},
		"a template with a name":     {[]string{"x", "--format", "accelerator", "--name", "y"}, "a template has no name to choose"},
		"a file with other content":  {[]string{edited}, "learner.py is there with other content"},
		"two mistakes, both of them": {[]string{"x", "--stage", "a b", "--branch", "a b"}, `stage "a b"`},
	} {
		code, stdout, stderr := initialise(t, test.args...)
		if code != exitConfiguration || stdout != "" || !strings.Contains(stderr, test.want) {
			t.Errorf("%s: exit code %d, expected 2 and %q\n%s%s", name, code, test.want, stdout, stderr)
		}
	}
	if code, stdout, stderr := initialise(t, edited, "--force"); code != 0 || !strings.Contains(stdout, "overwritten  learner.py") {
		t.Errorf("with --force: exit code %d\n%s%s", code, stdout, stderr)
	}
}

func TestQuestionsAreAskedUntilTheAnswerWillDo(t *testing.T) {
	t.Parallel()
	values := newapp.Values{"repository": "https://git.example.com/team/app", "stage": "production"}
	answers := strings.Join([]string{
		"My App", "my-app", // name: refused, then taken
		"5",    // learner: the number of a choice
		"", "", // dataset, owner: defaults
		"", "", // branch, App
		"7", "1", "", "my_app", // workflow: no such number, then one; experiment, schema
		"required", "", "", // approval by its name; bindings
	}, "\n") + "\n"
	var out bytes.Buffer
	if err := ask(strings.NewReader(answers), &out, values); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	want := newapp.Values{
		"name": "my-app", "learner": "boosting", "dataset": "", "owner": "guests", "repository": "https://git.example.com/team/app", "branch": "main", "app-name": "",
		"workflow": "in-database-pipeline", "experiment": "", "schema": "my_app", "stage": "production", "approval": "required",
		"training-binding": "greenplum/vmware", "inference-binding": "postgres/vmware",
	}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Errorf("(-expected +answered):\n%s", diff)
	}
	for _, line := range []string{"The ML app", `name "My App": expected up to 40`, "5  boosting", "[main]"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("it does not say %q:\n%s", line, &out)
		}
	}
	if strings.Contains(out.String(), "Repository:") {
		t.Error("it asks for what a flag said")
	}
	out.Reset()
	if err := ask(strings.NewReader(answers), &out, newapp.Values{"name": "My App"}); err == nil || !strings.Contains(err.Error(), `name "My App"`) || out.Len() > 0 {
		t.Errorf("a wrong flag: %v after\n%s", err, &out)
	}
	if err := ask(io.LimitReader(strings.NewReader(answers), 5), io.Discard, newapp.Values{}); err == nil || !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("answers that end early: %v", err)
	}
}
