package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"golang.org/x/net/html"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

const (
	dag     = "in-database-pipeline"
	express = "in-database-pipeline-express"
	// limit of one run, however busy the machine is.
	limit = 6 * time.Minute
)

// tenant is who runs pipelines: its name is that of its schemas, its registered model and its experiment.
type tenant struct {
	*installation
	name string
}

func newTenant(t *testing.T, word string) *tenant {
	t.Helper()
	return &tenant{installation: cluster(t), name: "e2e-" + word + "-" + random()}
}

// parameters are what every run of the tenant sets, and then more, as name=value.
// Two epochs do not pass the app's gate, so the gate is a lower one unless a test sets it.
func (p *tenant) parameters(more ...string) []string {
	return append([]string{"app=" + p.app, "schema=" + p.name, "inference-schema=" + p.name, "model-name=" + p.name, "experiment=" + p.name,
		"min-accuracy=0.5", "min-f1=0.5"}, more...)
}

// table is the quoted name of something in the tenant's schema, of either database.
func (p *tenant) table(name string) string { return postgres.Ident(p.name, name) }

// run is one workflow of a tenant.
type run struct {
	*tenant
	name string
}

// started makes a run known, so that a failed test shows what became of it.
func (p *tenant) started(t *testing.T, name string) *run {
	t.Helper()
	r := &run{p, name}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.diagnosis())
		}
	})
	return r
}

// submitArguments are those of `argo submit`.
func (p *tenant) submitArguments(template string, more ...string) []string {
	args := []string{"submit", "--from", "workflowtemplate/" + template}
	for _, parameter := range p.parameters(more...) {
		args = append(args, "-p", parameter)
	}
	return args
}

// submit starts a run and does not wait for it.
func (p *tenant) submit(t *testing.T, template string, more ...string) *run {
	t.Helper()
	r := p.argo(append(p.submitArguments(template, more...), "-o", "name")...)
	if r.err != nil {
		t.Fatal(r.err)
	}
	return p.started(t, strings.TrimSpace(r.stdout))
}

// follow starts a run, waits for its end and returns what `--wait --log` printed meanwhile.
func (p *tenant) follow(t *testing.T, template string, more ...string) (*run, result) {
	t.Helper()
	name := "followed-" + random()
	r := p.argoWithin(limit, append(p.submitArguments(template, more...), "--name", name, "--wait", "--log")...)
	return p.started(t, name), r
}

// workflow is its present state.
func (r *run) workflow(t *testing.T) *wfv1.Workflow {
	t.Helper()
	got := r.argo("get", r.name, "-o", "json")
	if got.err != nil {
		t.Fatal(got.err)
	}
	var wf wfv1.Workflow
	if err := json.Unmarshal([]byte(got.stdout), &wf); err != nil {
		t.Fatalf("read workflow %s: %v\n%s", r.name, err, got.stdout)
	}
	return &wf
}

// end waits for the run's end, which must be of the given phase.
func (r *run) end(t *testing.T, phase wfv1.WorkflowPhase) *wfv1.Workflow {
	t.Helper()
	waited := r.argoWithin(limit, "wait", r.name)
	wf := r.workflow(t)
	if wf.Status.Phase != phase {
		t.Fatalf("%s ended as %q (%s), expected %q\n%s%s", r.name, wf.Status.Phase, wf.Status.Message, phase, waited.stdout, waited.stderr)
	}
	return wf
}

// node is the node a user sees under that name; nil when there is none.
func node(wf *wfv1.Workflow, name string) *wfv1.NodeStatus {
	for _, n := range wf.Status.Nodes {
		if n.DisplayName == name {
			return &n
		}
	}
	return nil
}

// mustNode is node for one that must be there.
func mustNode(t *testing.T, wf *wfv1.Workflow, name string) *wfv1.NodeStatus {
	t.Helper()
	n := node(wf, name)
	if n == nil {
		var names []string
		for _, other := range wf.Status.Nodes {
			names = append(names, other.DisplayName)
		}
		slices.Sort(names)
		t.Fatalf("%s has no node %q but %q", wf.Name, name, names)
	}
	return n
}

// outputs are the output parameters of a node; the workflow's own name is the whole pipeline's.
func outputs(t *testing.T, wf *wfv1.Workflow, name string) map[string]string {
	t.Helper()
	out := map[string]string{}
	if n := mustNode(t, wf, name); n.Outputs != nil {
		for _, p := range n.Outputs.Parameters {
			if p.Value != nil {
				out[p.Name] = p.Value.String()
			}
		}
	}
	return out
}

// number reads an output that must be a number.
func number(t *testing.T, outputs map[string]string, name string) float64 {
	t.Helper()
	value, err := strconv.ParseFloat(outputs[name], 64)
	if err != nil {
		t.Fatalf("output %s: %v, in %v", name, err, outputs)
	}
	return value
}

