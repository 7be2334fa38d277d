package fault

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// expect checks a failure: the documented exit code, one error in the log that is also the termination
// message and says all of texts, and no secret anywhere.
func (p *tenant) expect(t *testing.T, a attempt, code int, texts ...string) {
	t.Helper()
	if a.code != code {
		t.Errorf("exit code %d, expected %d: %s", a.code, code, a.message)
	}
	for _, text := range texts {
		if !strings.Contains(a.message, text) {
			t.Errorf("the termination message lacks %q:\n%s", text, a.message)
		}
	}
	var errs []string
	for line := range strings.Lines(a.stderr) {
		var entry struct{ Level, Error string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("the log line %q is not a JSON object: %v", line, err)
		}
		if entry.Level == "error" {
			errs = append(errs, entry.Error)
		}
	}
	if len(errs) != 1 || strings.TrimSpace(errs[0]) != strings.TrimSpace(a.message) {
		t.Errorf("errors in the log: %q, expected the termination message alone: %q", errs, a.message)
	}
	secrets := []string{p.password, wrongPassword, url.QueryEscape(p.password), p.bindings["s3"]["secret-access-key"]}
	for _, secret := range secrets {
		if strings.Contains(a.stderr+a.message, secret) {
			t.Errorf("the output holds the secret %q:\n%s", secret, a.stderr)
		}
	}
	if len(a.leftover) > 0 {
		t.Errorf("temporary files are left: %q", a.leftover)
	}
}

const wrongPassword = "Wrong-0e0b1c-password"

// closedPort is an address where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// brokenMLflow stands in front of the real server and answers the calls that match fail with an error.
type brokenMLflow struct {
	uri  string
	fail atomic.Pointer[failure]
}

type failure struct {
	method string
	path   *regexp.Regexp
	status int
}

func newBrokenMLflow(t *testing.T, target string) *brokenMLflow {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	b, proxy := &brokenMLflow{}, httputil.NewSingleHostReverseProxy(u)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := b.fail.Load(); f != nil && r.Method == f.method && f.path.MatchString(r.URL.Path) {
			http.Error(w, `{"error_code": "INTERNAL_ERROR", "message": "the registry's own trouble"}`, f.status)
			return
		}
		r.Host = u.Host
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	b.uri = server.URL
	return b
}

func (b *brokenMLflow) answer(status int, method, path string) setting {
	b.fail.Store(&failure{method, regexp.MustCompile(path), status})
	return setting{"mlflow", "uri", b.uri}
}

// unchanged runs what fails and checks that it changed nothing of what has to stay.
func (p *tenant) unchanged(t *testing.T, sections []string, try func()) {
	t.Helper()
	before := p.state(t)
	try()
	after := p.state(t)
	for _, section := range sections {
		if diff := cmp.Diff(before[section], after[section]); diff != "" {
			t.Errorf("%s changed (-before +after):\n%s", section, diff)
		}
	}
}

func dataSections() []string {
	return []string{"training datasets", "training packs", "training relations", "objects"}
}

func promotionSections() []string {
	return []string{"versions", "alias", "inference activations", "inference model_versions"}
}

