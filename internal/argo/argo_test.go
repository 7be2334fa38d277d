package argo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestWriteOutputsWritesEveryFileAndLeavesNoOther(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "on the way")
	want := map[string][]byte{"rows": []byte("1797"), "report.html": []byte("<p>"), "empty": {}}
	if err := WriteOutputs(dir, want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Error(diff)
	}
	if err := WriteOutputs(dir, map[string][]byte{"rows": []byte("2")}); err != nil {
		t.Fatalf("write over an earlier output: %v", err)
	}
	if got := string(files(t, dir)["rows"]); got != "2" {
		t.Errorf("rows = %q, want 2", got)
	}
}

func TestWriteOutputsLeavesNothingWhenOneCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "rows", "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := WriteOutputs(dir, map[string][]byte{"a": []byte("1"), "b": []byte("2"), "rows": []byte("3"), "y": nil, "z": nil})
	if err == nil || !strings.Contains(err.Error(), `"rows"`) {
		t.Fatalf("error %v, want one that names the output", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "rows")); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestRemoveOutputsTakesAwayWhatAKilledAttemptLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"rows", ".rows.12345", ".report.html.99", "rows-of-another", ".other.1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveOutputs(dir, []string{"rows", "report.html", "never written"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]byte{"rows-of-another": {}, ".other.1": {}}, files(t, dir)); diff != "" {
		t.Error(diff)
	}
	if err := RemoveOutputs(filepath.Join(dir, "not there"), []string{"rows"}); err != nil {
		t.Errorf("without the directory: %v", err)
	}
}

func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = content
	}
	return got
}

func TestProgress(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "progress")
	read := func() string {
		t.Helper()
		content, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(content)
	}
	p := NewProgress(path)
	for _, step := range []struct {
		name        string
		done, total int64
		want        string
	}{
		{"a total of zero, which Argo refuses, is dropped", 0, 0, ""},
		{"the first report is written at once", 1, 10, "1/10\n"},
		{"a report soon after it waits", 2, 10, "1/10\n"},
		{"the end does not wait", 10, 10, "10/10\n"},
		{"more than the total is clamped to it", 11, 10, "10/10\n"},
		{"less than nothing waits too", -1, 10, "10/10\n"},
	} {
		p.Report(step.done, step.total)
		if got := read(); got != step.want {
			t.Errorf("%s: file holds %q, want %q", step.name, got, step.want)
		}
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "0/10\n" {
		t.Errorf("after Flush the file holds %q, want the last report, clamped", got)
	}
}

func TestProgressThatCannotBeWrittenIsReportedOnceAtTheEnd(t *testing.T) {
	t.Parallel()
	p := NewProgress(filepath.Join(t.TempDir(), "no such directory", "progress"))
	p.Report(1, 1)
	if err := p.Flush(); err == nil || !strings.HasPrefix(err.Error(), "write progress: ") {
		t.Errorf("error %v, want one that says what was being done", err)
	}
	nowhere := NewProgress("")
	nowhere.Report(1, 2)
	if err := nowhere.Flush(); err != nil {
		t.Errorf("progress without a file: %v, want no error", err)
	}
}

func TestTerminationMessage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "termination-log")
	if err := WriteTerminationMessage(path, "text", false); err != nil {
		t.Errorf("a file that is not there: %v, want it skipped", err)
	}
	if err := WriteTerminationMessage(path, strings.Repeat("long ", 2000), true); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != TerminationMessageBytes {
		t.Errorf("file of %v bytes (%v), want %d", info.Size(), err, TerminationMessageBytes)
	}
	if err := WriteTerminationMessage(path, "short", false); err != nil {
		t.Fatal(err)
	}
	if content, _ := os.ReadFile(path); string(content) != "short" {
		t.Errorf("file holds %q, want nothing of the longer text before", content)
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		limit      int
		want       string
	}{
		{"a text that fits stays", "größe", 7, "größe"},
		{"a rune is not cut in two", "größe", 3, "gr"},
		{"a limit between runes is used up", "größe", 4, "grö"},
		{"a limit of zero leaves nothing", "é", 0, ""},
		{"bytes that are no text are replaced", "a\xffb", 9, "a\uFFFDb"},
	} {
		if got := Cut(c.text, c.limit); got != c.want || !utf8.ValidString(got) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
