package localrun

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

// attempt is how one start of a command ended.
type attempt struct {
	code    int
	seconds float64
	message string
	stopped bool // by localrun: the command did not end by itself
}

// text is the message as Argo words it, which retry expressions may look at.
func (a attempt) text() string {
	if a.stopped {
		return a.message
	}
	return failedText(a.code, a.message)
}

// failedText is what Argo says of a container that failed.
func failedText(code int, message string) string {
	text := fmt.Sprintf("main: Error (exit code %d)", code)
	if message != "" {
		text += ": " + message
	}
	return text
}

// maxOutput bounds an output parameter, as Argo does (256 KiB).
const maxOutput = 256 << 10

// container runs a task's command until it succeeds or its retry strategy gives up.
// written is the template before substitution, t after it.
func (r *run) container(ctx context.Context, task string, written, t *wfv1.Template, arts map[string]artifact) node {
	began := time.Now()
	dir, err := r.taskDir(task)
	if err != nil {
		return r.broken(task, fmt.Errorf("task %q: %w", task, err))
	}
	for tries := 1; ; tries++ {
		r.change(task, func(s *Step) {
			s.Status, s.Attempts, s.Command = Running, tries, path.Base(t.Container.Command[0])
		})
		a, outputs, artifacts, err := r.attempt(ctx, task, dir, tries, written, t, arts)
		if err == nil && a.code == 0 {
			files := map[string]string{}
			for name, a := range artifacts {
				files[name] = a.file
			}
			r.change(task, func(s *Step) {
				s.Status, s.Seconds, s.Message = Succeeded, time.Since(began).Seconds(), ""
				s.Outputs, s.Artifacts = stringOutputs(outputs), files
			})
			return node{status: Succeeded, outputs: outputs, artifacts: artifacts}
		}
		if err != nil {
			return r.broken(task, fmt.Errorf("task %q: %w", task, err))
		}
		wait, again, err := retry(t.RetryStrategy, tries, time.Since(began), a)
		if err != nil {
			return r.broken(task, fmt.Errorf("task %q: %w", task, err))
		}
		if again && ctx.Err() == nil {
			r.tell(Event{Task: task, Line: fmt.Sprintf("exit code %d (%s): trying again in %s", a.code, a.message, wait.Round(time.Millisecond))})
			select {
			case <-ctx.Done():
			case <-time.After(wait):
				continue
			}
		}
		n := node{status: Failed, outputs: map[string]any{}}
		for _, p := range t.Outputs.Parameters { // later tasks may look at a failed task's outputs
			n.outputs[p.Name] = nil
			if p.ValueFrom.Default != nil {
				n.outputs[p.Name] = p.ValueFrom.Default.String()
			}
		}
		r.change(task, func(s *Step) {
			s.Status, s.Seconds, s.ExitCode, s.Message = Failed, time.Since(began).Seconds(), a.code, a.message
		})
		return n
	}
}

// retry decides what follows a failed attempt: how long to wait before the next, if there is one.
func retry(s *wfv1.RetryStrategy, tries int, since time.Duration, last attempt) (time.Duration, bool, error) {
	if s == nil {
		return 0, false, nil
	}
	switch s.RetryPolicyActual() {
	case wfv1.RetryPolicyAlways, wfv1.RetryPolicyOnFailure:
	default: // OnError and OnTransientError are about pods that could not run: there are none here
		return 0, false, nil
	}
	if s.Limit != nil {
		limit, err := strconv.Atoi(s.Limit.String())
		if err != nil {
			return 0, false, fmt.Errorf("retryStrategy.limit: %w", err)
		}
		if tries > limit {
			return 0, false, nil
		}
	}
	if s.Expression != "" {
		again, err := evaluateRetry(s.Expression, tries-1, last)
		if err != nil || !again {
			return 0, false, err
		}
	}
	var wait time.Duration
	if b := s.Backoff; b != nil && b.Duration != "" {
		var err error
		if wait, err = wfv1.ParseStringToDuration(b.Duration); err != nil {
			return 0, false, err
		}
		if b.Factor != nil {
			factor, err := strconv.ParseFloat(b.Factor.String(), 64)
			if err != nil {
				return 0, false, fmt.Errorf("retryStrategy.backoff.factor: %w", err)
			}
			wait = time.Duration(math.Min(float64(wait)*math.Pow(factor, float64(tries-1)), float64(math.MaxInt64/2)))
		}
		if limit, err := wfv1.ParseStringToDuration(b.Cap); b.Cap != "" && err == nil {
			wait = min(wait, limit)
		}
		if limit, err := wfv1.ParseStringToDuration(b.MaxDuration); b.MaxDuration != "" && err == nil && since+wait > limit {
			return 0, false, nil
		}
	}
	return wait, true, nil
}