// diagnosis is what a person would look at after a failure.
func (r *run) diagnosis() string {
	var b strings.Builder
	for _, args := range [][]string{{"get", r.name}, {"logs", r.name, "--tail", "40", "--no-color"}} {
		got := r.argo(args...)
		fmt.Fprintf(&b, "--- argo %s\n%s%s", strings.Join(args, " "), got.stdout, got.stderr)
	}
	pods := r.kubectl("get", "pods", "-l", "workflows.argoproj.io/workflow="+r.name, "-o", "wide")
	events := r.kubectl("get", "events", "--sort-by=.lastTimestamp")
	fmt.Fprintf(&b, "--- pods\n%s--- warnings of %s\n", pods.stdout, r.name)
	for line := range strings.Lines(events.stdout) {
		if strings.Contains(line, r.name) && strings.Contains(line, "Warning") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// serves checks that the version of the run's outputs is the one that everybody uses: the registry's alias,
// the inference database's active model, and that this model tells digits apart. It returns the pipeline's outputs.
func (r *run) serves(t *testing.T, wf *wfv1.Workflow) map[string]string {
	t.Helper()
	out := outputs(t, wf, wf.Name)
	if accuracy, f1 := number(t, out, "accuracy"), number(t, out, "f1"); accuracy < 0.5 || accuracy > 1 || f1 < 0.5 || f1 > 1 {
		t.Errorf("accuracy %g, f1 %g", accuracy, f1)
	}
	if out["passed"] != "true" || out["model-name"] != r.tenant.name || out["active-version"] != out["model-version"] {
		t.Errorf("outputs of the pipeline: %v", out)
	}
	if holder := r.alias(t); strconv.Itoa(holder.Version) != out["model-version"] {
		t.Errorf("MLflow: staging is version %d, the run's is %s", holder.Version, out["model-version"])
	}
	if version := r.active(t); version != out["model-version"] {
		t.Errorf("inference database: version %q is active, the run's is %s", version, out["model-version"])
	}
	r.tellsDigitsApart(t)
	r.report(t, wf)
	return out
}

// alias is the version that holds the alias staging; version 0 when none does.
func (p *tenant) alias(t *testing.T) registry.ModelVersion {
	t.Helper()
	v, err := p.models.Alias(p.ctx, p.name, "staging")
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		t.Fatal(err)
	}
	return v
}

// active is the version the inference database predicts with, "" when it has none.
func (p *tenant) active(t *testing.T) string {
	t.Helper()
	if count(t, p.inference, p.name, "activations") == 0 {
		return ""
	}
	return one[string](t, p.inference, "select version::text from "+p.table("model_versions")+" where active and name = $1", p.name)
}

// untouched checks that neither database knows the tenant.
func (p *tenant) untouched(t *testing.T) {
	t.Helper()
	for name, c := range map[string]postgres.Config{"training": p.training, "inference": p.inference} {
		if n := one[int](t, c, "select count(*) from pg_namespace where nspname = $1", p.name); n != 0 {
			t.Errorf("the %s database has a schema %q", name, p.name)
		}
	}
	if versions, err := p.models.ModelVersions(p.ctx, p.name, nil); err != nil || len(versions) > 0 {
		t.Errorf("MLflow has versions of %s: %v, %v", p.name, versions, err)
	}
}

// tellsDigitsApart asks the inference database, as an application does, what digits it sees on pictures of each.
func (p *tenant) tellsDigitsApart(t *testing.T) {
	t.Helper()
	pictures, labels := digits(t, 40)
	predicted := rows[string](t, p.inference,
		"select "+p.table("run_inference_task")+"(img) from unnest($1::bytea[]) with ordinality p (img, n) order by n", pictures)
	right := 0
	for i, label := range labels {
		if i < len(predicted) && predicted[i] == label {
			right++
		}
	}
	if right < 30 {
		t.Errorf("%d of %d digits are told right: %q, expected %q", right, len(labels), predicted, labels)
	}
}

// digits are the first pictures of the example's data as raw pixels, and what they show.
func digits(t *testing.T, n int) (pictures [][]byte, labels []string) {
	t.Helper()
	content, err := os.ReadFile(root + "/examples/digits/digits.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	table := csv.NewReader(unzipped)
	if _, err := table.Read(); err != nil { // p0 to p63, digit
		t.Fatal(err)
	}
	for range n {
		row, err := table.Read()
		if err != nil {
			t.Fatal(err)
		}
		var picture []byte
		for _, cell := range row[:64] {
			pixel, err := strconv.ParseUint(cell, 10, 8)
			if err != nil {
				t.Fatal(err)
			}
			picture = append(picture, byte(pixel))
		}
		pictures, labels = append(pictures, picture), append(labels, row[64])
	}
	return pictures, labels
}

// report fetches the run's report where the user interface finds it and checks that it is a page without scripts.
func (r *run) report(t *testing.T, wf *wfv1.Workflow) {
	t.Helper()
	n := mustNode(t, wf, wf.Name)
	i := -1
	if n.Outputs != nil {
		i = slices.IndexFunc(n.Outputs.Artifacts, func(a wfv1.Artifact) bool { return a.Name == "report" })
	}
	if i < 0 {
		t.Fatalf("%s has no artifact report: %v", wf.Name, n.Outputs)
	}
	key, err := n.Outputs.Artifacts[i].GetKey()
	if err != nil {
		t.Fatal(err)
	}
	object, _, err := r.objects.Open(r.ctx, r.objects.Bucket(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer object.Close()
	page, err := io.ReadAll(object)
	if err != nil {
		t.Fatal(err)
	}
	checkPage(t, page)
}

func checkPage(t *testing.T, page []byte) {
	t.Helper()
	if !bytes.Contains(page, []byte("<html")) || !bytes.Contains(page, []byte("ccuracy")) {
		t.Errorf("the report is no page about a model: %.200q", page)
	}
	tokens := html.NewTokenizer(bytes.NewReader(page))
	for {
		switch tokens.Next() {
		case html.ErrorToken:
			return
		case html.StartTagToken, html.SelfClosingTagToken:
			token := tokens.Token()
			if token.Data == "script" {
				t.Error("the report has a script")
			}
			for _, a := range token.Attr {
				if strings.HasPrefix(a.Key, "on") || strings.HasPrefix(strings.ToLower(a.Val), "javascript:") {
					t.Errorf("the report has a script: <%s %s=%q>", token.Data, a.Key, a.Val)
				}
			}
		default:
		}
	}
}
