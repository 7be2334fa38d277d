package pgadmin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

const email, password = "dba@example.com", "a password of pgAdmin's"

// pgAdmin is a real pgAdmin 4 with data of its own.
type pgAdmin struct {
	python, web, data string
	env               []string
	url               string
	client            http.Client
	csrf              string
}

// start sets up a pgAdmin with these settings, in addition to its folder, and runs it.
func start(t *testing.T, settings string) *pgAdmin {
	t.Helper()
	p := prepare(t, settings)
	p.setup(t, "setup-db")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, p.python, "-B", "-m", "gunicorn", "--bind", address, "--workers", "1", "--threads", "8", "--chdir", p.web, "pgAdmin4:app")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // ends its worker, too
	cmd.WaitDelay = 10 * time.Second
	var log bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("pgAdmin's log:\n%s", log.String())
		}
	})
	p.url = "http://" + address
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	p.client = http.Client{Jar: jar, Timeout: 30 * time.Second}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		reply, err := p.client.Get(p.url + "/misc/ping")
		if err == nil && reply.Body.Close() == nil && reply.StatusCode == http.StatusOK {
			return p
		}
		if time.Now().After(end) {
			t.Fatalf("pgAdmin does not answer: %v", err)
		}
	}
}

// prepare is a pgAdmin that was never started.
func prepare(t *testing.T, settings string) *pgAdmin {
	t.Helper()
	p := &pgAdmin{python: os.Getenv("INSITU_TEST_PGADMIN_PYTHON")}
	if p.python == "" {
		t.Skip("needs pgAdmin: INSITU_TEST_PGADMIN_PYTHON is not set (make test installs it)")
	}
	dir := t.TempDir()
	p.data = filepath.Join(dir, "data")
	config := fmt.Sprintf("DATA_DIR = %q\nUPGRADE_CHECK_ENABLED = False\n%s", p.data, settings)
	if err := os.WriteFile(filepath.Join(dir, "config_local.py"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p.env = append(os.Environ(), "PYTHONPATH="+dir, "HOME="+dir, "PGADMIN_SETUP_EMAIL="+email, "PGADMIN_SETUP_PASSWORD="+password)
	out, err := exec.Command(p.python, "-c", "import pgadmin4; print(pgadmin4.__path__[0])").Output()
	if err != nil {
		t.Fatalf("find pgAdmin with %s: %v", p.python, err)
	}
	p.web = strings.TrimSpace(string(out))
	return p
}

// setup runs pgAdmin's own command line.
func (p *pgAdmin) setup(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(p.python, append([]string{"-B", filepath.Join(p.web, "setup.py")}, args...)...)
	cmd.Env = p.env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("setup.py %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// request sends what the browser would, and returns the status and the reply.
func (p *pgAdmin) request(t *testing.T, method, path, typ, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", typ)
	r.Header.Set("X-pgA-CSRFToken", p.csrf)
	reply, err := p.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(text)
}

func (p *pgAdmin) token(t *testing.T, path, pattern string) {
	t.Helper()
	_, text := p.request(t, http.MethodGet, path, "", "")
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("%s has no %s:\n%.500s", path, pattern, text)
	}
	p.csrf = found[1]
}

func (p *pgAdmin) login(t *testing.T) {
	t.Helper()
	p.token(t, "/login", `"csrfToken":\s*"([^"]+)"`)
	form := url.Values{"csrf_token": {p.csrf}, "email": {email}, "password": {password}, "internal_button": {"Login"}}
	if status, text := p.request(t, http.MethodPost, "/authenticate/login", "application/x-www-form-urlencoded", form.Encode()); status != http.StatusOK {
		t.Fatalf("log in: %d\n%.500s", status, text)
	}
	p.browse(t)
}

func (p *pgAdmin) browse(t *testing.T) {
	t.Helper()
	p.token(t, "/browser/js/utils.js", `pgAdmin\['csrf_token'\]\s*=\s*'([^']+)'`)
}

// node is one of the browser's tree.
type node struct {
	ID    any `json:"_id"` // a string or a number
	Label string
}

// children are a node's, from either field that pgAdmin uses.
func (p *pgAdmin) children(t *testing.T, path string) []node {
	t.Helper()
	status, text := p.request(t, http.MethodGet, path, "", "")
	var reply struct{ Data, Result []node }
	if status == http.StatusGone { // what it says of an empty group
		return nil
	}
	if err := json.Unmarshal([]byte(text), &reply); status != http.StatusOK || err != nil {
		t.Fatalf("%s: %d, %v\n%.500s", path, status, err, text)
	}
	return append(reply.Data, reply.Result...)
}

// servers are the paths of the servers, GROUP/SERVER in numbers, by "group: name".
func (p *pgAdmin) servers(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, group := range p.children(t, "/browser/nodes/") {
		for _, s := range p.children(t, fmt.Sprintf("/browser/server/nodes/%v/", group.ID)) {
			name := group.Label + ": " + s.Label
			if found[name] != "" {
				t.Errorf("%s is there twice", name)
			}
			found[name] = fmt.Sprintf("%v/%v", group.ID, s.ID)
		}
	}
	return found
}

// open clicks on a server: no password is given. 428 or 401 is the dialog that asks for one.
func (p *pgAdmin) open(t *testing.T, path string) (int, string) {
	t.Helper()
	return p.request(t, http.MethodPost, "/browser/server/connect/"+path, "application/json", "{}")
}

func realDatabases(t *testing.T) Databases {
	t.Helper()
	return Databases{Namespace: "team-a", Training: testenv.Training(t), Inference: testenv.Inference(t)}
}

func TestARunningPgAdminGetsTheServersBesideItsOwnAndAsksForNoPassword(t *testing.T) {
	t.Parallel()
	d := realDatabases(t)
	p := start(t, "")
	p.login(t)
	own := filepath.Join(t.TempDir(), "own.json")
	text := fmt.Sprintf(`{"Servers": {"1": {"Name": "mine", "Group": "Server Group Training team-a", "Host": %q, "Port": %d, "MaintenanceDB": "postgres", "Username": "insitu", "Comment": "keep"}}}`, d.Training.Host, d.Training.Port)
	if err := os.WriteFile(own, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.setup(t, "load-servers", own, "--user", email)

	importing := func(d Databases) string {
		t.Helper()
		var out bytes.Buffer
		if err := Import(t.Context(), Target{Python: p.python, Env: p.env, Output: &out}, d); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	wrong := d
	wrong.Training.SSLMode, wrong.Training.Password = "prefer", "not this one"
	added := "added      team-a training in Server Group Training team-a\nadded      team-a inference in Server Group Inference team-a\n"
	if got := importing(wrong); got != added {
		t.Errorf("the first import says\n%s", got)
	}
	before := p.servers(t)
	if status, text := p.open(t, before["Server Group Training team-a: team-a training"]); status != http.StatusUnauthorized || !strings.Contains(text, "password authentication failed") {
		t.Errorf("with a wrong password in the file: %d\n%.500s", status, text)
	}
	changed := "changed    team-a training in Server Group Training team-a: ConnectionParameters\nunchanged  team-a inference in Server Group Inference team-a\n"
	if got := importing(d); got != changed {
		t.Errorf("an import with the right password and another sslmode says\n%s", got)
	}
	unchanged := strings.ReplaceAll(strings.ReplaceAll(changed, ": ConnectionParameters", ""), "changed    ", "unchanged  ")
	if got := importing(d); got != unchanged {
		t.Errorf("the same again says\n%s", got)
	}
	after := p.servers(t)
	if len(after) != 3 || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("servers %v, before %v", after, before)
	}
	for name, database := range map[string]string{"Server Group Training team-a: team-a training": "training", "Server Group Inference team-a: team-a inference": "inference"} {
		if status, text := p.open(t, after[name]); status != http.StatusOK || !strings.Contains(text, "Server connected") {
			t.Errorf("open %s: %d\n%.500s", name, status, text)
		}
		if got := p.children(t, "/browser/database/nodes/"+after[name]+"/"); len(got) != 1 || got[0].Label != database {
			t.Errorf("databases of %s: %v", name, got)
		}
	}
	// A server without a password file is what asking looks like.
	if status, text := p.open(t, after["Server Group Training team-a: mine"]); status != http.StatusPreconditionRequired {
		t.Errorf("open the user's own server: %d\n%.500s", status, text)
	}
}

func TestPgAdminsOwnCommandLoadsTheImportFileInDesktopMode(t *testing.T) {
	t.Parallel()
	d := realDatabases(t)
	// Without a keyring pgAdmin would ask for a master password of its own.
	p := start(t, "SERVER_MODE = False\nMASTER_PASSWORD_REQUIRED = False\n")
	p.browse(t)
	dir := t.TempDir()
	if _, err := Write(dir, d); err != nil {
		t.Fatal(err)
	}
	p.setup(t, "load-servers", filepath.Join(dir, ServersFile))
	open := func() {
		t.Helper()
		servers := p.servers(t)
		if len(servers) != 2 {
			t.Errorf("servers %v", servers)
		}
		for name, path := range servers {
			if status, text := p.open(t, path); status != http.StatusOK {
				t.Errorf("open %s: %d\n%.500s", name, status, text)
			}
		}
	}
	open()
	// The files move to pgAdmin's own folder; the servers stay the same ones.
	if err := Import(t.Context(), Target{Python: p.python, Env: p.env, Output: io.Discard}, d); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	open()
}

func TestWhatRootImportsBelongsToPgAdmin(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	p := prepare(t, "")
	p.setup(t, "setup-db")
	if err := os.Chmod(filepath.Dir(filepath.Dir(p.data)), 0o711); err != nil { // else only root gets to the data
		t.Fatal(err)
	}
	const nobody = 65534
	own := func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	}
	if err := filepath.WalkDir(p.data, own); err != nil {
		t.Fatal(err)
	}
	d := Databases{Namespace: "team-a", Training: postgres.Config{Host: "h", Port: 1, Database: "d", Username: "u", Password: "p"}, Inference: postgres.Config{Host: "h", Port: 1, Database: "d", Username: "u"}}
	if err := Import(t.Context(), Target{Python: p.python, Env: p.env, Output: io.Discard}, d); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"storage/dba_example.com/insitu-team-a/pgpass", "storage/dba_example.com/insitu-team-a", "pgadmin4.db"} {
		info, err := os.Stat(filepath.Join(p.data, name))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != nobody || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: owner %d, mode %s", name, owner, info.Mode())
		}
	}
}

func TestWhyAnImportFailedIsSaid(t *testing.T) {
	t.Parallel()
	d := Databases{Namespace: "team-a", Training: postgres.Config{Host: "h", Port: 1, Database: "d", Username: "u", Password: "secret"}, Inference: postgres.Config{Host: "h", Port: 1, Database: "d", Username: "u"}}
	never := prepare(t, "")
	set := prepare(t, "")
	set.setup(t, "setup-db")
	// What a first start leaves for a moment: pgAdmin's own start-up code would take it for broken, and put it aside.
	half := prepare(t, "")
	if err := os.Mkdir(half.data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half.data, "pgadmin4.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if entries, err := os.ReadDir(half.data); err != nil || len(entries) != 1 {
			t.Errorf("the data of the first start: %v, %v", entries, err)
		}
	})
	for name, test := range map[string]struct {
		target Target
		class  fault.Class
		want   string
	}{
		"a program that is not there":   {Target{Python: "/nonexistent/python"}, fault.Configuration, "no such file"},
		"a Python without pgAdmin":      {Target{Python: "/usr/bin/python3"}, fault.Configuration, "has no pgAdmin 4: expected the Python that pgAdmin runs with"},
		"a pgAdmin that never ran":      {Target{Python: never.python, Env: never.env}, fault.Temporary, "there is no pgAdmin in server mode with its data at"},
		"a first start that goes on":    {Target{Python: half.python, Env: half.env}, fault.Temporary, "is not ready yet: no such table"},
		"a user that pgAdmin lacks":     {Target{Python: set.python, Env: set.env, User: "nobody"}, fault.Configuration, `has no user "nobody"; it knows: ` + email},
		"a pgAdmin in the other mode":   {Target{Python: set.python, Env: append(set.env, "PGADMIN_SERVER_MODE=OFF")}, fault.Configuration, `has no user "pgadmin4@pgadmin.org"`},
		"an import that is interrupted": {Target{Python: "/bin/false"}, fault.Permanent, "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.target.Output = io.Discard
			err := Import(t.Context(), test.target, d)
			if err == nil || !strings.Contains(err.Error(), test.want) || fault.Of(err) != test.class || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v (class %d), expected class %d and %q", err, fault.Of(err), test.class, test.want)
			}
		})
	}
}
