package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/objectstore"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

const root = "../.."

// installation is the chart with its dev services in a namespace of this run.
type installation struct {
	namespace           string
	training, inference postgres.Config
	objects             *objectstore.Store
	models              *registry.Client
	app                 string // the digits app as a tar.gz in the object store: s3://...
	token               string // of a user who may do what the page on deployment grants
	server              string // argo-server's address, "" when there is none
	noServer            string // why there is none
	client              *http.Client
	ctx                 context.Context
}

// shared is the one installation; the first test that asks makes it.
var shared struct {
	sync.Mutex
	*installation
	err error
}

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		remove()
		os.Exit(130)
	}()
	code := m.Run()
	if err := writeTimes(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	remove()
	_ = stop // main ends; a late Ctrl-C must not take the cleanup for work that is to be broken off
	os.Exit(code)
}

// cluster returns the installation all tests share.
func cluster(t *testing.T) *installation {
	t.Helper()
	if os.Getenv("INSITU_E2E") != "1" {
		t.Skip("needs a cluster: INSITU_E2E is not 1 (make e2e sets it)")
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.installation == nil {
		shared.installation = &installation{namespace: "insitu-e2e-" + random(), ctx: context.Background(), client: browser()}
		shared.err = shared.install()
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.installation
}

var removing sync.Mutex

// remove deletes the namespace and everything in it.
func remove() {
	removing.Lock() // the second of two callers waits for the first
	defer removing.Unlock()
	in := shared.installation
	if in == nil || in.namespace == "" {
		return
	}
	if os.Getenv("INSITU_E2E_KEEP") == "1" {
		fmt.Fprintf(os.Stderr, "e2e: namespace %s stays (INSITU_E2E_KEEP=1)\n", in.namespace)
		return
	}
	fmt.Fprintf(os.Stderr, "e2e: delete namespace %s\n", in.namespace)
	if r := in.command(3*time.Minute, "kubectl", "delete", "namespace", in.namespace, "--timeout=150s"); r.err != nil {
		fmt.Fprintln(os.Stderr, r.err)
	}
	in.namespace = ""
}

func random() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// install makes the namespace and installs the chart as the first page of its documentation does.
func (in *installation) install() error {
	fmt.Fprintf(os.Stderr, "e2e: namespace %s\n", in.namespace)
	began := time.Now()
	yaml, err := namespaceYAML(in.namespace)
	if err != nil {
		return err
	}
	if r := in.apply(yaml); r.err != nil {
		return r.err
	}
	if r := in.helm(7*time.Minute, "install", "insitu", root+"/charts/insitu", "-f", "values.yaml", "--wait", "--timeout", "6m"); r.err != nil {
		return fmt.Errorf("%w\n%s", r.err, in.pods())
	}
	fmt.Fprintf(os.Stderr, "e2e: chart installed and ready after %.0f s\n", time.Since(began).Seconds())
	return errors.Join(in.connect(), in.findServer())
}

// namespaceYAML is a namespace that refuses pods which are not hardened, and in it the user of docs/deploy-helm.md,
// as it stands there.
func namespaceYAML(name string) (string, error) {
	page, err := os.ReadFile(root + "/docs/deploy-helm.md")
	if err != nil {
		return "", err
	}
	for _, block := range strings.Split(string(page), "```yaml\n")[1:] {
		user, _, _ := strings.Cut(block, "```")
		if strings.Contains(user, "kind: ServiceAccount\nmetadata: {name: ml-user, namespace: ml}") {
			return fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n  labels: {pod-security.kubernetes.io/enforce: restricted}\n---\n", name) +
				strings.NewReplacer("namespace: ml,", "namespace: "+name+",", "namespace: ml}", "namespace: "+name+"}").Replace(user), nil
		}
	}
	return "", errors.New("docs/deploy-helm.md has no ServiceAccount ml-user any more")
}

// connect reads the bindings the chart made and reaches the services they name from this machine.
func (in *installation) connect() error {
	bindings := map[string]map[string]string{}
	ports := map[string]int{"training": 5432, "inference": 5432, "s3": 7070, "mlflow": 5000}
	local := map[string]int{}
	for name, port := range ports {
		files, err := in.binding(name)
		if err != nil {
			return err
		}
		if local[name], err = in.forward("service/insitu-dev-"+name, port); err != nil {
			return err
		}
		bindings[name] = files
	}
	database := func(name string) postgres.Config {
		b := bindings[name]
		return postgres.Config{Host: "127.0.0.1", Port: local[name], Database: b["database"], Username: b["username"], Password: b["password"],
			SSLMode: b["sslmode"], ApplicationName: "insitu e2e"}
	}
	in.training, in.inference = database("training"), database("inference")
	var err1, err2 error
	s3 := bindings["s3"]
	in.objects, err1 = objectstore.New(objectstore.Config{Endpoint: fmt.Sprintf("http://127.0.0.1:%d", local["s3"]),
		AccessKeyID: s3["access-key-id"], SecretAccessKey: s3["secret-access-key"], Bucket: s3["bucket"], Region: s3["region"]})
	mlflow := bindings["mlflow"]
	in.models, err2 = registry.New(registry.Config{URI: fmt.Sprintf("http://127.0.0.1:%d", local["mlflow"]),
		Username: mlflow["username"], Password: mlflow["password"], Token: mlflow["token"]})
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	packed, err := mlapp.Pack(root + "/examples/digits")
	if err != nil {
		return err
	}
	if _, err := in.objects.Put(in.ctx, "e2e/digits.tar.gz", packed, "application/gzip"); err != nil {
		return err
	}
	in.app = "s3://" + in.objects.Bucket() + "/e2e/digits.tar.gz"
	return nil
}

// binding reads the files of a service binding's Secret.
func (in *installation) binding(name string) (map[string]string, error) {
	r := in.kubectl("get", "secret", "insitu-"+name, "-o", "json")
	if r.err != nil {
		return nil, r.err
	}
	var secret struct{ Data map[string][]byte }
	if err := json.Unmarshal([]byte(r.stdout), &secret); err != nil {
		return nil, fmt.Errorf("read secret insitu-%s: %w", name, err)
	}
	files := map[string]string{}
	for file, value := range secret.Data {
		files[file] = strings.TrimRight(string(value), "\n")
	}
	return files, nil
}

// result is how a command ended. err names the command and holds what it wrote; it is nil after exit code 0.
type result struct {
	stdout, stderr string
	code           int
	took           time.Duration
	err            error
}

// command runs a program from PATH, as a user does in a terminal.
func (in *installation) command(limit time.Duration, name string, args ...string) result {
	return in.input(limit, "", name, args...)
}

// input is command with a text on its standard input.
func (in *installation) input(limit time.Duration, stdin, name string, args ...string) result {
	ctx, cancel := context.WithTimeout(in.ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	// A process of its own group is not hit by Ctrl-C, so that the cleanup can still run commands.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = environment()
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String(), took: time.Since(began), code: cmd.ProcessState.ExitCode()}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("not done after %s", limit)
		}
		r.err = fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, r.stdout, r.stderr)
	}
	return r
}

