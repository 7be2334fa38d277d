// Package localservices starts the real services a pipeline needs on one machine:
// two PostgreSQL clusters with PL/Python (training and inference), an S3 server and an MLflow server.
//
// They listen on loopback only, with random passwords, and keep running until Stop.
// It is for first tries, development and tests; it installs nothing (scripts/install.sh does)
// and it is no way to run a service in production.
package localservices

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// Options say where the services live.
type Options struct {
	State string // directory of data, logs, passwords; made if missing
	Tools string // directory made by scripts/install.sh
	// Throwaway switches off fsync: for tests, whose data may be lost with the machine.
	Throwaway bool
	Log       func(format string, args ...any) // progress, a line a call; may be nil
}

// Services are running services.
type Services struct {
	BindingRoot string `json:"binding_root"` // service bindings training-db, inference-db, object-store, model-registry
	Training    int    `json:"training_port"`
	Inference   int    `json:"inference_port"`
	S3Endpoint  string `json:"s3_endpoint"`
	MLflowURL   string `json:"mlflow_url"`
	State       string `json:"state"`
}

// Binding selectors of the local databases: two PostgreSQL servers, told apart by provider.
const (
	TrainingBinding  = "postgresql/insitu-training"
	InferenceBinding = "postgresql/insitu-inference"
)

// saved is what a later Start or Stop must know; file services.json, mode 0600.
type saved struct {
	Services
	Passwords map[string]string  `json:"passwords"`
	Processes map[string]process `json:"processes"`
}

// process names a process for good: process ids are reused, start times are not.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // field 22 of /proc/<pid>/stat
}

// DefaultTools is where scripts/install.sh puts things unless INSITU_TOOLS says otherwise; scripts/env.sh has the same rule.
func DefaultTools() string {
	if os.Geteuid() == 0 {
		return "/var/cache/insitu"
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), "cache-"+strconv.Itoa(os.Geteuid()))
	}
	return filepath.Join(cache, "insitu")
}

// DefaultState is where the services of the current directory keep their data.
// Root's lie outside it: the unprivileged user that runs the services often cannot reach a checkout.
func DefaultState() string {
	dir, err := os.Getwd()
	if os.Geteuid() != 0 || err != nil {
		return filepath.Join(".insitu", "state")
	}
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join("/var/lib/insitu", filepath.Base(dir)+"-"+hex.EncodeToString(sum[:4]))
}

type starter struct {
	Options
	saved
	account *syscall.Credential // who runs the services; nil: the caller
}

// Start starts what is not running and waits until everything answers.
// Calling it again is cheap and changes nothing that runs.
func Start(ctx context.Context, o Options) (*Services, error) {
	s, unlock, err := open(o)
	if err != nil {
		return nil, err
	}
	defer unlock()
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"training PostgreSQL", func(ctx context.Context) error { return s.startPostgres(ctx, "training", &s.Training) }},
		{"inference PostgreSQL", func(ctx context.Context) error { return s.startPostgres(ctx, "inference", &s.Inference) }},
		{"S3 server", s.startS3},
		{"MLflow server", s.startMLflow},
	}
	for _, step := range steps {
		if err := step.run(ctx); err != nil {
			return nil, fmt.Errorf("start %s: %w", step.name, err)
		}
		if err := s.save(); err != nil {
			return nil, err
		}
	}
	if err := s.writeBindings(); err != nil {
		return nil, err
	}
	return &s.Services, nil
}

// StartTraining starts the training database alone and returns its superuser; Stop stops it.
// Tests have their own, to kill it.
func StartTraining(ctx context.Context, o Options) (postgres.Config, error) {
	s, unlock, err := open(o)
	if err != nil {
		return postgres.Config{}, err
	}
	defer unlock()
	if err := s.startPostgres(ctx, "training", &s.Training); err != nil {
		return postgres.Config{}, fmt.Errorf("start training PostgreSQL: %w", err)
	}
	return postgres.Config{Host: "127.0.0.1", Port: s.Training, Database: "training", Username: "insitu",
		Password: s.password("training"), SSLMode: "disable"}, s.save()
}