// A tenant goes through the pipeline; each step first meets every fault it can meet, and then none.
func TestAStepThatMeetsAFaultSaysSoAndTheNextRunSucceeds(t *testing.T) {
	t.Parallel()
	l := newLane(t)
	want, _ := undisturbed(t, l)
	p := l.newTenant(t)
	mlflow := newBrokenMLflow(t, l.bindings["mlflow"]["uri"])
	fault := func(name, step string, sections []string, code int, texts []string, changes ...setting) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			p.unchanged(t, sections, func() { p.expect(t, p.run(t, step, nil, changes...), code, texts...) })
			l.checkIdle(t)
		})
	}
	closed := closedPort(t)
	_, port, _ := net.SplitHostPort(closed)
	trainingAt := fmt.Sprintf("connect to %s", l.training.Address())

	const upload = "upload-dataset"
	data := dataSections()
	fault("upload while the object store is down", upload, data, 75, []string{"connection refused", closed}, setting{"s3", "endpoint", "http://" + closed})
	fault("upload with a wrong object store secret", upload, data, 2, []string{"AccessDenied", "HTTP 403"}, setting{"s3", "secret-access-key", wrongPassword})
	fault("upload while the database is down", upload, data, 75, []string{"connection refused", closed}, setting{"training", "port", port})
	fault("upload with a wrong database password", upload, data, 2, []string{trainingAt, "28P01"}, setting{"training", "password", wrongPassword})
	t.Run("upload onto a full disk", func(t *testing.T) { p.fullDisk(t) })
	p.must(t, upload)

	const deploy = "deploy-training-code"
	fault("code deployment with a wrong database password", deploy, data, 2, []string{trainingAt, "28P01"}, setting{"training", "password", wrongPassword})
	releases := postgres.Ident(p.schema, "releases")
	execute(t, l.adminTraining, "create view "+releases+
		" as select 0 ordinal, ''::text app, ''::text digest, ''::text git_sha, '{}'::json manifest, ''::text bundle")
	fault("code deployment over a relation that is in the way", deploy, append(promotionSections(), "training packs", "training releases"), 1, []string{"changeset", `relation "releases" already exists`, "42P07"})
	execute(t, l.adminTraining, "drop view "+releases)
	p.must(t, deploy)

	const train = "train-model"
	promotion := promotionSections()
	fault("training while MLflow is down", train, promotion, 75, []string{"connection refused"}, setting{"mlflow", "uri", "http://" + closed})
	fault("training refused by MLflow", train, promotion, 2, []string{"401"}, mlflow.answer(401, http.MethodPost, "runs/create$"))
	breakEpoch(t, p, 2)
	fault("training with an SQL error in an epoch", train, promotion, 1, []string{"the disk of the dreams is full", "P0001", "epoch 2"})
	repairEpoch(t, p)
	fault("training with MLflow answering 500 at the registration", train, promotion, 75, []string{"500", "the registry's own trouble"},
		mlflow.answer(500, http.MethodPost, "model-versions/create$"))
	fault("training with MLflow answering 500 at the upload", train, promotion, 75, []string{"500", "the registry's own trouble"},
		mlflow.answer(500, http.MethodPut, "mlflow-artifacts"))
	p.must(t, train)

	const evaluate = "evaluate-model"
	fault("evaluation with MLflow answering 500 at the report", evaluate, promotion, 75, []string{"500", "the registry's own trouble"},
		mlflow.answer(500, http.MethodPut, "evaluation/"))
	fault("evaluation with a wrong database password", evaluate, promotion, 2, []string{trainingAt, "28P01"}, setting{"training", "password", wrongPassword})
	p.must(t, evaluate)

	const promote = "promote-model-to-staging"
	fault("promotion with MLflow answering 500", promote, promotion, 75, []string{"500", "the registry's own trouble"},
		mlflow.answer(500, http.MethodPost, "registered-models/alias$"))
	p.must(t, promote)

	const serve = "deploy-inference-db"
	inferenceAt := fmt.Sprintf("connect to %s", l.inference.Address())
	fault("model deployment with a wrong database password", serve, promotion, 2, []string{inferenceAt, "28P01"}, setting{"inference", "password", wrongPassword})
	fault("model deployment with MLflow answering 500", serve, promotion, 75, []string{"500", "the registry's own trouble"},
		mlflow.answer(500, http.MethodGet, "mlflow-artifacts"))
	p.must(t, serve)

	l.checkIdle(t)
	if diff := cmp.Diff(want, p.state(t)); diff != "" {
		t.Errorf("the state differs from an undisturbed run's (-undisturbed +disturbed):\n%s", diff)
	}
}

// breakEpoch lets the database refuse the checkpoint of one epoch.
func breakEpoch(t *testing.T, p *tenant, epoch int) {
	t.Helper()
	function := postgres.Ident(p.schema, "refuse")
	execute(t, p.adminTraining, "create function "+function+"() returns trigger language plpgsql as $$ begin raise 'the disk of the dreams is full'; end $$")
	execute(t, p.adminTraining, "create trigger refuse before insert on "+postgres.Ident(p.schema, "checkpoints")+
		" for each row when (new.epoch = "+strconv.Itoa(epoch)+") execute function "+function+"()")
}

