package localrun

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is one command to run.
type process struct {
	path      string
	args, env []string
	dir       string
	out       io.Writer // stdout and stderr
	grace     time.Duration
	kill      <-chan struct{}
}

// run starts the command in a process group of its own, so that a Ctrl-C at the terminal reaches it through
// localrun only, and returns its exit code (128 + n if signal n ended it).
// A cancelled context sends SIGTERM; after grace, or when kill is closed, the whole group is killed.
func (p process) run(ctx context.Context) (int, error) {
	// The kernel ties the parent-death signal to the thread that forked: keep it until the command ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	cmd.Env, cmd.Dir = p.env, p.dir
	cmd.Stdout, cmd.Stderr = p.out, p.out // one writer: exec then uses one pipe, so lines stay whole and in order
	cmd.SysProcAttr = processAttributes()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = p.grace
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	go func() {
		select {
		case <-p.kill:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		case <-ended:
		}
	}()
	err := cmd.Wait()
	close(ended)
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		return 0, err
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
