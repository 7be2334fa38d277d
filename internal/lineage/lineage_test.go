package lineage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/lineage"
	"github.com/insitu-ml/insitu/internal/lineage/lineagetest"
)

var update = flag.Bool("update", false, "write the golden files")

// runs are a training on Greenplum that began, ended well and failed, and a deployment to PostgreSQL.
func runs() map[string]lineage.Run {
	began := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	greenplum := &lineage.Database{Platform: lineage.Greenplum, Address: "gp.example.com:5432", Name: "ml", Role: "training", BindingType: "greenplum", BindingProvider: "vmware"}
	postgres := &lineage.Database{Platform: lineage.Postgres, Address: "[2001:db8::1]:5433", Name: "serving", Role: "inference", BindingType: "postgres", BindingProvider: "vmware"}
	digest := strings.Repeat("0123456789abcdef", 4)
	file := lineage.Dataset{Kind: lineage.File, Location: "https://example.com/a(1),b.csv?signature=s", Description: "A file.", Rows: 1797, Bytes: 53603, SHA256: digest,
		Columns: []lineage.Column{{Name: "p0", Type: "uint8"}, {Name: "label", Type: "text", Description: "What is to be predicted."}}}
	packs := lineage.Dataset{Kind: lineage.Table, Database: greenplum, Schema: "team-a", Name: "packs_0123", Description: "A dataset, packed.", Rows: 1797, SHA256: digest,
		Columns: []lineage.Column{{Name: "split", Type: "text"}, {Name: "data", Type: "bytea"}}, Properties: map[string]string{"shards": "2"}}
	model := lineage.Model{Registry: "http://mlflow:5000", Name: "cifar_cnn", Version: 3, SHA256: digest, Parameters: map[string]string{"epochs": "10", "seed": "0"},
		Metrics: map[string]string{"validation_accuracy": "0.98"}, Properties: map[string]string{"job": digest},
		TrainedOn: []lineage.Dataset{{Kind: lineage.Table, Database: greenplum, Schema: "team-a", Name: "packs_0123"}}}
	served := lineage.Dataset{Kind: lineage.Table, Database: postgres, Schema: "team-a", Name: "models", Description: "Deployed models."}
	function := lineage.Dataset{Kind: lineage.Function, Database: postgres, Schema: "team-a", Name: "run_inference_task", Description: "Predicts.",
		From: []lineage.Dataset{{Kind: lineage.Table, Database: postgres, Schema: "team-a", Name: "models"}}}

	start := lineage.Run{
		ID: lineage.UUID("1"), Step: "train-model", Summary: "Trains", Pipeline: "team-a", Namespace: "insitu", Version: "v1.2.3", State: lineage.Start, Started: began,
		Workflow: lineage.Workflow{Name: "in-database-pipeline-x7k2p", UID: "5d1c2c5e-6f0a-4c8e-9d6e-0f2b7f3a1b2c"}, Settings: map[string]string{"epochs": "10"},
	}
	complete := start
	complete.State, complete.Ended = lineage.Complete, began.Add(90*time.Second)
	complete.Outputs = map[string]string{"model-version": "3", "reason": "registered <version> 3 & more"}
	complete.Reads, complete.Writes = []lineage.Asset{file, packs}, []lineage.Asset{model}
	fail := start
	fail.State, fail.Ended, fail.Error = lineage.Fail, began.Add(time.Second), "learner.py, line 7"
	fail.Reads = complete.Reads
	deploy := start
	deploy.ID, deploy.Step, deploy.State, deploy.Ended = lineage.UUID("2"), "deploy-inference-db", lineage.Complete, began.Add(time.Minute)
	deploy.Workflow = lineage.Workflow{}
	deploy.Reads = []lineage.Asset{lineage.Model{Registry: model.Registry, Name: model.Name, Version: 3}}
	deploy.Writes = []lineage.Asset{served, function}
	return map[string]lineage.Run{"start": start, "complete": complete, "fail": fail, "deploy": deploy}
}

// tell reports one run to the catalogs and returns the warnings.
func tell(t *testing.T, c lineage.Config, list ...lineage.Run) (warnings []string) {
	t.Helper()
	var mu sync.Mutex
	all := lineage.Open(c, func(catalog string, err error) {
		mu.Lock()
		defer mu.Unlock()
		warnings = append(warnings, catalog+": "+err.Error())
	})
	for _, r := range list {
		all.Report(r)
	}
	all.Close()
	mu.Lock()
	defer mu.Unlock()
	return warnings
}

func files(dir string) (c lineage.Config, events, proposals string) {
	events, proposals = filepath.Join(dir, "events.ndjson"), filepath.Join(dir, "proposals.json")
	return lineage.Config{OpenLineage: "file://" + events, DataHub: "file://" + proposals}, events, proposals
}

