package fault

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

// rollback runs insitu rollback, and kills it after a while unless that is 0. It returns its exit code, -1 for one that was killed, and what it said.
func (p *tenant) rollback(t *testing.T, to int, after time.Duration, changes ...setting) (code int, said string) {
	t.Helper()
	p.tries++
	root := p.writeBindings(t, filepath.Join(p.dir, strconv.Itoa(p.tries)), changes)
	cmd := exec.Command(filepath.Join(p.bin, "insitu"), "rollback", "--inference-schema", p.schema, "--bindings", root, "--to", strconv.Itoa(to))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer timer.Stop()
	}
	if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// twoVersions goes through the pipeline, trains once more with another seed, and returns the tenant with version 1 in service and 2 registered.
func (l *lane) twoVersions(t *testing.T) *tenant {
	t.Helper()
	p := l.newTenant(t)
	p.must(t, order()...)
	p.seed = 2
	p.must(t, "train-model")
	if got := p.outputs["train-model"]["model-version"]; got != "2" {
		t.Fatalf("the second training is version %q", got)
	}
	return p
}

// forget takes version 2 out of the inference database, as a rollback by stock Liquibase would, so that it is deployed anew.
func (p *tenant) forget(t *testing.T) {
	t.Helper()
	for _, from := range [][2]string{{"activations", "version = 2"}, {"models", "version = 2"}, {"databasechangelog", "id like 'model-%-2-%'"}} {
		execute(t, p.inference, "delete from "+postgres.Ident(p.schema, from[0])+" where "+from[1])
	}
}

// served is the active version; exactly one must be.
func (p *tenant) served(t *testing.T) int {
	t.Helper()
	conn := connect(t, p.inference)
	defer conn.Close()
	var versions []int
	if err := conn.QueryRow(t.Context(), "select array(select version from "+postgres.Ident(p.schema, "model_versions")+" where active)").Scan(&versions); err != nil || len(versions) != 1 {
		t.Fatalf("active: %v, %v, expected exactly one version", versions, err)
	}
	return versions[0]
}

// agrees checks that version is active and has the alias, and that ledger, activations and changelog tell the same.
func (p *tenant) agrees(t *testing.T, version int) {
	t.Helper()
	if got := p.served(t); got != version {
		t.Errorf("version %d is active, expected %d", got, version)
	}
	holder, err := p.registry(t).Alias(t.Context(), p.model, "staging")
	if err != nil || holder.Version != version {
		t.Errorf("the alias names version %d (%v), expected %d", holder.Version, err, version)
	}
	conn := connect(t, p.inference)
	defer conn.Close()
	var switches, rollbacks []string
	in := func(table string) string { return postgres.Ident(p.schema, table) }
	ask := func(into *[]string, sql string) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "select array("+sql+")").Scan(into); err != nil {
			t.Fatal(err)
		}
	}
	ask(&switches, "select a.ordinal || ' ' || a.version from "+in("activations")+" a left join "+in("deployments")+
		" d on d.ordinal = a.ordinal and d.version = a.version and d.action in ('activate', 'rollback') where d.ordinal is null")
	ask(&rollbacks, "select coalesce(c.id, 'ledger ' || d.ordinal) from (select * from "+in("deployments")+" where action = 'rollback') d full join (select * from "+in("databasechangelog")+
		" where id like 'rollback-%') c on c.id = 'rollback-' || d.name || '-' || d.version || '-' || d.ordinal where c.id is null or d.ordinal is null")
	if len(switches)+len(rollbacks) > 0 {
		t.Errorf("switches that the ledger does not know: %v; rollbacks that are in the ledger or in databasechangelog alone: %v", switches, rollbacks)
	}
	var last []string
	ask(&last, "select action || ' ' || version from "+in("deployments")+" order by ordinal desc limit 1")
	if want := []string{fmt.Sprintf("alias %d", version)}; !slices.Equal(last, want) {
		t.Errorf("the ledger ends with %q, expected %q", last, want)
	}
}