// attempt starts the command once. An error is localrun's own; a failed command is an attempt with a code.
func (r *run) attempt(ctx context.Context, task, dir string, tries int, written, t *wfv1.Template, arts map[string]artifact) (attempt, map[string]any, map[string]artifact, error) {
	scratch, err := filepath.Abs(filepath.Join(dir, "sandbox-"+strconv.Itoa(tries)))
	if err != nil {
		return attempt{}, nil, nil, err
	}
	box, err := newSandbox(scratch, written, r.o.Mounts, arts)
	if err != nil {
		return attempt{}, nil, nil, err
	}
	defer os.RemoveAll(scratch)
	for _, in := range t.Inputs.Artifacts {
		found, ok := arts[in.Name]
		if !ok {
			continue // optional, or from a task that was skipped
		}
		if err := r.o.Artifacts.Get(ctx, found.key, box.here(in.Path)); err != nil {
			return attempt{}, nil, nil, fmt.Errorf("get artifact %q: %w", in.Name, err)
		}
	}
	a, err := r.execute(ctx, task, dir, box, written, t)
	if err != nil || a.code != 0 {
		return a, nil, nil, err
	}
	outputs, err := readOutputs(box, t)
	if err != nil {
		return attempt{code: 1, message: err.Error()}, nil, nil, nil
	}
	artifacts, err := r.saveArtifacts(ctx, task, dir, box, t)
	if err != nil {
		return attempt{}, nil, nil, err
	}
	return a, outputs, artifacts, nil
}

func (r *run) execute(ctx context.Context, task, dir string, box *sandbox, written, t *wfv1.Template) (attempt, error) {
	if t.ActiveDeadlineSeconds != nil {
		seconds, err := strconv.Atoi(t.ActiveDeadlineSeconds.String())
		if err != nil {
			return attempt{}, fmt.Errorf("activeDeadlineSeconds: %w", err)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(seconds)*time.Second, fmt.Errorf("the template's activeDeadlineSeconds (%d) are over", seconds))
		defer cancel()
	}
	command, err := r.lookup(t.Container.Command[0])
	if err != nil {
		return attempt{}, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return attempt{}, err
	}
	defer log.Close()
	lines := &lineWriter{log: log, line: func(line []byte) string { return r.logLine(task, line) }}
	args := append(append([]string{}, t.Container.Command[1:]...), t.Container.Args...)
	writtenArgs := append(append([]string{}, written.Container.Command[1:]...), written.Container.Args...)
	p := process{
		path: command, args: box.words(args, writtenArgs), env: box.env(r.o.Env, t, written), dir: box.dir,
		out: lines, grace: r.o.Grace, kill: r.o.Kill,
	}
	if p.grace == 0 {
		p.grace = 30 * time.Second
	}
	watched, stop := context.WithCancel(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		r.watchProgress(watched, task, box.progress())
	}()
	began := time.Now()
	code, err := p.run(ctx)
	stop()
	<-gone
	lines.flush()
	if err != nil {
		return attempt{}, fmt.Errorf("start %s: %w", command, err)
	}
	a := attempt{code: code, seconds: time.Since(began).Seconds(), message: lines.failure}
	if ctx.Err() != nil {
		a.message, a.stopped = context.Cause(ctx).Error(), true
		if errors.Is(context.Cause(ctx), context.Canceled) {
			a.message = "stopped"
		}
		if a.code == 0 { // it ended well before it noticed
			a.message = ""
		}
	} else if a.code != 0 && a.message == "" {
		a.message = fmt.Sprintf("%s ended with exit code %d and no error in its log %s", filepath.Base(command), a.code, log.Name())
	}
	return a, nil
}