func TestWhatIsSaidOfARun(t *testing.T) {
	t.Parallel()
	for name, run := range runs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, events, proposals := files(t.TempDir())
			if w := tell(t, c, run); len(w) > 0 {
				t.Fatal(w)
			}
			for golden, file := range map[string]string{name + ".openlineage.json": events, name + ".datahub.json": proposals} {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var pretty bytes.Buffer
				if err := json.Indent(&pretty, bytes.TrimSpace(text), "", " "); err != nil {
					t.Fatal(err)
				}
				golden = filepath.Join("testdata", golden)
				if *update {
					if err := os.WriteFile(golden, pretty.Bytes(), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), pretty.String()); diff != "" {
					t.Errorf("%s (-want +got):\n%s", golden, diff)
				}
			}
			text, err := os.ReadFile(events)
			if err != nil {
				t.Fatal(err)
			}
			if err := lineagetest.OpenLineage(text); err != nil {
				t.Errorf("OpenLineage's schemas: %v", err)
			}
			if err := lineagetest.DataHub(t, proposals); err != nil {
				t.Errorf("DataHub's checker: %v", err)
			}
		})
	}
}

// The checks above would be worth nothing if they took everything.
func TestTheValidatorsRefuse(t *testing.T) {
	t.Parallel()
	c, events, proposals := files(t.TempDir())
	if w := tell(t, c, runs()["complete"]); len(w) > 0 {
		t.Fatal(w)
	}
	for name, change := range map[string][2]string{
		"a run whose id is no UUID":         {`"runId":"`, `"runId":"x`},
		"a digest of another length":        {`"algorithm":"SHA-256","value":"0`, `"algorithm":"SHA-256","value":"`},
		"a row count that is text":          {`"rowCount":1797`, `"rowCount":"many"`},
		"a facet that names no schema":      {`"_schemaURL":"https://openlineage.io/spec/facets/1-2-0/ParentRunFacet.json#/$defs/ParentRunFacet"`, `"_x":""`},
		"a schema that nobody published":    {`facets/1-2-0/ParentRunFacet`, `facets/9-9-9/ParentRunFacet`},
		"a state that OpenLineage does not": {`"eventType":"COMPLETE"`, `"eventType":"DONE"`},
	} {
		text, err := os.ReadFile(events)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if changed == string(text) {
			t.Errorf("%s: %s is not in the event", name, change[0])
		}
		if lineagetest.OpenLineage([]byte(changed)) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	for _, change := range [][2]string{{`"trainingJobs":[`, `"trainingJobs":[7,`}, {`"aspectName":"mlModelTrainingData"`, `"aspectName":"upstreamLineage"`}} {
		text, err := os.ReadFile(proposals)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "changed.json")
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if err := os.WriteFile(file, []byte(changed), 0o600); err != nil || changed == string(text) {
			t.Fatalf("%s: %v", change[0], err)
		}
		if lineagetest.DataHub(t, file) == nil {
			t.Errorf("DataHub's checker accepts %s", change[1])
		}
	}
}

func TestTellingAgainChangesNothingButTimes(t *testing.T) {
	t.Parallel()
	c, events, proposals := files(t.TempDir())
	all := runs()
	tell(t, c, all["start"], all["complete"])
	tell(t, c, all["deploy"])
	first, err := os.ReadFile(proposals)
	if err != nil {
		t.Fatal(err)
	}
	tell(t, c, all["start"], all["complete"])
	tell(t, c, all["deploy"])
	second, err := os.ReadFile(proposals)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(first), string(second)); diff != "" {
		t.Error(diff)
	}
	lines, err := os.ReadFile(events)
	if n := bytes.Count(lines, []byte("\n")); err != nil || n != 6 {
		t.Errorf("%d events, %v: expected all 6", n, err)
	}
}

func TestStepsThatRunSideBySideShareTheFiles(t *testing.T) {
	t.Parallel()
	c, events, proposals := files(t.TempDir())
	var side sync.WaitGroup
	const steps = 16
	for i := range steps {
		side.Add(1)
		go func() {
			defer side.Done()
			r := runs()["complete"]
			r.ID = lineage.UUID(fmt.Sprint("side", i))
			if w := tell(t, c, r); len(w) > 0 {
				t.Error(w)
			}
		}()
	}
	side.Wait()
	lines, err := os.ReadFile(events)
	if n := bytes.Count(lines, []byte("\n")); err != nil || n != steps {
		t.Errorf("%d events, %v", n, err)
	}
	text, err := os.ReadFile(proposals)
	if err != nil {
		t.Fatal(err)
	}
	var list []struct{ EntityURN, AspectName string }
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	instances := 0
	for _, p := range list {
		if p.AspectName == "dataProcessInstanceRunEvent" {
			instances++
		}
	}
	if instances != steps {
		t.Errorf("%d runs in the file, expected %d", instances, steps)
	}
}