func repairEpoch(t *testing.T, p *tenant) {
	t.Helper()
	execute(t, p.adminTraining, "drop function "+postgres.Ident(p.schema, "refuse")+"() cascade")
}

// fullDisk uploads to a tablespace of 64 KiB, enough for the empty tables and too little for the packs: the tiny disk is a tmpfs,
// and the role's new tables go there. It needs root, and a server on this machine.
func (p *tenant) fullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a tiny file system")
	}
	var data string
	conn := connect(t, p.adminTraining)
	defer conn.Close()
	if err := conn.QueryRow(t.Context(), "show data_directory").Scan(&data); err != nil {
		t.Fatal(err)
	}
	owner := new(syscall.Stat_t)
	if err := syscall.Stat(data, owner); err != nil {
		t.Skipf("needs the database server on this machine: %v", err)
	}
	// Beside the cluster, where the server may go; a test's own directory is root's alone.
	disk, err := os.MkdirTemp(filepath.Dir(data), "tiny-disk-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(disk)
	options := fmt.Sprintf("size=64k,mode=700,uid=%d,gid=%d", owner.Uid, owner.Gid)
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "insitu-tiny-disk", disk).CombinedOutput(); err != nil {
		t.Skipf("needs the right to mount a tiny file system: %v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}()
	space, role := postgres.Ident("tiny_"+random(t)), postgres.Ident(p.training.Username)
	execute(t, p.adminTraining, "create tablespace "+space+" location '"+disk+"'")
	defer execute(t, p.adminTraining, "drop tablespace "+space)
	execute(t, p.adminTraining, "alter role "+role+" set default_tablespace = "+space)
	a := p.run(t, "upload-dataset", nil)
	execute(t, p.adminTraining, "alter role "+role+" reset default_tablespace")
	p.expect(t, a, 1, "insert into", "No space left on device", "53100")
	p.checkIdle(t)
	if datasets := p.state(t)["training datasets"]; len(datasets) > 0 && datasets[0] != "none" {
		t.Errorf("the dataset is entered, expected none: %q", datasets)
	}
	var tables int
	if err := conn.QueryRow(t.Context(), "select count(*) from pg_tables where schemaname = $1 and tablename like 'packs%'", p.schema).Scan(&tables); err != nil || tables > 0 {
		t.Errorf("%d pack tables are left (%v), expected none", tables, err)
	}
	execute(t, p.adminTraining, "drop table if exists "+postgres.Ident(p.schema, "datasets"))
}

func TestALearnerThatRaisesIsNamedWithItsLineAndNothingIsRegistered(t *testing.T) {
	t.Parallel()
	l := newLane(t)
	p := l.newTenant(t)
	good, line := l.app, 0
	l.app = copyApp(t, func(name, text string) string {
		if name == "insitu.yaml" {
			return strings.Replace(text, "model: digits", "model: "+l.model, 1)
		}
		before, after, found := strings.Cut(text, "        loss, correct = 0.0, 0\n")
		if !found {
			t.Fatal("learner.py has changed: where does fit begin?")
		}
		line = strings.Count(before, "\n") + 1
		return before + "        raise ValueError(\"the camera was upside down\")\n" + after
	})
	p.must(t, "upload-dataset", "deploy-training-code")
	p.unchanged(t, promotionSections(), func() {
		p.expect(t, p.run(t, "train-model", nil), 1, fmt.Sprintf("learner.py, line %d, in fit: ValueError: the camera was upside down", line))
	})
	l.checkIdle(t)
	got := p.state(t)
	if models := got["training models"]; len(models) > 0 {
		t.Errorf("models: %q, expected none", models)
	}
	if runs := strings.Join(got["runs"], ""); !strings.HasSuffix(runs, " FAILED") || len(got["runs"]) != 1 {
		t.Errorf("runs: %q, expected one that failed", runs)
	}
	l.app = good
	p.must(t, order()...)
	if got := p.state(t); len(got["versions"]) != 1 || len(got["inference model_versions"]) != 1 {
		t.Errorf("versions %q, active %q, expected one each", got["versions"], got["inference model_versions"])
	}
}
