// Package pgadmin gives pgAdmin 4 the training and the inference database as servers that ask for no password.
//
// It writes a server import file, a password file beside it, and the script that pgAdmin's own Python runs to
// bring them into a pgAdmin that has servers already. It reads no service bindings and opens no connection.
package pgadmin

import (
	"bytes"
	"context"
	_ "embed" // the importer
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

//go:embed import.py
var importer []byte

// The names of the files that Write makes.
const (
	ServersFile  = "servers.json"
	PassFile     = "pgpass"
	ImporterFile = "import.py"
)

// connectTimeout is how long pgAdmin waits for a database, in seconds.
const connectTimeout = 10

// maxCertificates is the limit on a file with CA certificates: the bundles of whole distributions have 250 kB.
const maxCertificates = 1 << 20

// Databases are the two databases of a tenant.
type Databases struct {
	// Namespace names the server groups: the tenant, or the Kubernetes namespace.
	Namespace           string
	Training, Inference postgres.Config
}

// importFile is pgAdmin's format: docs, "Import/Export Servers". It ignores what it does not know, such as the namespace.
type importFile struct {
	Namespace string
	Servers   map[string]server
}

type server struct {
	Name, Group, Host string
	Port              int
	MaintenanceDB     string
	Username          string
	// DBRestriction is the one database that the tree shows: the password file opens no other.
	DBRestriction        string
	ConnectionParameters map[string]any
}

// checkNamespace keeps it a word: it is part of a folder's name.
func checkNamespace(name string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`).MatchString(name) {
		return fault.AsConfiguration(fmt.Errorf("namespace %q: expected up to 63 letters, digits, dots, dashes and underscores", name))
	}
	return nil
}

// Write replaces the files in dir, which it makes if needed, and returns the import file's text.
// Nothing is written unless all of it can be. Only the password file holds passwords; all have mode 0600.
func Write(dir string, d Databases) ([]byte, error) {
	if err := checkNamespace(d.Namespace); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{ImporterFile: importer}
	out := importFile{Namespace: d.Namespace, Servers: map[string]server{}}
	var passwords strings.Builder
	for i, one := range []struct {
		purpose, name string
		postgres.Config
	}{{"Training", "training", d.Training}, {"Inference", "inference", d.Inference}} {
		parameters := map[string]any{"sslmode": one.SSLMode, "connect_timeout": connectTimeout, "passfile": filepath.Join(dir, PassFile)}
		if one.SSLMode == "" {
			parameters["sslmode"] = "prefer" // libpq's default
		}
		switch one.SSLRootCert {
		case "":
		case "system": // libpq's word for the machine's certificates
			parameters["sslrootcert"] = one.SSLRootCert
		default:
			text, err := certificates(one.SSLRootCert)
			if err != nil {
				return nil, fault.AsConfiguration(fmt.Errorf("sslrootcert of the %s database: %w", one.name, err))
			}
			name := one.name + "-ca.pem"
			files[name], parameters["sslrootcert"] = text, filepath.Join(dir, name)
		}
		lines, err := passLines(one.Config)
		if err != nil {
			return nil, fault.AsConfiguration(fmt.Errorf("%s database: %w", one.name, err))
		}
		passwords.WriteString(lines)
		out.Servers[strconv.Itoa(i+1)] = server{
			Name: d.Namespace + " " + one.name, Group: "Server Group " + one.purpose + " " + d.Namespace,
			Host: one.Host, Port: one.Port, MaintenanceDB: one.Database, Username: one.Username, DBRestriction: one.Database,
			ConnectionParameters: parameters,
		}
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, err
	}
	text = append(text, '\n')
	files[ServersFile], files[PassFile] = text, []byte(passwords.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("write pgAdmin's servers: %w", err)
	}
	for name, content := range files {
		if err := replace(filepath.Join(dir, name), content); err != nil {
			return nil, fmt.Errorf("write pgAdmin's servers: %w", err)
		}
	}
	return text, nil
}

func certificates(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCertificates+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxCertificates || !bytes.Contains(text, []byte("-----BEGIN ")):
		return nil, fmt.Errorf("%s: expected PEM certificates of at most %d bytes", path, maxCertificates)
	}
	return text, nil
}

// passLines are those of a password file for one database, of five fields each; none when there is no password.
func passLines(c postgres.Config) (string, error) {
	if c.Password == "" {
		return "", nil
	}
	hosts := []string{c.Host}
	if strings.HasPrefix(c.Host, "/") {
		hosts = append(hosts, "localhost") // what libpq looks for when the directory of the socket is its own default
	}
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
	var lines strings.Builder
	for _, host := range hosts {
		fields := []string{host, strconv.Itoa(c.Port), c.Database, c.Username, c.Password}
		for i, field := range fields {
			if strings.ContainsAny(field, "\r\n\x00") { // the text may be the password: not repeated
				return "", errors.New("a line break in host, database, username or password: a password file cannot hold that")
			}
			fields[i] = escape.Replace(field)
		}
		lines.WriteString(strings.Join(fields, ":") + "\n")
	}
	return lines.String(), nil
}

// replace writes a file of mode 0600 in one move.
func replace(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing is there after the move
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Target is a pgAdmin on this machine.
type Target struct {
	Python string   // the program that pgAdmin runs with
	User   string   // whose servers; "": the only user
	Env    []string // the program's environment; PGADMIN_SERVER_MODE=OFF in it: pgAdmin runs in desktop mode
	Output io.Writer
}

// maxMessage is how much of the importer's errors is repeated, in bytes.
const maxMessage = 2000

// Import brings the databases into a pgAdmin, running or not, beside the servers it has. Again, it changes nothing.
// The files of Write are in pgAdmin's own folder afterwards.
func Import(ctx context.Context, t Target, d Databases) error {
	dir, err := os.MkdirTemp("", "insitu-pgadmin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := Write(dir, d); err != nil {
		return err
	}
	args := []string{"-B", filepath.Join(dir, ImporterFile), dir}
	if t.User != "" {
		args = append(args, "--user", t.User)
	}
	cmd := exec.CommandContext(ctx, t.Python, args...)
	var errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = t.Env, t.Output, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if err == nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	text := strings.TrimSpace(errs.String())
	err = fmt.Errorf("import into pgAdmin with %s: %w: %s", t.Python, err, text[max(0, len(text)-maxMessage):])
	switch {
	case !errors.As(err, &exit):
		return fault.AsConfiguration(err)
	case exit.ExitCode() == 75:
		return fault.AsTemporary(err)
	case exit.ExitCode() == 2:
		return fault.AsConfiguration(err)
	}
	return fault.AsPermanent(err)
}