// request is what a server got.
type request struct {
	Path, Query, Token, Type, Protocol, Body string
}

func server(t *testing.T, status int) (url string, got func() []request) {
	t.Helper()
	var mu sync.Mutex
	var list []request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		list = append(list, request{r.Method + " " + r.URL.Path, r.URL.RawQuery, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), r.Header.Get("X-RestLi-Protocol-Version"), string(body)})
		mu.Unlock()
		w.WriteHeader(status)
		fmt.Fprint(w, "as you say")
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []request { mu.Lock(); defer mu.Unlock(); return list }
}

func TestEventsAreDeliveredOverHTTP(t *testing.T) {
	t.Parallel()
	url, got := server(t, http.StatusCreated)
	if w := tell(t, lineage.Config{OpenLineage: url, OpenLineageKey: "key"}, runs()["start"], runs()["complete"]); len(w) > 0 {
		t.Fatal(w)
	}
	if len(got()) != 2 {
		t.Fatalf("%d requests", len(got()))
	}
	for _, r := range got() {
		if err := lineagetest.OpenLineage([]byte(r.Body)); err != nil {
			t.Error(err)
		}
		r.Body = ""
		if diff := cmp.Diff(request{Path: "POST /api/v1/lineage", Token: "Bearer key", Type: "application/json"}, r); diff != "" {
			t.Error(diff)
		}
	}
}

func TestTheEndpointOfAnEventServerCanBeGiven(t *testing.T) {
	t.Parallel()
	url, got := server(t, http.StatusOK)
	tell(t, lineage.Config{OpenLineage: url + "/base/", OpenLineageEndpoint: "/openapi/openlineage/api/v1/lineage"}, runs()["start"])
	if len(got()) != 1 || got()[0].Path != "POST /base/openapi/openlineage/api/v1/lineage" || got()[0].Token != "" {
		t.Errorf("%+v", got())
	}
}

// DataHub's own client, given the file, must say to a server what is said to it directly.
func TestProposalsAreDeliveredAsDataHubsOwnClientDeliversThem(t *testing.T) {
	t.Parallel()
	program := os.Getenv("INSITU_TEST_DATAHUB")
	if program == "" {
		t.Skip("needs DataHub's client: INSITU_TEST_DATAHUB is not set (make test sets it)")
	}
	ours, gotOurs := server(t, http.StatusOK)
	theirs, gotTheirs := server(t, http.StatusOK)
	c, _, file := files(t.TempDir())
	c.OpenLineage = ""
	run := runs()["complete"]
	if w := tell(t, c, run); len(w) > 0 {
		t.Fatal(w)
	}
	if w := tell(t, lineage.Config{DataHub: ours, DataHubToken: "key"}, run); len(w) > 0 {
		t.Fatal(w)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(filepath.Dir(program), "python"), "-c", `
import sys
from datahub.emitter.rest_emitter import DataHubRestEmitter
from datahub.ingestion.source.file import read_metadata_file
import pathlib
emitter = DataHubRestEmitter(sys.argv[1], token="key", openapi_ingestion=False)
emitter.emit_mcps(list(read_metadata_file(pathlib.Path(sys.argv[2]))))
from datahub.emitter.mcp_builder import DatabaseKey, SchemaKey
of = dict(platform="greenplum", instance="gp.example.com:5432", database="ml")
print("container", DatabaseKey(**of).as_urn(), "UPSERT containerProperties application/json")
print("container", SchemaKey(**of, schema="team-a").as_urn(), "UPSERT containerProperties application/json")
`, theirs, file)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "DATAHUB_TELEMETRY_ENABLED=false")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	containers, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	a, b := batch(t, gotOurs()), batch(t, gotTheirs())
	if diff := cmp.Diff(within(a, b), any(a)); diff != "" || len(a) < 10 || len(a) != len(b) {
		t.Errorf("%d proposals, %d of DataHub's client (-DataHub's client +ours):\n%s", len(a), len(b), diff)
	}
	for line := range strings.Lines(string(containers)) { // those that DataHub's ingestion of a database makes
		if a[strings.TrimSpace(line)] == nil {
			t.Errorf("there is no %s", line)
		}
	}
}