// INSITU_FAULT_ROUNDS and INSITU_FAULT_SEED are those of the pipeline that is killed.
func TestDeploymentsAndRollbacksThatAreKilledLeaveOneActiveVersion(t *testing.T) {
	t.Parallel()
	rounds, seed := int(number(t, "INSITU_FAULT_ROUNDS", 20)), number(t, "INSITU_FAULT_SEED", uint64(time.Now().UnixNano()))
	t.Logf("INSITU_FAULT_SEED=%d, %d rounds", seed, rounds)
	rng := rand.New(rand.NewPCG(seed, lanes))
	l := newLane(t)
	p := l.twoVersions(t)
	const deploy = "deploy-inference-db"
	started := time.Now()
	p.must(t, deploy)
	p.agrees(t, 2)
	took := time.Since(started)
	started = time.Now()
	if code, said := p.rollback(t, 1, 0); code != 0 {
		t.Fatalf("rollback ended with %d: %s", code, said)
	}
	p.agrees(t, 1)
	back := time.Since(started)
	t.Logf("undisturbed: deploy and switch %s, rollback %s", took.Round(time.Millisecond), back.Round(time.Millisecond))
	hit := map[bool]int{}
	for round := range rounds {
		t.Run(fmt.Sprintf("round %d", round+1), func(t *testing.T) {
			forward, after := round%2 == 0, time.Duration(rng.Float64()*late*float64(took))
			if forward {
				p.forget(t)
				a := p.run(t, deploy, &kill{after: after, tree: rng.IntN(2) == 0})
				if a.killed {
					hit[true]++
				} else if a.code != 0 {
					t.Fatalf("%s, before it was killed, ended with %d: %s", deploy, a.code, a.message)
				} else {
					took = a.seconds // the machine is faster now: aim better
				}
				p.served(t)
				p.must(t, deploy)
				p.agrees(t, 2)
			} else {
				after = time.Duration(rng.Float64() * late * float64(back))
				started := time.Now()
				if code, said := p.rollback(t, 1, after+time.Millisecond); code == -1 {
					hit[false]++
				} else if code != 0 {
					t.Fatalf("rollback, before it was killed, ended with %d: %s", code, said)
				} else {
					back = time.Since(started)
				}
				p.served(t)
				if code, said := p.rollback(t, 1, 0); code != 0 {
					t.Fatalf("rollback ended with %d: %s", code, said)
				}
				p.agrees(t, 1)
			}
			l.checkIdle(t)
			if t.Failed() {
				t.Logf("forward %t, killed after %s", forward, after)
			}
		})
	}
	t.Logf("%d deployments and %d rollbacks were hit", hit[true], hit[false])
}

// What the database needs is in it: neither a training database nor a registry is there when it goes back.
func TestARollbackNeedsNeitherTrainingDatabaseNorRegistryToServe(t *testing.T) {
	t.Parallel()
	l := newLane(t)
	p := l.twoVersions(t)
	mlflow := newBrokenMLflow(t, l.bindings["mlflow"]["uri"])
	const deploy = "deploy-inference-db"

	// At each failure the database serves one version; the next run completes it.
	p.expect(t, p.run(t, deploy, nil, setting{"training", "port", "1"}), 75, "connection refused")
	if got := p.served(t); got != 1 {
		t.Errorf("version %d is active, expected 1", got)
	}
	p.expect(t, p.run(t, deploy, nil, mlflow.answer(500, http.MethodPost, "registered-models/alias$")), 75, "is active, but the alias")
	if got := p.served(t); got != 2 {
		t.Errorf("version %d is active, expected 2", got)
	}
	p.must(t, deploy)
	p.agrees(t, 2)

	away := setting{"mlflow", "uri", "http://" + closedPort(t)}
	code, said := p.rollback(t, 1, 0, away, setting{"training", "port", "1"})
	if code != 75 || !strings.Contains(said, "the database serves version 1, but the alias") || p.served(t) != 1 {
		t.Errorf("rollback ended with %d: %s", code, said)
	}
	holder, err := p.registry(t).Alias(t.Context(), p.model, "staging")
	if err != nil || holder.Version != 2 {
		t.Errorf("the alias names version %d (%v), expected 2 as yet", holder.Version, err)
	}
	if code, said := p.rollback(t, 1, 0, setting{"training", "port", "1"}); code != 0 {
		t.Errorf("rollback ended with %d: %s", code, said)
	}
	p.agrees(t, 1)
	// The real server takes an alias away, too.
	if err := p.registry(t).DeleteAlias(t.Context(), p.model, "staging"); err != nil {
		t.Error(err)
	}
	if err := p.registry(t).DeleteAlias(t.Context(), p.model, "staging"); err != nil {
		t.Errorf("once more: %v", err)
	}
	if _, err := p.registry(t).Alias(t.Context(), p.model, "staging"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("the alias is still there: %v", err)
	}
}
