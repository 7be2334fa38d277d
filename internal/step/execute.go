package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/insitu-ml/insitu/internal/argo"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/lineage"
)

// Exit codes. Argo's own are 64 and 137; a Go runtime crash outside the step's goroutine exits with 2.
const (
	exitDone          = 0
	exitFailed        = 1
	exitConfiguration = 2
	exitTemporary     = 75  // EX_TEMPFAIL: what retryStrategy retries
	exitSignal        = 128 // plus the signal's number
)

// Env is what a step sees of its process.
type Env struct {
	Args      []string // without the program's name
	LookupEnv func(string) (string, bool)
	Stdout    io.Writer // --help only: Argo takes it for outputs.result
	Stderr    io.Writer // the log
	// Signals cancel the step's context; the second one calls Exit at once. May be nil.
	Signals <-chan os.Signal
	Exit    func(code int)
}

// Main runs the step in this process and exits with its code.
func Main(spec Spec) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	stdout := os.Stdout
	os.Stdout = os.Stderr // whatever a library prints must not become outputs.result
	os.Exit(Execute(spec, Env{
		Args:      os.Args[1:],
		LookupEnv: os.LookupEnv,
		Stdout:    stdout,
		Stderr:    os.Stderr,
		Signals:   signals,
		Exit:      os.Exit,
	}))
}

// Execute runs the step and returns the exit code: 0 done, 1 failed for good, 2 usage or configuration,
// 75 temporary (a retry may help; also when --timeout passed), 130 and 143 after SIGINT and SIGTERM.
//
// The error is logged once, and its text goes to the termination log.
// Outputs are written when the step ends well, and removed first, so that an earlier attempt's are not taken for them.
func Execute(spec Spec, env Env) int {
	started := time.Now()
	level := zap.NewAtomicLevel()
	red := &redactor{}
	log := newLogger(env.Stderr, level, red).With(zap.String("step", spec.Name))

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var signalled atomic.Int64
	defer watch(env, cancel, &signalled, log)()

	told := &catalogs{red: red, run: lineage.Run{Step: spec.Name, Summary: spec.Summary, Version: version(), Started: started}}
	defer told.close()
	help, err := spec.execute(ctx, env, log, level, red, told)
	if help {
		return exitDone
	}
	if err == nil {
		log.Info("step done", seconds(started))
		told.done()
		return exitDone
	}
	code := exitCode(err)
	if number := signalled.Load(); number != 0 {
		sig := syscall.Signal(number)
		err = fmt.Errorf("stopped by signal %q: %w", sig.String(), err)
		code = exitSignal + int(number)
	}
	text := red.text(err.Error())
	fields := []zap.Field{zap.String("error", text), zap.Int("exit_code", code), seconds(started)}
	if p := (*panicked)(nil); errors.As(err, &p) {
		fields = append(fields, zap.String("stack", p.stack))
	}
	log.Error("step failed", fields...)
	path, explicit := lookup(env, termLogEnv, defaultTermLog)
	if err := argo.WriteTerminationMessage(path, text, explicit); err != nil {
		log.Warn("termination message not written", zap.Error(err))
	}
	told.failed(text)
	return code
}

func lookup(env Env, name, fallback string) (value string, explicit bool) {
	if value, _ := env.LookupEnv(name); value != "" {
		return value, true
	}
	return fallback, false
}

// watch cancels on the first signal and exits on the second; the returned function ends it.
func watch(env Env, cancel context.CancelFunc, signalled *atomic.Int64, log *zap.Logger) (stop func()) {
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-env.Signals:
				sig, ok := s.(syscall.Signal)
				if !ok {
					continue
				}
				if !signalled.CompareAndSwap(0, int64(sig)) {
					env.Exit(exitSignal + int(sig))
					return
				}
				log.Info("stopping; a second signal exits at once", zap.String("signal", sig.String()))
				cancel()
			}
		}
	}()
	return func() { close(done) }
}

func (s Spec) execute(ctx context.Context, env Env, log *zap.Logger, level zap.AtomicLevel, red *redactor, told *catalogs) (help bool, err error) {
	if err := s.Check(); err != nil {
		return false, err
	}
	given, help, err := s.parseArgs(env.Args, env.Stdout)
	if err != nil {
		return false, fault.AsConfiguration(fmt.Errorf("%w; %s --help lists the flags", err, s.Name))
	}
	if help {
		return true, nil
	}
	settings, problems := s.resolve(given, env.LookupEnv)
	catalogConfig, catalogSecrets := catalogConfig(env)
	red.learn(append(secrets(settings), catalogSecrets...))
	progressFile, _ := lookup(env, progressFileEnv, "")
	in := &Input{Log: log, state: &state{
		spec: s, settings: settings, problems: problems,
		progress: argo.NewProgress(progressFile), outputs: map[string][]byte{},
	}}
	if l, err := zapcore.ParseLevel(settings["log-level"].text); err == nil {
		level.SetLevel(l)
	}
	dir := cmp.Or(settings["output-dir"].text, defaultOutputs)
	names := make([]string, len(s.Outputs))
	for i, o := range s.Outputs {
		names[i] = o.fileName()
	}
	if err := argo.RemoveOutputs(dir, names); err != nil {
		return false, err
	}
	if timeout, _ := settings["timeout"].value.(time.Duration); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	log.Info("step started", zap.String("version", version()))
	for _, f := range s.AllFlags() {
		if set := settings[f.Name]; set.source != "" && !f.Secret {
			log.Debug("setting", zap.String("flag", f.Name), zap.String("value", set.text), zap.String("source", set.source))
		}
	}
	told.open(catalogConfig, env, in)
	err = s.run(ctx, in)
	if flushErr := in.progress.Flush(); flushErr != nil {
		log.Warn("progress not reported", zap.Error(flushErr))
	}
	if err != nil {
		// Whatever the statement that was cut off says of itself, more time may be all it needed.
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fault.AsTemporary(fmt.Errorf("not done within --timeout %s: %w", settings["timeout"].text, err))
		}
		return false, err
	}
	if err := in.checkOutputs(); err != nil {
		return false, err
	}
	return false, argo.WriteOutputs(dir, in.outputs)
}

// run turns a panic into an error. One in another goroutine than the step's ends the process with Go's exit code 2.
func (s Spec) run(ctx context.Context, in *Input) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fault.AsPermanent(&panicked{value: v, stack: string(debug.Stack())})
		}
	}()
	return s.Run(ctx, in)
}

type panicked struct {
	value any
	stack string
}

func (p *panicked) Error() string { return fmt.Sprintf("panic, a mistake in the program: %v", p.value) }

func exitCode(err error) int {
	switch fault.Of(err) {
	case fault.Configuration:
		return exitConfiguration
	case fault.Temporary:
		return exitTemporary
	default:
		return exitFailed
	}
}

// version is what the Go tool recorded of the source: a tag or a commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
