package fault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// order is that of the pipeline.
func order() []string {
	return []string{"upload-dataset", "deploy-training-code", "train-model", "evaluate-model", "promote-model-to-staging", "deploy-inference-db"}
}

// lane is what runs in a row share: a database role, so that its sessions can be told from other tests',
// and an ML app with a registered model of its own.
type lane struct {
	bin, app, model     string
	password            string
	bindings            map[string]map[string]string
	training, inference postgres.Config
	adminTraining       postgres.Config
	adminInference      postgres.Config
}

func random(t testing.TB) string {
	t.Helper()
	b := make([]byte, 5)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

func newLane(t *testing.T) *lane {
	t.Helper()
	return newLaneOn(t, testenv.Training(t))
}

// newLaneOn makes a lane that trains on that server, of which training is the superuser.
func newLaneOn(t *testing.T, training postgres.Config) *lane {
	t.Helper()
	bin := os.Getenv("INSITU_TEST_BIN")
	if bin == "" {
		t.Skip("needs the programs: INSITU_TEST_BIN is not set (make test sets it)")
	}
	if os.Getenv("INSITU_LIQUIBASE") == "" {
		t.Skip("needs Liquibase: INSITU_LIQUIBASE is not set (make test sets it)")
	}
	id := random(t)
	l := &lane{
		bin: bin, model: "fault-" + id, password: "Secret/" + random(t) + "'\\ %", bindings: map[string]map[string]string{},
		adminTraining: training, adminInference: testenv.Inference(t),
	}
	role := "fault_" + id
	for _, server := range []postgres.Config{l.adminTraining, l.adminInference} {
		makeRole(t, server, role, l.password)
	}
	l.training, l.inference = l.adminTraining, l.adminInference
	for name, c := range map[string]*postgres.Config{"training": &l.training, "inference": &l.inference} {
		c.Username, c.Password = role, l.password
		l.bindings[name] = map[string]string{"provider": "vmware", "host": c.Host, "port": strconv.Itoa(c.Port), "database": c.Database,
			"username": role, "password": l.password, "sslmode": c.SSLMode}
	}
	l.bindings["training"]["type"], l.bindings["inference"]["type"] = "greenplum", "postgres"
	for _, name := range []string{"s3", "mlflow"} {
		value := testenv.Binding(t, name)
		l.bindings[name] = map[string]string{"type": name}
		for _, file := range []string{"endpoint", "access-key-id", "secret-access-key", "region", "uri", "username", "password", "token"} {
			l.bindings[name][file] = value(file)
		}
	}
	l.app = copyApp(t, func(name, text string) string {
		if name == "insitu.yaml" {
			return strings.Replace(text, "model: digits", "model: "+l.model, 1)
		}
		return text
	})
	return l
}

// makeRole makes a superuser: only superusers may create PL/Python functions.
func makeRole(t *testing.T, server postgres.Config, role, password string) {
	t.Helper()
	name := postgres.Ident(role)
	execute(t, server, "create role "+name+" superuser login password '"+strings.ReplaceAll(password, "'", "''")+"'")
	t.Cleanup(func() {
		// The extension plpython3u may be the role's by now, and other tests use it.
		execute(t, server, "reassign owned by "+name+" to current_user")
		execute(t, server, "drop role "+name)
	})
}

// copyApp copies the digits app and lets edit change its texts.
func copyApp(t *testing.T, edit func(name, text string) string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"insitu.yaml", "learner.py", "digits.csv.gz"} {
		content, err := os.ReadFile(filepath.Join("..", "..", "examples", "digits", name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, ".gz") {
			content = []byte(edit(name, string(content)))
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tenant is one run of the pipeline: fresh schemas, bucket, experiment, and no version of the model.
type tenant struct {
	*lane
	schema, bucket, experiment string
	outputs                    map[string]map[string]string // of the steps that are done
	dir                        string
	tries                      int
	seed                       int // of the training; 0 leaves it to the default
}

func (l *lane) newTenant(t *testing.T) *tenant {
	t.Helper()
	id := random(t)
	// A capital letter, a hyphen: names that need their quotes.
	p := &tenant{lane: l, schema: "Fault-" + id, bucket: "fault-" + id, experiment: "fault-" + id, outputs: map[string]map[string]string{}, dir: t.TempDir()}
	l.forgetModel(t)
	t.Cleanup(func() {
		execute(t, l.adminTraining, "drop schema if exists "+postgres.Ident(p.schema)+" cascade")
		execute(t, l.adminInference, "drop schema if exists "+postgres.Ident(p.schema)+" cascade")
		p.removeBucket(t)
		l.forgetModel(t)
	})
	return p
}

// flags are those of one step; earlier steps' outputs are among them.
func (p *tenant) flags(step string) map[string]string {
	trained, evaluated := p.outputs["train-model"], p.outputs["evaluate-model"]
	version := map[string]string{"model-name": trained["model-name"], "model-version": trained["model-version"]}
	out := map[string]string{}
	switch step {
	case "upload-dataset", "deploy-training-code":
		out = map[string]string{"app": p.app, "schema": p.schema}
		if step == "upload-dataset" {
			out["shards"], out["pack-size"] = "2", "128"
		}
	case "train-model":
		out = map[string]string{"schema": p.schema, "experiment": p.experiment, "epochs": "4", "parameters": `{"hidden": 32}`,
			"code-digest": p.outputs["deploy-training-code"]["code-digest"], "dataset-digest": p.outputs["upload-dataset"]["dataset-digest"]}
		if p.seed != 0 {
			out["seed"] = strconv.Itoa(p.seed)
		}
	case "evaluate-model":
		out = map[string]string{"schema": p.schema, "alias": "staging", "min-accuracy": "0.2", "min-f1": "0.2"}
		maps.Copy(out, version)
	case "promote-model-to-staging":
		out = map[string]string{"passed": evaluated["passed"], "reason": evaluated["reason"], "alias": "staging"}
		maps.Copy(out, version)
	case "deploy-inference-db":
		out = map[string]string{"schema": p.schema, "inference-schema": p.schema, "parity-rows": "64"}
		maps.Copy(out, version)
	}
	return out
}

// attempt is what one process of a step left behind.
type attempt struct {
	code     int // -1 for one that was killed
	killed   bool
	message  string // the termination log
	stderr   string
	seconds  time.Duration
	leftover []string // files in the temporary directory that only this attempt had
}

// kill says when and whom.
type kill struct {
	after time.Duration
	tree  bool // the children too, a Liquibase for example; otherwise they find out by themselves
}

// setting changes one file of one binding for one attempt.
type setting struct{ binding, file, value string }

// process is an attempt that runs.
type process struct {
	step                       string
	cmd                        *exec.Cmd
	started                    time.Time
	ended                      chan error
	stdout, stderr             bytes.Buffer
	temp, outputs, termination string
}

// run starts the step, kills it if it is to be killed, and keeps the outputs of one that is done.
func (p *tenant) run(t *testing.T, step string, k *kill, changes ...setting) attempt {
	t.Helper()
	r := p.start(t, step, changes...)
	if k == nil {
		return p.wait(t, r)
	}
	var err error
	killed := false
	select {
	case err = <-r.ended:
	case <-time.After(k.after):
		killProcess(t, r.cmd.Process.Pid, k.tree)
		err = <-r.ended
		killed = true
	}
	a := p.finish(t, r, err)
	a.killed = killed && a.code == -1
	return a
}

// start starts the step.
func (p *tenant) start(t *testing.T, step string, changes ...setting) *process {
	t.Helper()
	p.tries++
	dir := filepath.Join(p.dir, strconv.Itoa(p.tries))
	r := &process{step: step, temp: filepath.Join(dir, "tmp"), outputs: filepath.Join(p.dir, "outputs", step), termination: filepath.Join(dir, "termination-log"), ended: make(chan error, 1)}
	for _, d := range []string{r.temp, r.outputs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.cmd = exec.Command(filepath.Join(p.bin, step))
	for name, value := range p.flags(step) {
		r.cmd.Args = append(r.cmd.Args, "--"+name+"="+value)
	}
	r.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.temp, "TMPDIR=" + r.temp, "SERVICE_BINDING_ROOT=" + p.writeBindings(t, dir, changes),
		"INSITU_OUTPUT_DIR=" + r.outputs, "INSITU_TERMINATION_LOG=" + r.termination, "INSITU_LIQUIBASE=" + os.Getenv("INSITU_LIQUIBASE")}
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.cmd.WaitDelay = 5 * time.Second
	r.started = time.Now()
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- r.cmd.Wait() }()
	return r
}

// wait waits for the end of a step that comes to it by itself.
func (p *tenant) wait(t *testing.T, r *process) attempt {
	t.Helper()
	const limit = 5 * time.Minute
	select {
	case err := <-r.ended:
		return p.finish(t, r, err)
	case <-time.After(limit):
		killProcess(t, r.cmd.Process.Pid, true)
		<-r.ended
		t.Fatalf("%s did not end within %s\n%s", r.step, limit, r.stderr.String())
		return attempt{}
	}
}

// finish looks at what a step that has ended left, and keeps the outputs of one that is done.
func (p *tenant) finish(t *testing.T, r *process, err error) attempt {
	t.Helper()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	a := attempt{code: r.cmd.ProcessState.ExitCode(), stderr: r.stderr.String(), seconds: time.Since(r.started)}
	if r.stdout.Len() > 0 {
		t.Errorf("%s wrote %q to stdout", r.step, r.stdout.String())
	}
	if message, err := os.ReadFile(r.termination); err == nil {
		a.message = string(message)
	}
	a.leftover = files(t, r.temp)
	if a.code == 0 {
		p.outputs[r.step] = map[string]string{}
		for _, name := range files(t, r.outputs) {
			content, err := os.ReadFile(filepath.Join(r.outputs, name))
			if err != nil {
				t.Fatal(err)
			}
			p.outputs[r.step][name] = strings.TrimSpace(string(content))
		}
	} else if left := visible(files(t, r.outputs)); a.code != -1 && len(left) > 0 {
		t.Errorf("%s failed and left the outputs %q", r.step, left)
	}
	return a
}

// must runs a step that nothing disturbs.
func (p *tenant) must(t *testing.T, steps ...string) {
	t.Helper()
	for _, step := range steps {
		a := p.run(t, step, nil)
		if a.code != 0 {
			t.Fatalf("%s ended with %d, expected 0: %s\n%s", step, a.code, a.message, a.stderr)
		}
		if len(a.leftover) > 0 {
			t.Errorf("%s ended well and left temporary files: %q", step, a.leftover)
		}
		for name := range p.outputs[step] {
			if strings.HasPrefix(name, ".") {
				t.Errorf("%s left %q, half an output of a killed attempt", step, name)
			}
		}
	}
}

func (p *tenant) writeBindings(t *testing.T, dir string, changes []setting) string {
	t.Helper()
	root := filepath.Join(dir, "bindings")
	for name, files := range p.bindings {
		files = maps.Clone(files)
		if name == "s3" {
			files["bucket"] = p.bucket
		}
		for _, c := range changes {
			if c.binding == name {
				files[c.file] = c.value
			}
		}
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
		for file, value := range files {
			if value == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(root, name, file), []byte(value), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// killProcess sends SIGKILL to the process, and before that to its children and their groups if they are to die with it.
func killProcess(t *testing.T, pid int, tree bool) {
	t.Helper()
	targets := []int{pid}
	if tree {
		targets = append(targets, -pid)
		for _, child := range children(pid) {
			targets = append(targets, -child, child)
		}
	}
	for _, target := range targets {
		if err := syscall.Kill(target, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("kill %d: %v", target, err)
		}
	}
}

func children(pid int) (out []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			out = append(out, child)
		}
	}
	return out
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func visible(names []string) (out []string) {
	for _, name := range names {
		if !strings.HasPrefix(name, ".") {
			out = append(out, name)
		}
	}
	return out
}

func execute(t testing.TB, c postgres.Config, sql string, args ...any) {
	t.Helper()
	conn := connect(t, c)
	defer conn.Close()
	if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func connect(t testing.TB, c postgres.Config) *postgres.Conn {
	t.Helper()
	// Not the test's context: cleanups connect too.
	conn, err := postgres.Connect(context.Background(), c, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func (l *lane) objects(t testing.TB) *minio.Client {
	t.Helper()
	b := l.bindings["s3"]
	u, err := url.Parse(b["endpoint"])
	if err != nil {
		t.Fatal(err)
	}
	client, err := minio.New(u.Host, &minio.Options{Creds: credentials.NewStaticV4(b["access-key-id"], b["secret-access-key"], ""), Secure: u.Scheme == "https", Region: b["region"]})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (p *tenant) removeBucket(t testing.TB) {
	t.Helper()
	ctx, client := context.Background(), p.objects(t)
	if there, err := client.BucketExists(ctx, p.bucket); err != nil || !there {
		return
	}
	for o := range client.ListObjects(ctx, p.bucket, minio.ListObjectsOptions{Recursive: true}) {
		if err := client.RemoveObject(ctx, p.bucket, o.Key, minio.RemoveObjectOptions{}); err != nil {
			t.Error(err)
		}
	}
	if err := client.RemoveBucket(ctx, p.bucket); err != nil {
		t.Error(err)
	}
}

func (l *lane) registry(t testing.TB) *registry.Client {
	t.Helper()
	b := testenv.Binding(t, "mlflow")
	client, err := registry.New(registry.Config{URI: b("uri"), Username: b("username"), Password: b("password"), Token: b("token")})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// forgetModel deletes the registered model with all its versions, so that the next run registers version 1.
func (l *lane) forgetModel(t testing.TB) {
	t.Helper()
	mlflow(t, http.MethodDelete, "registered-models/delete", nil, map[string]string{"name": l.model})
}

// mlflow asks for what the product's client has no use for; it returns nil for an error reply.
func mlflow(t testing.TB, method, path string, query url.Values, body any) map[string]any {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	target := strings.TrimRight(testenv.Binding(t, "mlflow")("uri"), "/") + "/api/2.0/mlflow/" + path + "?" + query.Encode()
	req, err := http.NewRequest(method, target, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	reply, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		return nil
	}
	out := map[string]any{}
	if err := json.Unmarshal(reply, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
