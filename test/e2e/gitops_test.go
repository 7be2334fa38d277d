package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/postgres"
)

const gitOps = root + "/workflows/app"

// commits that nobody made: the pipeline that stands in for the real one fetches nothing.
const (
	firstCommit  = "1111111111111111111111111111111111111111"
	secondCommit = "2222222222222222222222222222222222222222"
)

// pipelineStandIn takes what workflows/app passes on. It waits as many seconds as `seed` says, without a pod,
// and fails in a pod of Argo's own image when `label` is "broken".
// Argo would delete its runs at once, if the run itself did not say otherwise.
const pipelineStandIn = `
apiVersion: argoproj.io/v1alpha1
kind: WorkflowTemplate
metadata: {name: in-database-pipeline}
spec:
  entrypoint: pipeline
  ttlStrategy: {secondsAfterCompletion: 1}
  arguments:
    parameters:
      - {name: app}
      - {name: git-sha}
      - {name: schema}
      - {name: inference-schema}
      - {name: model-stage}
      - {name: label, value: ""}
      - {name: seed, value: "0"}
  templates:
    - name: pipeline
      inputs:
        artifacts:
          - {name: app, optional: true}
      dag:
        tasks:
          - {name: train-model, template: wait}
          - {name: evaluate-model, template: break, depends: train-model, when: "'{{workflow.parameters.label}}' == 'broken'"}
    - name: wait
      suspend: {duration: "{{workflow.parameters.seed}}"}
    - name: break
      resource:
        action: get
        manifest: |
          apiVersion: v1
          kind: ConfigMap
          metadata: {name: no-such-thing}
`

// kappRun is a folder of an ML app with the shipped files, deployed as kapp-controller does:
// rendered by ytt, applied by kapp with the rights of workflows/app/rbac.yaml.
type kappRun struct {
	*installation
	kubeconfig, rendered string
}

