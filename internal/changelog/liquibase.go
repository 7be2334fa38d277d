package changelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Liquibase says how to run it.
type Liquibase struct {
	// Path is a directory of jars (Liquibase, its dependencies and the PostgreSQL driver) or an executable.
	Path string
	// Java runs the jars; a bare name is looked up in PATH.
	Java string
	// TempDir is where one run's files live for as long as it runs.
	TempDir string
}

const (
	mainClass = "liquibase.integration.commandline.LiquibaseCommandLine"
	// hostMark becomes part of databasechangeloglock.lockedby, so a lock we took can be told from a stranger's.
	hostMark = "insitu"
	fileName = "changelog.sql"
	// stopWait is how long Liquibase may take to end after SIGTERM before it is killed.
	stopWait = 5 * time.Second
	// maxOutput bounds what is kept of Liquibase's output, in bytes: the failing SQL is part of its message.
	maxOutput = 1 << 20
)

// quietLogging makes the PostgreSQL driver put the SQLSTATE into its messages (it does so only when its logger is open)
// and writes no log.
const quietLogging = "handlers=\n.level=SEVERE\norg.postgresql.util.ServerErrorMessage.level=FINEST\n"

// target is one schema of one database, as Liquibase sees it.
type target struct {
	postgres.Config
	schema      string
	application string // application_name of Liquibase's session
}

// run executes one Liquibase command on a changelog, which may be nil for commands that need none.
// It returns after the process has ended, also when ctx is cancelled.
func (l Liquibase) run(ctx context.Context, t target, changelog []byte, command string, args ...string) error {
	dir, err := os.MkdirTemp(l.TempDir, "insitu-liquibase-")
	if err != nil {
		return fmt.Errorf("make a directory for Liquibase: %w", err)
	}
	defer os.RemoveAll(dir)
	for name, content := range map[string][]byte{fileName: changelog, "logging.properties": []byte(quietLogging)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return fmt.Errorf("write the changelog: %w", err)
		}
	}
	jdbc, err := jdbcURL(t)
	if err != nil {
		return err
	}
	global := []string{
		"--headless=true", "--show-banner=false", "--analytics-enabled=false", "--log-level=OFF",
		"--search-path=" + dir, "--preserve-schema-case=true", "--liquibase-schema-name=" + t.schema,
		"--changelog-lock-wait-time-in-minutes=1", "--changelog-lock-poll-rate=1", "--mirror-console-messages-to-log=false",
	}
	own := []string{command, "--url=" + jdbc, "--username=" + t.Username, "--default-schema-name=" + t.schema}
	if changelog != nil {
		own = append(own, "--changelog-file="+fileName)
	}
	cmd, err := l.command(ctx, dir, append(append(global, own...), args...))
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, "LIQUIBASE_COMMAND_PASSWORD="+t.Password)
	output := &tail{limit: maxOutput}
	cmd.Stdout, cmd.Stderr = output, output

	runtime.LockOSThread() // the kernel ties the child's death signal to the thread that started it
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("liquibase %s on %s: %w", command, t.Address(), context.Cause(ctx))
	}
	exit := new(exec.ExitError)
	if errors.As(err, &exit) {
		return failure(fmt.Sprintf("liquibase %s on %s, schema %q", command, t.Address(), t.schema), redact(output.String(), t.Password))
	}
	if err != nil {
		return fault.AsConfiguration(fmt.Errorf("start Liquibase: %w", err))
	}
	return nil
}

// command finds out what to start. The child sees none of this process's environment.
func (l Liquibase) command(ctx context.Context, dir string, args []string) (*exec.Cmd, error) {
	java, err := exec.LookPath(l.Java)
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("find Java: %w; Liquibase needs a Java runtime, version 11 or later", err))
	}
	options := []string{
		"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", // starts in half the time, writes no files
		"-Dfile.encoding=UTF-8", "-Djava.io.tmpdir=" + dir, "-Duser.home=" + dir,
		"-Djava.util.logging.config.file=" + filepath.Join(dir, "logging.properties"),
		"-Dliquibase.hostDescription=" + hostMark,
	}
	info, err := os.Stat(l.Path)
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("find Liquibase: %w; expected a directory of jars or an executable", err))
	}
	name := l.Path
	if info.IsDir() {
		if jars, _ := filepath.Glob(filepath.Join(l.Path, "liquibase-*.jar")); len(jars) == 0 {
			return nil, fault.AsConfiguration(fmt.Errorf("directory %q holds no liquibase-*.jar; expected Liquibase's jars and the PostgreSQL driver", l.Path))
		}
		name, args = java, append(append(options, "-cp", filepath.Join(l.Path, "*"), mainClass), args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + filepath.Dir(java) + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + dir, "LANG=C.UTF-8",
		"JAVA_OPTS=" + strings.Join(options, " "), // what the shell script called "liquibase" reads
	}
	cmd.SysProcAttr = ownGroup()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	return cmd, nil
}

