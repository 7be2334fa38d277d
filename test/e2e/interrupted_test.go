package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// long are parameters of a training that goes on for many seconds: a wide network, and as many epochs as are given.
func long(epochs int) []string {
	return []string{fmt.Sprintf("epochs=%d", epochs), `parameters={"hidden": 2048}`}
}

// epochs are the checkpoints of the tenant's only job: epoch and when it was recorded.
func (p *tenant) epochs(t *testing.T) []string {
	t.Helper()
	if count(t, p.training, p.name, "checkpoints") == 0 {
		return nil
	}
	return rows[string](t, p.training, "select epoch || ' at ' || created_at || ' ' || md5(state) from "+p.table("checkpoints")+" order by epoch")
}

// pod is the name of the pod that runs a step.
func (r *run) pod(t *testing.T, step string) string {
	t.Helper()
	got := r.kubectl("get", "pods", "-l", "workflows.argoproj.io/workflow="+r.name, "--field-selector=status.phase=Running", "-o", "name")
	for name := range strings.Lines(got.stdout) {
		if strings.Contains(name, step) {
			return strings.TrimPrefix(strings.TrimSpace(name), "pod/")
		}
	}
	t.Fatalf("no pod of %s runs %s: %s%v", r.name, step, got.stdout, got.err)
	return ""
}

func TestAnEvictedTrainingResumesFromItsCheckpoint(t *testing.T) {
	t.Parallel()
	evicted(t, dag, "train-model")
}

func TestAnEvictedContainerSetResumesFromItsCheckpoint(t *testing.T) {
	t.Parallel()
	evicted(t, express, "learn")
}

// evicted evicts the pod that trains.
func evicted(t *testing.T, template, trains string) {
	p := newTenant(t, "evicted")
	const all = 30
	r := p.submit(t, template, long(all)...)
	within(t, limit, "three epochs are recorded", func() bool { return len(p.epochs(t)) > 3 })

	// What draining a node does.
	pod := r.pod(t, trains)
	eviction := fmt.Sprintf(`{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": %q, "namespace": %q}}`, pod, p.namespace)
	if got := p.input(time.Minute, eviction, "kubectl", "create", "--raw", "/api/v1/namespaces/"+p.namespace+"/pods/"+pod+"/eviction", "-f", "-"); got.err != nil {
		t.Fatal(got.err)
	}
	within(t, time.Minute, "the evicted pod ends", func() bool {
		return p.kubectl("get", "pod", pod, "-o", "jsonpath={.status.phase}").stdout != "Running"
	})
	before := p.epochs(t)
	if len(before) > all {
		t.Fatalf("all %d epochs were trained before the pod ended: the test needs more", all)
	}

	wf := r.end(t, wfv1.WorkflowSucceeded)
	after := p.epochs(t)
	if diff := cmp.Diff(before, after[:len(before)]); diff != "" || len(after) != all+1 {
		t.Errorf("%d checkpoints, and those from before the eviction: %s", len(after), diff)
	}
	if line := r.logged(t).find("train-model", "epoch was trained before"); line == nil || line["epoch"] != float64(len(before)-1) {
		t.Errorf("the last epoch that train-model found was %v, expected %d", line["epoch"], len(before)-1)
	}
	t.Logf("%d of %d epochs were recorded when the pod ended", len(before)-1, all)
	r.serves(t, wf)

	// The same training, undisturbed and in one call in the database, has the same model.
	evicted := one[string](t, p.training, "select onnx_digest from "+p.table("models"))
	if undisturbed := p.undisturbed(t, all); evicted != undisturbed {
		t.Errorf("the model has the digest %s, undisturbed %s", evicted, undisturbed)
	}
}

// undisturbed forgets the tenant's training, trains it again within one statement, and returns the digest of its model.
func (p *tenant) undisturbed(t *testing.T, epochs int) string {
	t.Helper()
	for _, table := range []string{"models", "checkpoints", "jobs"} {
		rows[string](t, p.training, "delete from "+p.table(table)+" returning ''")
	}
	rows[string](t, p.training, "select "+p.table("run_training_task")+"($1::json)::text", fmt.Sprintf(`{"epochs": %d, "parameters": {"hidden": 2048}}`, epochs))
	return one[string](t, p.training, "select onnx_digest from "+p.table("models"))
}

func TestStoppingARunCancelsItsWorkInTheDatabase(t *testing.T) {
	t.Parallel()
	stopped(t, dag, "split-seed=7")
}

func TestStoppingAContainerSetCancelsItsWorkInTheDatabase(t *testing.T) {
	t.Parallel()
	stopped(t, express, "split-seed=8")
}

// stopped stops a run that trains. Another split of the data has a table of packs of its own:
// so its statements are told from other tests'.
func stopped(t *testing.T, template, split string) {
	p := newTenant(t, "stopped")
	r := p.submit(t, template, append(long(1000), split)...)
	within(t, limit, "an epoch is recorded", func() bool { return len(p.epochs(t)) > 1 })
	packs := one[string](t, p.training, "select pack_table from "+p.table("datasets"))
	job := one[string](t, p.training, "select id from "+p.table("jobs"))
	working := func() int {
		return one[int](t, p.training, "select count(*) from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() and query like '%' || $1 || '%'", packs)
	}
	locked := func() int {
		key := uint64(postgres.LockKey("train:" + p.name + ":" + job))
		return one[int](t, p.training, "select count(*) from pg_locks where locktype = 'advisory' and classid = $1 and objid = $2", int64(key>>32), int64(key&0xffffffff))
	}
	within(t, time.Minute, "the database trains", func() bool { return working() > 0 && locked() > 0 })

	began := time.Now()
	if got := p.argo("stop", r.name); got.err != nil {
		t.Fatal(got.err)
	}
	within(t, time.Minute, "the database stops", func() bool { return working() == 0 && locked() == 0 })
	took := time.Since(began)
	t.Logf("argo stop: the database's work ended after %.1f s", took.Seconds())
	if took > 15*time.Second {
		t.Errorf("argo stop: the database worked on for %s", took)
	}
	epochs := p.epochs(t)
	r.end(t, wfv1.WorkflowFailed)
	if versions, err := p.models.ModelVersions(p.ctx, p.name, nil); err != nil || len(versions) > 0 {
		t.Errorf("a stopped run registered %v, %v", versions, err)
	}
	if now := p.epochs(t); !slices.Equal(epochs, now) || working() > 0 {
		t.Errorf("the database trained on: %d epochs when it had stopped, %d at the workflow's end", len(epochs), len(now))
	}
}