// render writes what ytt makes of the values, name=value.
func (k *kappRun) render(t *testing.T, commit string, values ...string) {
	t.Helper()
	args := []string{"-f", gitOps + "/pipeline.yaml", "-f", gitOps + "/values.yaml", "-v", "git_sha=" + commit, "-v", "git_repo_url=https://git.example.com/digits"}
	for _, v := range values {
		args = append(args, "--data-value-yaml", v)
	}
	r := k.command(time.Minute, "ytt", args...)
	if r.err != nil {
		t.Fatal(r.err)
	}
	if err := os.WriteFile(k.rendered, []byte(r.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (k *kappRun) kapp(limit time.Duration, args ...string) result {
	return k.command(limit, "kapp", append(args, "-a", "digits", "-n", k.namespace, "-y", "--kubeconfig", k.kubeconfig)...)
}

func (k *kappRun) deploy() result {
	return k.kapp(limit, "deploy", "-f", k.rendered, "--wait-check-interval", "1s")
}

// runs are the namespace's workflows by name: phase and commit.
func (k *kappRun) runs(t *testing.T) map[string]string {
	t.Helper()
	r := k.kubectl("get", "workflows", "-o", "json")
	if r.err != nil {
		t.Fatal(r.err)
	}
	var list wfv1.WorkflowList
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, wf := range list.Items {
		out[wf.Name] = fmt.Sprintf("%s %.4s", wf.Status.Phase, wf.Labels["insitu/git-sha"])
	}
	return out
}

// expect compares the runs there are with the ones there should be.
func (k *kappRun) expect(t *testing.T, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, k.runs(t)); diff != "" {
		t.Fatalf("runs (-expected +found):\n%s", diff)
	}
}

// newKappRun makes a namespace with the pipeline's stand-in, and a kubeconfig of the App's ServiceAccount.
func newKappRun(t *testing.T) *kappRun {
	t.Helper()
	if os.Getenv("INSITU_E2E") != "1" {
		t.Skip("needs a cluster: INSITU_E2E is not 1 (make e2e sets it)")
	}
	in := &installation{namespace: "insitu-e2e-gitops-" + random(), ctx: context.Background()}
	k := &kappRun{installation: in, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), rendered: filepath.Join(t.TempDir(), "rendered.yaml")}
	t.Cleanup(func() {
		if r := in.command(3*time.Minute, "kubectl", "delete", "namespace", in.namespace, "--timeout=150s"); r.err != nil {
			t.Error(r.err)
		}
	})
	for _, r := range []result{
		in.command(time.Minute, "kubectl", "create", "namespace", in.namespace),
		in.kubectl("apply", "-f", gitOps+"/rbac.yaml"),
		in.input(time.Minute, pipelineStandIn, "kubectl", "-n", in.namespace, "apply", "-f", "-"),
		// Argo's executor of the stand-in's one pod reports how it ended.
		in.kubectl("create", "role", "reports", "--verb=create,patch", "--resource=workflowtaskresults.argoproj.io"),
		in.kubectl("create", "rolebinding", "reports", "--role=reports", "--serviceaccount="+in.namespace+":default"),
	} {
		if r.err != nil {
			t.Fatal(r.err)
		}
	}
	token := in.kubectl("create", "token", "insitu-gitops", "--duration=1h")
	view := in.command(time.Minute, "kubectl", "config", "view", "--raw", "--minify", "--flatten", "-o", "json")
	if token.err != nil || view.err != nil {
		t.Fatal(token.err, view.err)
	}
	var config map[string]any
	if err := json.Unmarshal([]byte(view.stdout), &config); err != nil {
		t.Fatal(err)
	}
	user := config["users"].([]any)[0].(map[string]any)
	user["user"] = map[string]string{"token": strings.TrimSpace(token.stdout)}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.kubeconfig, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestACommitIsRunOnceAndAFailedRunFailsKapp tells the story of one App; each part goes on where the one before ended.
func TestACommitIsRunOnceAndAFailedRunFailsKapp(t *testing.T) {
	t.Parallel()
	k := newKappRun(t)
	const version = "in-database-pipeline-ver-"
	succeeded := func(t *testing.T) {
		t.Helper()
		if r := k.deploy(); r.err != nil {
			t.Fatal(r.err)
		}
	}

	t.Log("a commit is a run")
	k.render(t, firstCommit)
	succeeded(t)
	k.expect(t, map[string]string{version + "1": "Succeeded 1111"})

	t.Log("no commit, no run: though Argo labels the Workflow, somebody stops it, and its template wants it deleted")
	if r := k.kubectl("patch", "workflow", version+"1", "--type=merge", "-p", `{"spec":{"shutdown":"Stop"},"metadata":{"labels":{"workflows.argoproj.io/actor":"me"}}}`); r.err != nil {
		t.Fatal(r.err)
	}
	r := k.deploy()
	if r.err != nil || !strings.Contains(r.stdout, "0 create, 0 delete, 0 update") {
		t.Fatalf("%v\n%s", r.err, r.stdout)
	}
	k.expect(t, map[string]string{version + "1": "Succeeded 1111"})

	t.Log("no commit, no run: a deploy that was killed before kapp noted what it applied")
	if r := k.kubectl("annotate", "workflow", version+"1", "kapp.k14s.io/original-", "kapp.k14s.io/original-diff-md5-"); r.err != nil {
		t.Fatal(r.err)
	}
	if r := k.kubectl("patch", "workflow", version+"1", "--type=json", "-p", `[{"op":"remove","path":"/spec/shutdown"},{"op":"remove","path":"/metadata/labels/workflows.argoproj.io~1actor"}]`); r.err != nil {
		t.Fatal(r.err)
	}
	succeeded(t)
	k.expect(t, map[string]string{version + "1": "Succeeded 1111"})

	t.Log("changed values are a new run, which runs what they say")
	k.render(t, firstCommit, "seed=1")
	succeeded(t)
	k.expect(t, map[string]string{version + "1": "Succeeded 1111", version + "2": "Succeeded 1111"})
	wf := (&run{&tenant{installation: k.installation}, version + "2"}).workflow(t)
	if p := wf.Spec.Arguments.GetParameterByName("seed"); p == nil || p.Value.String() != "1" {
		t.Errorf("run 2 has the parameters %v", wf.Spec.Arguments.Parameters)
	}

	t.Log("a failed run fails kapp and says why; deployed again it still does, and does not run again")
	k.render(t, secondCommit, "label=broken")
	for range 2 {
		r := k.deploy()
		if r.err == nil || !strings.Contains(strings.Join(strings.Fields(r.stderr), " "), `Failed: evaluate-model: main: Error (exit code`) ||
			!strings.Contains(r.stderr, "no-such-thing") {
			t.Fatalf("kapp: %v\n%s", r.err, r.stderr)
		}
		k.expect(t, map[string]string{version + "1": "Succeeded 1111", version + "2": "Succeeded 1111", version + "3": "Failed 2222"})
	}

	t.Log("a deploy that is interrupted and repeated waits for the run it started; the oldest runs make room")
	k.render(t, secondCommit, "seed=15", "num_versions=2")
	k.interrupted(t, version+"4")
	succeeded(t)
	k.expect(t, map[string]string{version + "3": "Failed 2222", version + "4": "Succeeded 2222"})

	t.Log("deleting the App deletes its runs")
	if r := k.kapp(2*time.Minute, "delete"); r.err != nil {
		t.Fatal(r.err)
	}
	k.expect(t, map[string]string{})
}

// interrupted deploys and breaks kapp off as Ctrl-C does, once the run is there.
func (k *kappRun) interrupted(t *testing.T, run string) {
	t.Helper()
	cmd := exec.CommandContext(k.ctx, "kapp", "deploy", "-a", "digits", "-n", k.namespace, "-y", "-f", k.rendered, "--kubeconfig", k.kubeconfig)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, run+" runs", func() bool { return strings.HasPrefix(k.runs(t)[run], "Running") })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("kapp ended well before the run did")
	}
}