// jdbcURL spells the connection as the JDBC driver wants it; the password is not part of it.
func jdbcURL(t target) (string, error) {
	if strings.HasPrefix(t.Host, "/") {
		return "", fault.AsConfiguration(fmt.Errorf("host %q is a Unix socket; Liquibase connects by TCP: give a host name or address", t.Host))
	}
	q := url.Values{"ApplicationName": {t.application}, "tcpKeepAlive": {"true"}}
	mode := t.SSLMode
	if mode == "" {
		mode = "prefer"
	}
	verify := strings.HasPrefix(mode, "verify-")
	switch {
	case t.SSLRootCert != "":
		if mode == "require" { // libpq verifies when it has a certificate to verify with; the JDBC driver does not
			mode = "verify-ca"
		}
		q.Set("sslrootcert", t.SSLRootCert)
	case verify:
		q.Set("sslfactory", "org.postgresql.ssl.DefaultJavaSSLFactory") // the system's certificates
	}
	q.Set("sslmode", mode)
	// The driver decodes "+" as a space in some places and not in others.
	query := strings.ReplaceAll(q.Encode(), "+", "%20")
	return "jdbc:postgresql://" + net.JoinHostPort(t.Host, strconv.Itoa(t.Port)) + "/" + url.PathEscape(t.Database) + "?" + query, nil
}

var (
	unexpected = regexp.MustCompile(`(?s)Unexpected error running Liquibase: (.*?)(\n\n|\n\tat |$)`)
	changeset  = regexp.MustCompile(`(?s)^Migration failed for changeset (\S+)::(\S+)::\S+:\s*Reason: (.*)$`)
	failedSQL  = regexp.MustCompile(`(?s) \[Failed SQL: .*$`)
	sqlState   = regexp.MustCompile(`Server SQLState: ([0-9A-Z]{5})`)
	driverNote = regexp.MustCompile(`(?m)^\s*(Location: File: .*|Server SQLState: .*)\n?`)
	classNames = regexp.MustCompile(`(?:liquibase|org\.postgresql|java)\.[a-zA-Z.]+(?:Exception|Error): `)
)

// failure turns what Liquibase printed into one error: the changeset, the server's words, the SQLSTATE.
// The failing SQL itself stays out: it may hold a whole ML app.
func failure(doing, output string) error {
	text := strings.TrimSpace(output)
	if m := unexpected.FindStringSubmatch(output); m != nil {
		text = strings.TrimSpace(m[1])
	} else if len(text) > 2000 {
		text = "..." + text[len(text)-2000:]
	}
	if m := changeset.FindStringSubmatch(text); m != nil {
		doing += fmt.Sprintf(", changeset %q", m[2])
		text = m[3]
	}
	text = classNames.ReplaceAllString(failedSQL.ReplaceAllString(text, ""), "")
	if m := sqlState.FindStringSubmatch(text); m != nil {
		text = strings.TrimSpace(driverNote.ReplaceAllString(text, ""))
		return postgres.Wrap(&pgconn.PgError{Code: m[1], Message: text}, doing)
	}
	err := fmt.Errorf("%s: %s", doing, text)
	switch {
	case strings.Contains(text, "password authentication failed"), strings.Contains(text, "no pg_hba.conf entry"),
		strings.Contains(text, "SSL error"), strings.Contains(text, "does not support SSL"), strings.Contains(text, "Cannot find database driver"):
		return fault.AsConfiguration(err)
	case strings.Contains(text, "Connection could not be created"), strings.Contains(text, "Could not acquire change log lock"),
		strings.Contains(text, "I/O error occurred while sending to the backend"), strings.Contains(text, "This connection has been closed"):
		return fault.AsTemporary(err)
	}
	return fault.AsPermanent(err)
}

// redact is a second line of defence: neither we nor Liquibase print the password.
func redact(text, password string) string {
	if len(password) < 4 {
		return text
	}
	return strings.ReplaceAll(text, password, "***")
}

// tail keeps the last limit bytes written to it.
type tail struct {
	bytes.Buffer
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	n, err := t.Buffer.Write(p)
	if over := t.Len() - t.limit; over > 0 {
		t.Next(over)
	}
	return n, err
}