// within is what b says of the things that a says something of: the client adds defaults.
func within(a, b any) any {
	switch b := b.(type) {
	case map[string]any:
		out, of := map[string]any{}, map[string]any{}
		if a, ok := a.(map[string]any); ok {
			of = a
		}
		for key, value := range b {
			if _, ok := of[key]; ok {
				out[key] = within(of[key], value)
			}
		}
		return out
	case []any:
		out := []any{}
		of, _ := a.([]any)
		for i, value := range b {
			var item any
			if i < len(of) {
				item = of[i]
			}
			out = append(out, within(item, value))
		}
		return out
	}
	return b
}

// batch are the proposals of the one batch that a server got: entity and aspect to what the aspect says.
func batch(t *testing.T, list []request) map[string]any {
	t.Helper()
	out := map[string]any{}
	for _, r := range list {
		if r.Path != "POST /aspects" {
			continue // what a client asks before
		}
		body := r.Body
		r.Body = ""
		if diff := cmp.Diff(request{Path: "POST /aspects", Query: "action=ingestProposalBatch", Token: "Bearer key", Type: "application/json", Protocol: "2.0.0"}, r); diff != "" {
			t.Error(diff)
		}
		var b struct {
			Proposals []struct {
				EntityType, EntityURN, ChangeType, AspectName string
				Aspect                                        struct{ Value, ContentType string }
			}
			Async string
		}
		if err := json.Unmarshal([]byte(body), &b); err != nil {
			t.Fatal(err)
		}
		for _, p := range b.Proposals {
			var value any
			if err := json.Unmarshal([]byte(p.Aspect.Value), &value); err != nil {
				t.Fatal(err)
			}
			out[strings.Join([]string{p.EntityType, p.EntityURN, p.ChangeType, p.AspectName, p.Aspect.ContentType}, " ")] = value
		}
	}
	return out
}

func TestACatalogThatHangsHoldsUpTheEndForTheStatedTimeAtMost(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	began := time.Now()
	w := tell(t, lineage.Config{OpenLineage: s.URL, DataHub: s.URL}, runs()["start"], runs()["complete"], runs()["fail"], runs()["fail"], runs()["fail"])
	if took := time.Since(began); took < lineage.Wait/2 || took > lineage.Wait+500*time.Millisecond {
		t.Errorf("took %s, expected about %s", took, lineage.Wait)
	}
	text := strings.Join(w, "\n")
	for _, want := range []string{"dropped", "OpenLineage: ", "DataHub: "} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the warnings:\n%s", want, text)
		}
	}
}

func TestWhatCatalogsRefuseIsAWarning(t *testing.T) {
	t.Parallel()
	refusing, _ := server(t, http.StatusUnauthorized)
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config lineage.Config
		want   string
	}{
		"a token that is not taken":     {lineage.Config{OpenLineage: refusing}, "OpenLineage: START of run " + lineage.UUID("1") + ": the server answered 401 Unauthorized: as you say"},
		"nobody listens":                {lineage.Config{DataHub: "http://127.0.0.1:1"}, "connection refused"},
		"a file that is something else": {lineage.Config{DataHub: "file://" + broken}, "expected a JSON list of metadata change proposals"},
		"a folder that is not there":    {lineage.Config{OpenLineage: "file:///nonexistent/a"}, "no such file or directory"},
		"a device":                      {lineage.Config{OpenLineage: "file:///dev/null"}, "expected a regular file"},
		"another protocol":              {lineage.Config{OpenLineage: "kafka://u:hunter2@b"}, "OpenLineage: its address is not usable: expected http://, https:// or file:///absolute/path"},
		"a relative file":               {lineage.Config{DataHub: "lineage.json"}, "DataHub: its address is not usable"},
		"no address at all":             {lineage.Config{DataHub: "http://u:hunter2@[:::"}, "DataHub: its address is not usable"},
	} {
		text := strings.Join(tell(t, c.config, runs()["start"]), "\n")
		if !strings.Contains(text, c.want) || strings.Contains(text, "hunter2") {
			t.Errorf("%s: %q, expected %q", name, text, c.want)
		}
	}
	if text, err := os.ReadFile(broken); err != nil || string(text) != "{" {
		t.Errorf("the file is %q now, %v", text, err)
	}
}

func TestAFileThatAnotherStepHoldsIsGivenUp(t *testing.T) {
	t.Parallel()
	c, events, _ := files(t.TempDir())
	c.DataHub = ""
	if err := os.WriteFile(events, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	holder := exec.CommandContext(ctx, "flock", events, "sh", "-c", "echo held; sleep 30")
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	w := strings.Join(tell(t, c, runs()["start"]), "\n") // the two limits are equal
	if !strings.Contains(w, "another step holds it") && !strings.Contains(w, "not all was told") {
		t.Error(w)
	}
}