// gitServer is a Git server that the pods reach as git.NAMESPACE.svc. Its image is made from test/e2e/git.
const gitServer = `
apiVersion: v1
kind: Service
metadata: {name: git}
spec:
  selector: {app: git}
  ports: [{port: 9418}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: git}
spec:
  selector: {matchLabels: {app: git}}
  template:
    metadata: {labels: {app: git}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: git
          image: insitu/e2e-git:%s
          imagePullPolicy: IfNotPresent
          securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
          resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 256Mi}}
          readinessProbe: {tcpSocket: {port: 9418}, periodSeconds: 1}
          volumeMounts: [{name: srv, mountPath: /srv}]
      volumes: [{name: srv, emptyDir: {}}]
`

// clone is a user's clone of the repository of an ML app, in a folder of it.
type clone struct {
	*tenant
	dir string
}

const folder = "ml/digits"

// newClone starts a Git server and makes a clone of its repository, with the digits app and the three files in it.
func newClone(t *testing.T, p *tenant) *clone {
	t.Helper()
	version, err := os.ReadFile(root + "/VERSION")
	if err != nil {
		t.Fatal(err)
	}
	if r := p.input(time.Minute, fmt.Sprintf(gitServer, strings.TrimSpace(string(version))), "kubectl", "-n", p.namespace, "apply", "-f", "-"); r.err != nil {
		t.Fatal(r.err)
	}
	if r := p.kubectl("rollout", "status", "deployment/git", "--timeout=100s"); r.err != nil {
		t.Fatal(r.err, p.pods())
	}
	port, err := p.forward("service/git", 9418)
	if err != nil {
		t.Fatal(err)
	}
	c := &clone{tenant: p, dir: t.TempDir()}
	there := filepath.Join(c.dir, folder)
	if err := os.CopyFS(there, os.DirFS(root+"/examples/digits")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pipeline_app.yaml", "values.yaml", "pipeline.yaml"} {
		content, err := os.ReadFile(filepath.Join(gitOps, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(there, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.git(t, "init", "-q", "-b", "main")
	c.git(t, "remote", "add", "origin", fmt.Sprintf("git://127.0.0.1:%d/app", port))
	return c
}

func (c *clone) git(t *testing.T, args ...string) string {
	t.Helper()
	r := c.command(time.Minute, "git", append([]string{"-C", c.dir, "-c", "user.name=e2e", "-c", "user.email=e2e@example.com"}, args...)...)
	if r.err != nil {
		t.Fatal(r.err)
	}
	return strings.TrimSpace(r.stdout)
}

// set changes values in values.yaml, name: value.
func (c *clone) set(t *testing.T, values map[string]string) {
	t.Helper()
	file := filepath.Join(c.dir, folder, "values.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range values {
		line := regexp.MustCompile(`(?m)^` + name + `: .*$`)
		if !line.Match(text) {
			t.Fatalf("values.yaml has no %s", name)
		}
		text = line.ReplaceAll(text, []byte(name+": "+value))
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// push commits everything, pushes it and returns the commit.
func (c *clone) push(t *testing.T, message string) string {
	t.Helper()
	c.git(t, "add", ".")
	c.git(t, "commit", "-q", "-m", message)
	c.git(t, "push", "-q", "origin", "main")
	return c.git(t, "rev-parse", "HEAD")
}

// deploy does what kapp-controller does with the clone.
func (c *clone) deploy(t *testing.T) result {
	t.Helper()
	there := filepath.Join(c.dir, folder)
	rendered := c.command(time.Minute, "ytt", "-f", there+"/pipeline.yaml", "-f", there+"/values.yaml",
		"-f", c.dir+"/.git/logs/HEAD", "-f", c.dir+"/.git/config", "-v", "name="+c.name)
	if rendered.err != nil {
		t.Fatal(rendered.err)
	}
	r := c.input(limit, rendered.stdout, "kapp", "deploy", "-a", c.name, "-n", c.namespace, "-y", "-f", "-", "--wait-check-interval", "1s")
	if r.err != nil {
		t.Fatal(r.err, c.pods())
	}
	return r
}

func TestACommitIsTrainedGatedAndServed(t *testing.T) {
	t.Parallel()
	p := newTenant(t, "commit")
	c := newClone(t, p)
	c.set(t, map[string]string{
		"git_repo_url": "git://git." + p.namespace + ".svc/app", "git_repo_path": folder,
		"training_db_schema": p.name, "inference_db_schema": p.name, "model_name": p.name, "experiment_name": p.name,
		"epochs": "2", "min_accuracy": "0.5", "min_f1": "0.5", "tolerance": "0.5",
	})
	first := c.push(t, "two epochs")
	c.deploy(t)
	ran := p.started(t, p.name+"-ver-1")
	wf := ran.workflow(t)
	before := ran.serves(t, wf)
	if got := wf.Labels["insitu/git-sha"]; got != first {
		t.Errorf("the run is labelled %q, the commit is %s", got, first)
	}
	for name, db := range map[string]postgres.Config{"training": p.training, "inference": p.inference} {
		tags := rows[string](t, db, "select tag from "+postgres.Ident(p.name, "databasechangelog")+" where tag is not null")
		if !slices.Contains(tags, first) {
			t.Errorf("the %s database's changelog is tagged %q, the commit is %s", name, tags, first)
		}
	}
	if got := p.alias(t).Tags["git_sha"]; got != first {
		t.Errorf("the model version has git_sha %q, the commit is %s", got, first)
	}
	changesets := count(t, p.training, p.name, "databasechangelog")

	if r := c.deploy(t); !strings.Contains(r.stdout, "0 create, 0 delete, 0 update") {
		t.Errorf("deployed again without a commit:\n%s", r.stdout)
	}

	c.set(t, map[string]string{"epochs": "3"})
	second := c.push(t, "three epochs")
	c.deploy(t)
	ran = p.started(t, p.name+"-ver-2")
	wf = ran.workflow(t)
	after := ran.serves(t, wf)
	if got := wf.Labels["insitu/git-sha"]; got != second || second == first {
		t.Errorf("the second run is labelled %q, the commits are %s and %s", got, first, second)
	}
	if epochs := wf.Spec.Arguments.GetParameterByName("epochs"); epochs == nil || epochs.Value.String() != "3" {
		t.Errorf("the second run has epochs %v", epochs)
	}
	if before["model-version"] == after["model-version"] {
		t.Errorf("both runs made version %s", after["model-version"])
	}
	if got := p.alias(t).Tags["git_sha"]; got != second {
		t.Errorf("the second model version has git_sha %q, the commit is %s", got, second)
	}
	if got := count(t, p.training, p.name, "databasechangelog"); got != changesets {
		t.Errorf("values alone added changesets to the training database: %d, then %d", changesets, got)
	}
}
