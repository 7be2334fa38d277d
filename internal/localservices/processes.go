package localservices

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startLimit is generous: a first start of MLflow on a busy two-core machine creates its database.
const startLimit = 3 * time.Minute

func (p process) alive() bool { return p.PID > 0 && startTime(p.PID) == p.Start }

// startTime is field 22 of /proc/<pid>/stat, "" for no such process or one that has ended.
func startTime(pid int) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// The second field may contain spaces and brackets; what follows the last ")" does not.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// freePort returns port if it can be listened on, else any free one.
func freePort(ctx context.Context, port int) (int, error) {
	var config net.ListenConfig
	for _, p := range []int{port, 0} {
		l, err := config.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
		if err != nil {
			continue
		}
		return l.Addr().(*net.TCPAddr).Port, l.Close()
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1")
}

// environment is what services see: nothing of the caller's but where programs are.
func (s *starter) environment(extra ...string) []string {
	return append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=" + s.path("home")}, extra...)
}

// daemon starts a process that outlives this one.
func (s *starter) daemon(name string, env []string, argv ...string) (process, string, error) {
	logPath := s.path("logs", name+".log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return process{}, "", fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // the service lives on when this program ends
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, s.path("home"), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.account}
	if err := cmd.Start(); err != nil {
		return process{}, "", fmt.Errorf("%w; scripts/install.sh installs it", err)
	}
	p := process{PID: cmd.Process.Pid, Start: startTime(cmd.Process.Pid)}
	go func() { _ = cmd.Wait() }() // reap it if it ends while we run
	return p, logPath, nil
}

func (s *starter) startS3(ctx context.Context) error {
	if s.Processes["s3"].alive() {
		return nil
	}
	port, err := freePort(ctx, portOf(s.S3Endpoint))
	if err != nil {
		return err
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	s.S3Endpoint = "http://" + address
	s.Log("starting the S3 server on %s", s.S3Endpoint)
	p, log, err := s.daemon("s3", s.environment("ROOT_ACCESS_KEY=insitu", "ROOT_SECRET_KEY="+s.password("s3"), "VGW_REGION=us-east-1"),
		filepath.Join(s.Tools, "bin", "versitygw"), "--port", address, "--health", "/healthz", "--quiet",
		"posix", "--sidecar", s.path("meta-s3"), s.path("s3"))
	if err != nil {
		return err
	}
	s.Processes["s3"] = p
	return s.wait(ctx, "the S3 server", startLimit, answers(ctx, s.S3Endpoint+"/healthz"), &p, log)
}

func (s *starter) startMLflow(ctx context.Context) error {
	if s.Processes["mlflow"].alive() {
		return nil
	}
	port, err := freePort(ctx, portOf(s.MLflowURL))
	if err != nil {
		return err
	}
	s.MLflowURL = "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	s.Log("starting MLflow on %s", s.MLflowURL)
	venv := filepath.Join(s.Tools, "mlflow-venv")
	p, log, err := s.daemon("mlflow",
		append(s.environment("MLFLOW_DISABLE_TELEMETRY=true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "DO_NOT_TRACK=true", "GIT_PYTHON_REFRESH=quiet"), "PATH="+venv+"/bin:/usr/bin:/bin"),
		filepath.Join(venv, "bin", "mlflow"), "server", "--host", "127.0.0.1", "--port", strconv.Itoa(port), "--workers", "1",
		"--backend-store-uri", "sqlite:///"+s.path("mlflow", "mlflow.db"),
		"--artifacts-destination", s.path("mlflow", "artifacts"))
	if err != nil {
		return err
	}
	s.Processes["mlflow"] = p
	return s.wait(ctx, "MLflow", startLimit, answers(ctx, s.MLflowURL+"/health"), &p, log)
}

func portOf(url string) int {
	_, port, _ := strings.Cut(strings.TrimPrefix(url, "http://"), ":")
	n, _ := strconv.Atoi(port)
	return n
}

func answers(ctx context.Context, url string) func() bool {
	client := http.Client{Timeout: 2 * time.Second}
	return func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false
		}
		r, err := client.Do(request)
		if err != nil {
			return false
		}
		_ = r.Body.Close()
		return r.StatusCode < 500
	}
}

// stopProcess ends a process group politely, then by force.
func (s *starter) stopProcess(ctx context.Context, name, what string) error {
	p := s.Processes[name]
	delete(s.Processes, name)
	if p.alive() {
		s.Log("stopping %s", what)
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if !p.alive() {
			return nil
		}
		if err := syscall.Kill(-p.PID, signal); err != nil {
			return fmt.Errorf("stop %s (process %d): %w", name, p.PID, err)
		}
		for end := time.Now().Add(10 * time.Second); p.alive() && time.Now().Before(end) && ctx.Err() == nil; {
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}