// logLine passes a line of a command's log on. It returns the failure the line reports, if any.
func (r *run) logLine(task string, line []byte) string {
	var fields map[string]any
	if len(line) == 0 {
		return ""
	}
	if line[0] != '{' || json.Unmarshal(line, &fields) != nil {
		r.tell(Event{Task: task, Line: string(line)})
		return ""
	}
	r.tell(Event{Task: task, Log: fields})
	if level, _ := fields["level"].(string); level != "error" && level != "fatal" && level != "dpanic" && level != "panic" {
		return ""
	}
	if text, ok := fields["error"].(string); ok {
		return text
	}
	text, _ := fields["msg"].(string)
	return text
}

// watchProgress reads "done/total" whenever the command rewrites its progress file.
func (r *run) watchProgress(ctx context.Context, task, file string) {
	last := ""
	read := func() {
		content, err := os.ReadFile(file)
		if err != nil || string(content) == last {
			return
		}
		last = string(content)
		done, total, ok := strings.Cut(strings.TrimSpace(last), "/")
		d, err1 := strconv.ParseInt(done, 10, 64)
		n, err2 := strconv.ParseInt(total, 10, 64)
		if ok && err1 == nil && err2 == nil && n > 0 {
			r.tell(Event{Task: task, Done: d, Total: n})
		}
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			read()
			return
		case <-tick.C:
			read()
		}
	}
}

func readOutputs(box *sandbox, t *wfv1.Template) (map[string]any, error) {
	out := map[string]any{}
	for _, p := range t.Outputs.Parameters {
		content, err := readLimited(box.here(p.ValueFrom.Path))
		switch {
		case err == nil:
			out[p.Name] = strings.TrimSuffix(string(content), "\n")
		case errors.Is(err, fs.ErrNotExist) && p.ValueFrom.Default != nil:
			out[p.Name] = p.ValueFrom.Default.String()
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("the command wrote no %s for output parameter %q", p.ValueFrom.Path, p.Name)
		default:
			return nil, fmt.Errorf("output parameter %q: %w", p.Name, err)
		}
	}
	return out, nil
}

func readLimited(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxOutput+1))
	if err == nil && len(content) > maxOutput {
		err = fmt.Errorf("longer than %d bytes", maxOutput)
	}
	return content, err
}

// saveArtifacts stores what the command left and keeps a copy in the task's directory.
func (r *run) saveArtifacts(ctx context.Context, task, dir string, box *sandbox, t *wfv1.Template) (map[string]artifact, error) {
	out := map[string]artifact{}
	for _, a := range t.Outputs.Artifacts {
		from := box.here(a.Path)
		info, err := os.Stat(from)
		if errors.Is(err, fs.ErrNotExist) && a.Optional {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("artifact %q: the command wrote no %s", a.Name, a.Path)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("artifact %q: %s is no regular file", a.Name, a.Path)
		}
		saved := artifact{key: path.Join("artifacts", r.o.Name, r.folder(task), path.Base(a.Path)), file: filepath.Join(dir, path.Base(a.Path))}
		if err := copyFile(saved.file, from); err != nil {
			return nil, fmt.Errorf("artifact %q: %w", a.Name, err)
		}
		if err := r.o.Artifacts.Put(ctx, saved.key, saved.file); err != nil {
			return nil, fmt.Errorf("artifact %q: %w", a.Name, err)
		}
		out[a.Name] = saved
	}
	return out, nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// lineWriter splits what a command writes into lines, keeps them in a file and hands each on.
type lineWriter struct {
	log     io.Writer
	line    func([]byte) string // returns a failure the line reports
	failure string              // the last one
	rest    []byte
}

// maxLine bounds a line that is handed on; longer ones are cut into several.
const maxLine = 1 << 20

func (w *lineWriter) Write(p []byte) (int, error) {
	if _, err := w.log.Write(p); err != nil {
		return 0, err
	}
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			if len(w.rest) < maxLine {
				return len(p), nil
			}
			i = len(w.rest) - 1
		}
		w.take(w.rest[:i])
		w.rest = w.rest[i+1:]
	}
}

func (w *lineWriter) take(line []byte) {
	if failure := w.line(bytes.TrimSuffix(line, []byte("\r"))); failure != "" {
		w.failure = failure
	}
}

func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.take(w.rest)
		w.rest = nil
	}
}
