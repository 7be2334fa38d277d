package step_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/step"
)

// programEnv makes the test binary behave as a step: signals and exit codes are those of a real process.
const programEnv = "STEP_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if kind := os.Getenv(programEnv); kind != "" {
		step.Main(program(kind))
	}
	os.Exit(m.Run())
}

func program(kind string) step.Spec {
	return trial(func(ctx context.Context, in *step.Input) error {
		if err := in.Validate(); err != nil {
			return err
		}
		in.Log.Info("ready")
		switch kind {
		case "waits":
			<-ctx.Done()
			return fmt.Errorf("train epoch 3: %w", ctx.Err())
		case "finishes":
			<-ctx.Done()
		case "ignores":
			time.Sleep(time.Minute)
		case "prints":
			fmt.Println("a library's words")
		case "panics":
			panic("index 7 of 3")
		}
		in.Output("read", "done")
		in.OutputFile("report", nil)
		return nil
	})
}

type process struct {
	*exec.Cmd
	stdout bytes.Buffer
	log    io.Reader
	dir    string
}

func start(t *testing.T, kind string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], "--needed=n"), dir: t.TempDir()}
	p.Env = []string{programEnv + "=" + kind, "INSITU_OUTPUT_DIR=" + p.dir, "INSITU_TERMINATION_LOG=" + filepath.Join(p.dir, "message")}
	p.Stdout = &p.stdout
	stderr, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill() })
	p.log = bufio.NewReader(stderr)
	return p
}

// until reads the log up to a line with the text.
func (p *process) until(t *testing.T, text string) {
	t.Helper()
	r := p.log.(*bufio.Reader)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("the log ended before %q: %v", text, err)
		}
		if strings.Contains(line, text) {
			return
		}
	}
}

func (p *process) wait(t *testing.T) (code int, log string) {
	t.Helper()
	rest, err := io.ReadAll(p.log)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return p.ProcessState.ExitCode(), string(rest)
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, kind string
		signals    []os.Signal
		code       int
		message    string
	}{
		{"SIGTERM cancels the work and exits with 143", "waits", []os.Signal{syscall.SIGTERM}, 143, `stopped by signal "terminated": train epoch 3: context canceled`},
		{"SIGINT cancels the work and exits with 130", "waits", []os.Signal{os.Interrupt}, 130, `stopped by signal "interrupt": train epoch 3: context canceled`},
		{"work that ends well despite the signal is done", "finishes", []os.Signal{syscall.SIGTERM}, 0, ""},
		{"a second signal exits at once", "ignores", []os.Signal{syscall.SIGTERM, os.Interrupt}, 130, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, c.kind)
			p.until(t, `"ready"`)
			for i, s := range c.signals {
				if err := p.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
				if i+1 < len(c.signals) {
					p.until(t, "a second signal exits at once")
				}
			}
			code, log := p.wait(t)
			if code != c.code {
				t.Errorf("exit code %d, want %d; the log ends with %s", code, c.code, log)
			}
			message, _ := os.ReadFile(filepath.Join(p.dir, "message"))
			if string(message) != c.message {
				t.Errorf("termination message %q, want %q", message, c.message)
			}
			if _, err := os.Stat(filepath.Join(p.dir, "read")); (err == nil) != (c.code == 0) {
				t.Errorf("outputs after exit code %d: %v", code, err)
			}
		})
	}
}

func TestStdoutStaysEmptyWhateverALibraryPrints(t *testing.T) {
	t.Parallel()
	p := start(t, "prints")
	code, log := p.wait(t)
	if code != 0 || p.stdout.Len() > 0 || !strings.Contains(log, "a library's words") {
		t.Errorf("exit code %d, stdout %q, stderr %q: want 0, nothing, and the words in the last", code, p.stdout.String(), log)
	}
}

func TestPanicExitsWithOne(t *testing.T) {
	t.Parallel()
	p := start(t, "panics")
	if code, log := p.wait(t); code != 1 || !strings.Contains(log, `"stack"`) {
		t.Errorf("exit code %d and log %s, want 1 and a stack", code, log)
	}
}