// environment is the process's without the settings that send the argo command through a server:
// what goes through the server does so by a request that the test writes itself.
func environment() (out []string) {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "ARGO_") {
			out = append(out, e)
		}
	}
	return append(out, "TERM=dumb") // no colours
}

// The commands below run in the installation's namespace.

func (in *installation) kubectl(args ...string) result {
	return in.command(2*time.Minute, "kubectl", append([]string{"-n", in.namespace}, args...)...)
}

func (in *installation) apply(yaml string) result {
	return in.input(time.Minute, yaml, "kubectl", "apply", "-f", "-")
}

func (in *installation) helm(limit time.Duration, args ...string) result {
	return in.command(limit, "helm", append([]string{"-n", in.namespace}, args...)...)
}

func (in *installation) argo(args ...string) result {
	return in.argoWithin(2*time.Minute, args...)
}

func (in *installation) argoWithin(limit time.Duration, args ...string) result {
	return in.command(limit, "argo", append([]string{"-n", in.namespace}, args...)...)
}

// pods says what the namespace's pods and events look like, for a report of a failure.
func (in *installation) pods() string {
	return in.kubectl("get", "pods", "-o", "wide").stdout +
		in.kubectl("get", "events", "--sort-by=.lastTimestamp", "--field-selector=type!=Normal").stdout
}
