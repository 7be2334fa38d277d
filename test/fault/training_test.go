package fault

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/localservices"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// pack is how long the learner takes for one in these tests; an epoch is five packs of each of two shards, side by side.
const pack = 100 * time.Millisecond

// server is a training database of the test's own, which it may kill.
type server struct {
	options localservices.Options
	config  postgres.Config
}

func newServer(t *testing.T) *server {
	t.Helper()
	// Not the test's own directory: the server's unprivileged user cannot get there.
	dir, err := os.MkdirTemp("", "insitu-fault-")
	if err != nil {
		t.Fatal(err)
	}
	tools := os.Getenv("INSITU_TOOLS")
	if tools == "" {
		tools = localservices.DefaultTools()
	}
	s := &server{options: localservices.Options{State: dir, Tools: tools}} // not throwaway: a commit is to outlive a kill
	t.Cleanup(func() {
		if err := localservices.Stop(context.Background(), s.options); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	s.start(t)
	return s
}

func (s *server) start(t *testing.T) {
	t.Helper()
	config, err := localservices.StartTraining(t.Context(), s.options)
	if err != nil {
		t.Fatal(err)
	}
	if s.config.Port != 0 && s.config != config {
		t.Fatalf("the server came back at %s, it was at %s", config.Address(), s.config.Address())
	}
	s.config = config
}

// kill kills the postmaster and all its processes at once, as a machine does that loses power, and waits until they are gone.
func (s *server) kill(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.options.State, "pg-training", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	postmaster, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	all := append([]int{postmaster}, children(postmaster)...)
	for _, pid := range all {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatalf("kill %d: %v", pid, err)
		}
	}
	for _, pid := range all {
		for deadline := time.Now().Add(time.Minute); syscall.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is still there, a minute after it was killed", pid)
			}
		}
	}
}

// newTrainingTenant is ready to train on a server of its own, with a learner that takes its time.
func newTrainingTenant(t *testing.T) (*tenant, *server) {
	t.Helper()
	s := newServer(t)
	l := newLaneOn(t, s.config)
	l.app = copyApp(t, func(name, text string) string {
		if name == "insitu.yaml" {
			return strings.Replace(text, "model: digits", "model: "+l.model, 1)
		}
		const fit = "        loss, correct = 0.0, 0\n"
		if !strings.Contains(text, fit) {
			t.Fatal("learner.py has changed: where does fit begin?")
		}
		return strings.Replace(text, fit, "        __import__(\"time\").sleep("+strconv.FormatFloat(pack.Seconds(), 'f', -1, 64)+")\n"+fit, 1)
	})
	p := l.newTenant(t)
	p.must(t, "upload-dataset", "deploy-training-code")
	return p, s
}

// statements counts those of the tenant's role that run now.
func (p *tenant) statements(t *testing.T, watch *postgres.Conn, like string) (n int) {
	t.Helper()
	if err := watch.QueryRow(t.Context(), "select count(*) from pg_stat_activity where state = 'active' and usename = $1 and query like $2", p.training.Username, like).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// await waits until so many of the tenant's statements run.
func (p *tenant) await(t *testing.T, watch *postgres.Conn, like string, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); p.statements(t, watch, like) != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d statements like %q did not come within a minute", n, like)
		}
	}
}

const fitting = "%fit(%"

// checkpoints counts the recorded epochs, the initial state among them.
func (p *tenant) checkpoints(t *testing.T, watch *postgres.Conn) (n int) {
	t.Helper()
	if err := watch.QueryRow(t.Context(), "select count(*) from "+postgres.Ident(p.schema, "checkpoints")).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// trainInto starts a new training and returns when both shards are in its second epoch.
func (p *tenant) trainInto(t *testing.T) *process {
	t.Helper()
	for _, table := range []string{"models", "checkpoints", "jobs"} {
		execute(t, p.adminTraining, "delete from "+postgres.Ident(p.schema, table))
	}
	p.forgetModel(t)
	p.experiment = "fault-" + random(t)
	watch := connect(t, p.adminTraining)
	defer watch.Close()
	r := p.start(t, "train-model")
	for deadline := time.Now().Add(time.Minute); p.checkpoints(t, watch) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no epoch was recorded within a minute\n%s", r.stderr.String())
		}
	}
	p.await(t, watch, fitting, 2)
	return r
}

