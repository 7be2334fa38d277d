package localrun

import (
	"context"
	"errors"
	"io"
	"os"
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
	read, write, err := os.Pipe() // stdout and stderr share it: lines stay in order
	if err != nil {
		return 0, err
	}
	defer read.Close()
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	cmd.Env, cmd.Dir = p.env, p.dir
	cmd.Stdout, cmd.Stderr = write, write
	cmd.SysProcAttr = processAttributes()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = p.grace
	err = cmd.Start()
	_ = write.Close()
	if err != nil {
		return 0, err
	}
	copied, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(p.out, read)
	}()
	go func() {
		select {
		case <-p.kill:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		case <-ended:
		}
	}()
	err = cmd.Wait()
	close(ended)
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind in its group
	select {
	case <-copied:
	case <-time.After(2 * time.Second): // a daemon it left outside its group holds the pipe
		_ = read.Close()
		<-copied
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		return 0, err
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
