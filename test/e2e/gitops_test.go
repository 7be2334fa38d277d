package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/google/go-cmp/cmp"
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