// retried runs the step as the workflow does: again while its fault is a temporary one.
func (p *tenant) retried(t *testing.T, step string) {
	t.Helper()
	a := p.run(t, step, nil)
	for deadline := time.Now().Add(time.Minute); a.code == 75 && time.Now().Before(deadline); a = p.run(t, step, nil) {
		t.Logf("tried again: %s", a.message)
	}
	if a.code != 0 {
		t.Fatalf("%s ended with %d, expected 0: %s\n%s", step, a.code, a.message, a.stderr)
	}
}

// reconnect connects to a server that may be recovering.
func (p *tenant) reconnect(t *testing.T) *postgres.Conn {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := postgres.Connect(t.Context(), p.adminTraining, postgres.Options{})
		if err == nil {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// checkDies kills the database in mid-epoch: the step's fault is a temporary one, and the next one ends like an undisturbed one.
func (p *tenant) checkDies(t *testing.T, want state, strike func(t *testing.T), restart func(t *testing.T)) {
	t.Helper()
	r := p.trainInto(t)
	strike(t)
	p.expect(t, p.wait(t, r), 75, "epoch 2 of job")
	if restart != nil {
		p.expect(t, p.run(t, "train-model", nil), 75, "connection refused")
		restart(t)
	}
	watch := p.reconnect(t)
	if n := p.checkpoints(t, watch); n != 2 {
		t.Errorf("%d checkpoints after the fault, want those of epochs 0 and 1", n)
	}
	watch.Close()
	p.retried(t, "train-model")
	p.checkIdle(t)
	if diff := cmp.Diff(want, p.state(t)); diff != "" {
		t.Errorf("the state differs from an undisturbed run's (-undisturbed +disturbed):\n%s", diff)
	}
}

// killSession kills the process of a shard's session.
func (p *tenant) killSession(t *testing.T) {
	t.Helper()
	watch := connect(t, p.adminTraining)
	defer watch.Close()
	var pid int
	if err := watch.QueryRow(t.Context(), "select max(pid) from pg_stat_activity where state = 'active' and usename = $1 and query like $2", p.training.Username, fitting).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// checkStops sends a signal to trainings in mid-epoch and measures until the database is idle.
// The median is to keep to limit; a single try may wait for a busy machine.
// The first pack of a session takes longer, it loads the learner's libraries: the second epoch has none of those.
func (p *tenant) checkStops(t *testing.T, signal syscall.Signal, code, tries int, limit time.Duration) {
	t.Helper()
	watch := connect(t, p.adminTraining)
	defer watch.Close()
	var took []time.Duration
	for try := range tries {
		r := p.trainInto(t)
		time.Sleep(time.Duration(try) * pack / time.Duration(tries)) // another moment of the pack each time
		sent := time.Now()
		if err := r.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		p.await(t, watch, "%", 0)
		took = append(took, time.Since(sent))
		if a := p.wait(t, r); a.code != code {
			t.Fatalf("exit code %d, want %d: %s", a.code, code, a.message)
		}
		if n := p.checkpoints(t, watch); n != 2 {
			t.Errorf("%d checkpoints, want those of epochs 0 and 1", n)
		}
	}
	slices.Sort(took)
	median, longest := took[tries/2], took[tries-1]
	t.Logf("packs of %v: idle after %v (median of %d), %v at most", pack, median, tries, longest)
	// A training that was not stopped would go on for two seconds.
	if median > limit || longest > limit+time.Second {
		t.Errorf("idle after %v, want a median of %v at most", took, limit)
	}
}

func TestATrainingIsStoppedInMidEpochAndResumed(t *testing.T) {
	t.Parallel()
	p, s := newTrainingTenant(t)
	p.must(t, "train-model")
	want := p.state(t)
	if n := len(want["training checkpoints"]); n != 5 {
		t.Fatalf("%d checkpoints of the undisturbed training, want 5", n)
	}
	// PostgreSQL cannot know what the process did to the shared memory: it ends all sessions and recovers.
	t.Run("one session's process is killed", func(t *testing.T) { p.checkDies(t, want, p.killSession, nil) })
	t.Run("the whole server is killed", func(t *testing.T) { p.checkDies(t, want, s.kill, s.start) })
	const quick = 100 * time.Millisecond
	t.Run("the step is told to stop", func(t *testing.T) { p.checkStops(t, syscall.SIGTERM, 143, 3, pack+quick) })
	// Nobody tells the database then: it looks for its client every 100 ms, see postgres.Connect.
	t.Run("the step is killed", func(t *testing.T) { p.checkStops(t, syscall.SIGKILL, -1, 3, pack+2*quick) })
}
