package localservices

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// settings of both clusters; the first lines are about training: packs are read once an epoch and states written.
const settings = `
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = 512MB
max_wal_size = 2GB
max_connections = 100
password_encryption = 'scram-sha-256'
log_line_prefix = '%m [%p] %q%u@%d/%a '
`

// binDir is the newest installed PostgreSQL's bin directory.
func binDir() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		if path, err := exec.LookPath("initdb"); err == nil {
			return filepath.Dir(path), nil
		}
		return "", errors.New("no PostgreSQL server is installed: expected /usr/lib/postgresql/<version>/bin/initdb; run scripts/install.sh")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	sort.Slice(found, func(i, j int) bool { return version(found[i]) < version(found[j]) })
	return filepath.Dir(found[len(found)-1]), nil
}

// pg runs one of PostgreSQL's own programs as the service account.
func (s *starter) pg(ctx context.Context, program string, args ...string) error {
	bin, err := binDir()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, program), args...)
	site, _ := filepath.Glob(filepath.Join(s.Tools, "db-venv", "lib", "python3*", "site-packages"))
	// One thread a session: parallelism comes from shards.
	cmd.Env = s.environment("PYTHONPATH="+strings.Join(site, ":"), "PYTHONDONTWRITEBYTECODE=1",
		"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1")
	cmd.Dir = s.path("home")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.account, Setsid: true}
	// A file, not a pipe: the server inherits it and would keep a pipe open.
	out, err := os.CreateTemp("", "insitu-pg")
	if err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w\n%s", program, err, tail(out.Name()))
	}
	return nil
}

func (s *starter) postgresRuns(name string) bool {
	text, err := os.ReadFile(s.path("pg-"+name, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.SplitN(string(text), "\n", 3)
	pid, _ := strconv.Atoi(strings.TrimSpace(lines[0]))
	// After a crash the process id may belong to somebody else, even to the PostgreSQL of another state directory.
	// A postmaster's current directory is its data directory.
	cwd, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/cwd")
	if err != nil {
		return false
	}
	data, err := os.Stat(s.path("pg-" + name))
	return err == nil && os.SameFile(cwd, data)
}

func (s *starter) startPostgres(ctx context.Context, name string, port *int) error {
	data := s.path("pg-" + name)
	if err := s.initPostgres(ctx, name, data); err != nil {
		return err
	}
	if !s.postgresRuns(name) {
		free, err := freePort(ctx, *port)
		if err != nil {
			return err
		}
		*port = free
		s.Log("starting the %s PostgreSQL on 127.0.0.1:%d", name, free)
		log := s.path("logs", "postgres-"+name+".log")
		if err := s.pg(ctx, "pg_ctl", "start", "-w", "-t", "120", "-D", data, "-l", log, "-o", "-p "+strconv.Itoa(free)); err != nil {
			return fmt.Errorf("%w\n%s", err, tail(log))
		}
	}
	return s.createDatabase(ctx, name, *port)
}

// initPostgres makes the cluster in a directory of its own and moves it into place: a kill leaves none or a whole one.
func (s *starter) initPostgres(ctx context.Context, name, data string) error {
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err == nil {
		return nil
	}
	s.Log("creating the %s PostgreSQL cluster", name)
	if err := s.ownDir("pg-new"); err != nil {
		return err
	}
	fresh := s.path("pg-new", name)
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove an unfinished cluster: %w", err)
	}
	pwfile := s.path("home", "pw-"+name)
	if err := os.WriteFile(pwfile, []byte(s.password(name)+"\n"), 0o600); err != nil {
		return fmt.Errorf("write password file: %w", err)
	}
	defer os.Remove(pwfile)
	if s.account != nil {
		if err := os.Chown(pwfile, int(s.account.Uid), int(s.account.Gid)); err != nil {
			return fmt.Errorf("write password file: %w", err)
		}
	}
	if err := s.save(); err != nil { // the password must not be lost once a cluster knows it
		return err
	}
	if err := s.pg(ctx, "initdb", "-D", fresh, "-U", "insitu", "--pwfile", pwfile, "-A", "scram-sha-256", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"); err != nil {
		return err
	}
	text := settings
	if s.Throwaway {
		text += "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"
	}
	conf, err := os.OpenFile(filepath.Join(fresh, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configure the cluster: %w", err)
	}
	_, err = conf.WriteString(text)
	if err = errors.Join(err, conf.Close()); err != nil {
		return fmt.Errorf("configure the cluster: %w", err)
	}
	if err := os.Remove(data); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace %s: %w", data, err)
	}
	if err := os.Rename(fresh, data); err != nil {
		return fmt.Errorf("move the cluster into place: %w", err)
	}
	return nil
}

func (s *starter) createDatabase(ctx context.Context, name string, port int) error {
	conn, err := postgres.Connect(ctx, postgres.Config{Host: "127.0.0.1", Port: port, Database: "postgres",
		Username: "insitu", Password: s.password(name), SSLMode: "disable"}, postgres.Options{})
	if err != nil {
		return err
	}
	defer conn.Close()
	var exists bool
	if err := conn.QueryRow(ctx, "select exists (select 1 from pg_database where datname = $1)", name).Scan(&exists); err != nil {
		return postgres.Wrap(err, "look for database "+strconv.Quote(name))
	}
	if exists {
		return nil
	}
	_, err = conn.Exec(ctx, "create database "+postgres.Ident(name))
	return postgres.Wrap(err, "create database "+strconv.Quote(name))
}

func (s *starter) stopPostgres(ctx context.Context, name string) error {
	if !s.postgresRuns(name) {
		return nil
	}
	s.Log("stopping the %s PostgreSQL", name)
	return s.pg(ctx, "pg_ctl", "stop", "-m", "fast", "-w", "-t", "60", "-D", s.path("pg-"+name))
}
