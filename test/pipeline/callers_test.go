package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// caller runs programs of examples/callers as a role that may predict and nothing else.
type caller struct {
	python string
	env    []string
}

func newCaller(t *testing.T, p *project) caller {
	t.Helper()
	config, role := testenv.Inference(t), "caller_"+p.name
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := p.inference.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec("create role " + postgres.Ident(role) + " login password 'it''s secret'")
	t.Cleanup(func() { // before the project's schema goes and the connection is closed
		ctx := context.WithoutCancel(t.Context())
		_, _ = p.inference.Exec(ctx, "drop owned by "+postgres.Ident(role))
		if _, err := p.inference.Exec(ctx, "drop role "+postgres.Ident(role)); err != nil {
			t.Error(err)
		}
	})
	exec("select "+postgres.Ident(p.name, "grant_inference")+"($1)", role)
	table := postgres.Ident(p.name, "Some pictures")
	exec("create table " + table + ` (number int, "the image" bytea)`)
	exec("grant select on " + table + " to " + postgres.Ident(role))
	return caller{os.Getenv("INSITU_TEST_CALLERS_PYTHON"), []string{
		"PATH=" + os.Getenv("PATH"), "PYTHONDONTWRITEBYTECODE=1", "PGHOST=" + config.Host, "PGPORT=" + strconv.Itoa(config.Port), "PGDATABASE=" + config.Database,
		"PGUSER=" + role, "PGPASSWORD=it's secret", "PGSSLMODE=disable",
	}}
}

// answer is a line that the programs print.
type answer struct {
	File  string `json:"file,omitempty"`
	ID    int    `json:"id,omitempty"`
	Label string `json:"label,omitempty"`
	Error string `json:"error,omitempty"`

	Probabilities map[string]float64 `json:"probabilities"`
	Model         string             `json:"model_name"`
	Version       int                `json:"model_version"`
}

// run returns the printed lines, what was said on standard error, and the exit code.
func (c caller) run(t *testing.T, program string, args ...string) (answers []answer, said string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.python, append([]string{filepath.Join(root, "examples", "callers", program)}, args...)...)
	var errs bytes.Buffer
	cmd.Env, cmd.Stderr = c.env, &errs
	out, err := cmd.Output()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var a answer
		if err := decoder.Decode(&a); err != nil {
			t.Fatalf("%s printed %q: %v", program, out, err)
		}
		answers = append(answers, a)
	}
	return answers, errs.String(), cmd.ProcessState.ExitCode()
}

