package main

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/step"
)

var update = flag.Bool("update", false, "write the golden files")

func spec() step.Spec {
	low, high := 1.0, 65535.0
	return step.Spec{
		Name:        "trial",
		Summary:     "Tries the pages",
		Description: "First sentence.\nSecond sentence.\n",
		Flags: []step.Flag{
			{Name: "schema", Usage: "where | what", Required: true},
			{Name: "mode", Usage: "how", Enum: []string{"fast", "slow"}, Default: "fast"},
			{Name: "db-binding", Usage: "which database", Category: "Database", Default: "postgres"},
			{Name: "db-port", Usage: "where it listens", Category: "Database", Kind: step.Int, Default: "5432", Min: &low, Max: &high, Binding: &step.BindingFile{Binding: "db", File: "port"}},
			{Name: "db-password", Usage: "what it asks for", Category: "Database", Secret: true, Required: true, Binding: &step.BindingFile{Binding: "db", File: "password"}},
		},
		Outputs:  []step.Output{{Name: "rows", Usage: "rows read"}, {Name: "report", File: "report.html", Usage: "a page"}},
		Examples: []step.Example{{Text: "Try it", Command: "trial --schema=x"}},
		Run:      func(context.Context, *step.Input) error { return nil },
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	golden := filepath.Join("testdata", "trial.md")
	got := page(spec())
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

func TestPagesOfFormerStepsGoAndHandWrittenOnesStay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{"former.md": marker + "\n", "README.md": "# By hand\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(dir, []step.Spec{spec()}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"README.md", "trial.md"}, names); diff != "" {
		t.Error(diff)
	}
}