// Stop stops what Start started and keeps the data. Stopping twice is no error.
func Stop(ctx context.Context, o Options) error {
	if _, err := os.Stat(filepath.Join(o.State, "services.json")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s, unlock, err := open(o)
	if err != nil {
		return err
	}
	defer unlock()
	return errors.Join(
		s.stopProcess(ctx, "mlflow", "MLflow"),
		s.stopProcess(ctx, "s3", "the S3 server"),
		s.stopPostgres(ctx, "inference"),
		s.stopPostgres(ctx, "training"),
		s.save(),
	)
}

// Status returns the services of a state directory and which of them run now.
func Status(o Options) (*Services, map[string]bool, error) {
	s := starter{Options: o}
	if err := s.load(); err != nil {
		return nil, nil, err
	}
	return &s.Services, map[string]bool{
		"training": s.postgresRuns("training"), "inference": s.postgresRuns("inference"),
		"s3": s.Processes["s3"].alive(), "mlflow": s.Processes["mlflow"].alive(),
	}, nil
}

func open(o Options) (*starter, func(), error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	state, err := filepath.Abs(o.State)
	if err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	o.State = state
	s := &starter{Options: o}
	if s.account, err = serviceAccount(); err != nil {
		return nil, nil, err
	}
	if err := makeState(o.State); err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	for _, dir := range []string{"logs", "s3", "meta-s3", "mlflow", "pg-training", "pg-inference", "home"} {
		if err := s.ownDir(dir); err != nil {
			return nil, nil, err
		}
	}
	lock, err := os.OpenFile(filepath.Join(o.State, "services.lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		_ = lock.Close()
		return nil, nil, fmt.Errorf("lock state directory: %w", err)
	}
	unlock := func() { _ = lock.Close() }
	if err := s.load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		unlock()
		return nil, nil, err
	}
	if s.Passwords == nil {
		s.Passwords = map[string]string{}
	}
	if s.Processes == nil {
		s.Processes = map[string]process{}
	}
	s.Services.State, s.BindingRoot = o.State, filepath.Join(o.State, "bindings")
	return s, unlock, nil
}

// makeState makes the state directory. The service account must get through it to its own directories,
// and through each parent made here, whatever the umask.
func makeState(dir string) error {
	open := []string{dir}
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		if _, err := os.Stat(parent); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		open = append(open, parent)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	for _, d := range open {
		if err := os.Chmod(d, 0o711); err != nil {
			return err
		}
	}
	return nil
}

// serviceAccount is the unprivileged user that runs the services when the caller is root: PostgreSQL refuses root.
func serviceAccount() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("find the unprivileged user that runs the services: %w; run scripts/install.sh", err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (s *starter) path(parts ...string) string {
	return filepath.Join(append([]string{s.State}, parts...)...)
}

func (s *starter) ownDir(name string) error {
	dir := s.path(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if s.account != nil {
		if err := os.Chown(dir, int(s.account.Uid), int(s.account.Gid)); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
	}
	return nil
}

func (s *starter) load() error {
	text, err := os.ReadFile(filepath.Join(s.State, "services.json"))
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(text, &s.saved); err != nil {
		return fmt.Errorf("read state %s: %w", s.path("services.json"), err)
	}
	return nil
}

func (s *starter) save() error {
	text, err := json.MarshalIndent(s.saved, "", "  ")
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return writeFile(s.path("services.json"), text)
}

func writeFile(path string, content []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

// password returns the password of that name, making it at its first use.
func (s *starter) password(name string) string {
	if s.Passwords[name] == "" {
		b := make([]byte, 20)
		_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
		s.Passwords[name] = hex.EncodeToString(b)
	}
	return s.Passwords[name]
}

func (s *starter) writeBindings() error {
	database := func(provider, name string, port int) map[string]string {
		return map[string]string{"type": "postgresql", "provider": provider, "host": "127.0.0.1", "port": strconv.Itoa(port),
			"database": name, "username": "insitu", "password": s.password(name), "sslmode": "disable"}
	}
	bindings := map[string]map[string]string{
		"training-db":  database("insitu-training", "training", s.Training),
		"inference-db": database("insitu-inference", "inference", s.Inference),
		"object-store": {"type": "s3", "provider": "versitygw", "endpoint": s.S3Endpoint, "bucket": "insitu", "region": "us-east-1",
			"access-key-id": "insitu", "secret-access-key": s.password("s3")},
		"model-registry": {"type": "mlflow", "provider": "mlflow", "uri": s.MLflowURL},
	}
	for name, files := range bindings {
		dir := filepath.Join(s.BindingRoot, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("write binding %s: %w", name, err)
		}
		for file, value := range files {
			if err := writeFile(filepath.Join(dir, file), []byte(value+"\n")); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *starter) wait(ctx context.Context, what string, limit time.Duration, ready func() bool, p *process, log string) error {
	deadline := time.Now().Add(limit)
	for !ready() {
		if p != nil && !p.alive() {
			return fmt.Errorf("%s ended while starting; its log is %s:\n%s", what, log, tail(log))
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer after %s; its log is %s:\n%s", what, limit, log, tail(log))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// tail is the end of a log file, for an error message.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}