func TestTheExamplesOfCallersPredictAsSQLDoes(t *testing.T) {
	t.Parallel()
	if os.Getenv("INSITU_TEST_CALLERS_PYTHON") == "" {
		t.Skip("needs a Python with requirements/callers.txt: INSITU_TEST_CALLERS_PYTHON is not set (make test sets it)")
	}
	p := newProject(t, "digits")
	p.succeed(t, "-p", "epochs=2")
	c := newCaller(t, p)

	folder := t.TempDir()
	images := map[string][]byte{"grey.png": grey(t, 100), "light.png": grey(t, 240), "dark.png": grey(t, 10), "raw": bytes.Repeat([]byte{1, 0, 16, 7}, 16)}
	want := map[string]string{}
	number := 0
	for name, content := range images {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
		var label string
		if err := p.inference.QueryRow(t.Context(), "select "+postgres.Ident(p.name, "run_inference_task")+"($1)", content).Scan(&label); err != nil {
			t.Fatal(err)
		}
		number++
		want[name], want[strconv.Itoa(number)] = label, label
		if _, err := p.inference.Exec(t.Context(), "insert into "+postgres.Ident(p.name, "Some pictures")+" values ($1, $2)", number, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "text.png"), []byte("no image"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(what string, got []answer, of ...string) {
		t.Helper()
		if len(got) != len(of) {
			t.Fatalf("%s: %d answers, expected %d: %+v", what, len(got), len(of), got)
		}
		for i, name := range of {
			a := got[i]
			if a.Label != want[name] || a.Probabilities[a.Label] <= 0.1 || len(a.Probabilities) != 10 || a.Model != p.name || a.Version != 1 || a.Error != "" {
				t.Errorf("%s: %s is %+v, expected %q by %s version 1", what, name, a, want[name], p.name)
			}
		}
	}
	file := func(name string) string { return filepath.Join(folder, name) }
	const psycopg, greenplum = "psycopg_predict.py", "greenplumpython_predict.py"
	table := []string{"--schema", p.name, "--table-schema", p.name, "--table", "Some pictures", "--id", "number", "--column", "the image"}

	got, said, code := c.run(t, psycopg, "--schema", p.name, "--batch", "3", file("grey.png"), file("light.png"), file("dark.png"), file("raw"))
	if code != 0 || said != "" {
		t.Errorf("%s: exit code %d: %s", psycopg, code, said)
	}
	check(psycopg, got, "grey.png", "light.png", "dark.png", "raw")

	got, _, code = c.run(t, psycopg, "--schema", p.name, file("grey.png"), file("text.png"), file("raw"))
	if code != 1 || len(got) != 3 || !strings.HasPrefix(got[1].Error, "is no image (IS001): ") || got[1].Label != "" {
		t.Fatalf("%s with a file of text: exit code %d, %+v", psycopg, code, got)
	}
	check(psycopg, []answer{got[0], got[2]}, "grey.png", "raw")

	got, said, code = c.run(t, greenplum, table...)
	if code != 0 || said != "" {
		t.Errorf("%s: exit code %d: %s", greenplum, code, said)
	}
	check(greenplum, got, "1", "2", "3", "4")

	for name, x := range map[string]struct {
		program string
		args    []string
		code    int
		said    string
	}{
		"psycopg, no such file":                   {psycopg, []string{"--schema", p.name, file("missing")}, 2, "No such file"},
		"psycopg, no such schema":                 {psycopg, []string{"--schema", "nobody's", file("raw")}, 2, `"nobody's" does not exist`},
		"psycopg, no server":                      {psycopg, []string{"--schema", p.name, "--port", "1", file("raw")}, 75, "refused"},
		"GreenplumPython, no such column":         {greenplum, append(table, "--column", "x"), 2, "42703"},
		"GreenplumPython, a name that ends early": {greenplum, append(table, "--column", `x" from pg_authid; --`), 2, "expected a name without double quotes"},
		"GreenplumPython, no server":              {greenplum, append(table, "--port", "1"), 75, "refused"},
	} {
		if got, said, code := c.run(t, x.program, x.args...); code != x.code || !strings.Contains(said, x.said) || len(got) > 0 {
			t.Errorf("%s: exit code %d, expected %d and %q\n%s%v", name, code, x.code, x.said, said, got)
		}
	}
	for _, program := range []string{psycopg, greenplum} {
		out, err := exec.CommandContext(t.Context(), c.python, filepath.Join(root, "examples", "callers", program), "--help").Output()
		if err != nil || !strings.Contains(string(out), "--schema") {
			t.Errorf("%s --help: %v\n%s", program, err, out)
		}
	}

	if _, err := p.inference.Exec(t.Context(), "insert into "+postgres.Ident(p.name, "Some pictures")+" values (5, 'no image')"); err != nil {
		t.Fatal(err)
	}
	if _, said, code := c.run(t, greenplum, table...); code != 1 || !strings.Contains(said, "IS001") {
		t.Errorf("%s with a row of text: exit code %d\n%s", greenplum, code, said)
	}
	if _, err := p.inference.Exec(t.Context(), "truncate "+postgres.Ident(p.name, "activations")); err != nil {
		t.Fatal(err)
	}
	for program, args := range map[string][]string{psycopg: {"--schema", p.name, file("raw")}, greenplum: table} {
		if _, said, code := c.run(t, program, args...); code != 75 || !strings.Contains(said, "IS003") {
			t.Errorf("%s without an active model: exit code %d\n%s", program, code, said)
		}
	}
}

// grey is a picture of one shade.
func grey(t *testing.T, shade uint8) []byte {
	t.Helper()
	picture := image.NewGray(image.Rect(0, 0, 8, 8))
	for i := range picture.Pix {
		picture.SetGray(i%8, i/8, color.Gray{shade})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, picture); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
