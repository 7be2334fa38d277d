package step_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/lineage"
	"github.com/insitu-ml/insitu/internal/lineage/lineagetest"
	"github.com/insitu-ml/insitu/internal/step"
	"github.com/insitu-ml/insitu/internal/step/steptest"
)

// reader reads one table, writes another one, and ends as it is told.
func reader(end error) step.Spec {
	return trial(func(_ context.Context, in *step.Input) error {
		_ = in.String("text")
		if err := in.Validate(); err != nil {
			return err
		}
		db := lineage.Database{Platform: lineage.Greenplum, Address: "h:5432", Name: "ml", Role: "training"}
		db.BindingType, db.BindingProvider = in.Binding("db")
		in.Reads(lineage.Dataset{Kind: lineage.Table, Database: &db, Schema: "s", Name: "before"})
		if end != nil {
			return end
		}
		in.Writes(lineage.Dataset{Kind: lineage.Table, Database: &db, Schema: "s", Name: "after", Rows: 7})
		in.Output("read", "pass hunter2!")
		in.OutputFile("report", nil)
		return nil
	})
}

// event is what is looked at of an OpenLineage event.
type event struct {
	EventType string
	Run       struct {
		RunID  string
		Facets map[string]json.RawMessage
	}
	Job             struct{ Namespace, Name string }
	Inputs, Outputs []struct{ Namespace, Name string }
}

func events(t *testing.T, file string) (list []event, text string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if err := lineagetest.OpenLineage(lines.Bytes()); err != nil {
			t.Error(err)
		}
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		list, text = append(list, e), text+lines.Text()+"\n"
	}
	return list, text
}

func TestCatalogsAreToldHowAStepEnded(t *testing.T) {
	t.Parallel()
	root := steptest.Binding(t, t.TempDir(), "a", map[string]string{"type": "Greenplum", "provider": "VMware", "host": "h", "password": "hunter2!"})
	for _, c := range []struct {
		name  string
		end   error
		code  int
		state string
	}{
		{"done", nil, 0, "COMPLETE"},
		{"failed for good", fault.AsPermanent(fmt.Errorf("row 7: hunter2! is no number")), 1, "FAIL"},
		{"failed for now", fault.AsTemporary(fmt.Errorf("away")), 75, "FAIL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "events")
			env := map[string]string{
				"SERVICE_BINDING_ROOT": root, "OPENLINEAGE_URL": "file://" + file, "OPENLINEAGE_NAMESPACE": "ml", "DATAHUB_GMS_URL": "file://" + filepath.Join(dir, "proposals"),
				"INSITU_PIPELINE": "team-a", "INSITU_WORKFLOW": "w-1", "INSITU_WORKFLOW_UID": "5d1c2c5e-6f0a-4c8e-9d6e-0f2b7f3a1b2c",
			}
			var ids []string
			for range 2 { // an attempt, and another one
				r := steptest.Run(t, reader(c.end), map[string]string{"needed": "hunter2!"}, steptest.Env(env))
				if r.Code != c.code || strings.Contains(r.Stderr, "data catalog") {
					t.Fatalf("exit %d: %s", r.Code, r.Stderr)
				}
			}
			list, text := events(t, file)
			if len(list) != 4 {
				t.Fatalf("%d events", len(list))
			}
			for i, e := range list {
				ids = append(ids, e.Run.RunID)
				if want := []string{"START", c.state}[i%2]; e.EventType != want || e.Job.Namespace != "ml" || e.Job.Name != "team-a.trial" {
					t.Errorf("event %d: %s of %+v, expected %s", i, e.EventType, e.Job, want)
				}
				if !strings.Contains(string(e.Run.Facets["parent"]), `"runId":"5d1c2c5e-6f0a-4c8e-9d6e-0f2b7f3a1b2c"`) || !strings.Contains(string(e.Run.Facets["parent"]), `"name":"team-a"`) {
					t.Errorf("parent: %s", e.Run.Facets["parent"])
				}
			}
			if ids[0] != ids[1] || ids[0] != ids[2] {
				t.Errorf("runs %q, expected one", ids)
			}
			end := list[1]
			if len(end.Inputs) != 1 || end.Inputs[0].Namespace != "greenplum://h:5432" || end.Inputs[0].Name != "ml.s.before" || len(end.Outputs) != map[bool]int{true: 1, false: 0}[c.end == nil] {
				t.Errorf("inputs %+v, outputs %+v", end.Inputs, end.Outputs)
			}
			if strings.Contains(string(end.Run.Facets["errorMessage"]), "row 7: [redacted] is no number") != (c.code == 1) {
				t.Errorf("error: %s", end.Run.Facets["errorMessage"])
			}
			if !strings.Contains(text, `{"key":"servicebinding:type","source":"INSITU","value":"greenplum"},{"key":"servicebinding:provider","source":"INSITU","value":"vmware"},{"key":"database","source":"INSITU","value":"training"}`) {
				t.Errorf("the binding's tags are not in\n%s", text)
			}
			proposals, err := os.ReadFile(filepath.Join(dir, "proposals"))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(text+string(proposals), "hunter2") {
				t.Errorf("the catalogs are told a secret:\n%s\n%s", text, proposals)
			}
		})
	}
}

func TestRunsDifferByTheirSettingsAndWithoutAWorkflowAlways(t *testing.T) {
	t.Parallel()
	id := func(uid, needed string) string {
		file := filepath.Join(t.TempDir(), "events")
		steptest.Run(t, reader(nil), map[string]string{"needed": needed}, steptest.Env(map[string]string{"OPENLINEAGE_URL": "file://" + file, "INSITU_WORKFLOW_UID": uid}))
		list, _ := events(t, file)
		return list[0].Run.RunID
	}
	same, other, next := id("w-1", "a"), id("w-1", "b"), id("w-2", "a") // the workflow ids of insitu run are no UUIDs
	if same == other || same == next || same != id("w-1", "a") {
		t.Errorf("%s, %s with another setting, %s in another workflow", same, other, next)
	}
	if one, two := id("", "a"), id("", "a"); one == two {
		t.Error("two runs without a workflow are one")
	}
}

func TestACatalogThatHangsChangesNothingOfTheStepButTwoSeconds(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	env := map[string]string{"OPENLINEAGE_URL": s.URL, "OPENLINEAGE_API_KEY": "hunter2!", "DATAHUB_GMS_URL": s.URL, "DATAHUB_GMS_TOKEN": "hunter3!"}
	for code, end := range map[int]error{0: nil, 1: fault.AsPermanent(fmt.Errorf("row 7"))} {
		began := time.Now()
		r := steptest.Run(t, reader(end), map[string]string{"needed": "n"}, steptest.Env(env))
		if took := time.Since(began); took > lineage.Wait+time.Second {
			t.Errorf("exit %d took %s, expected at most %s more than without", r.Code, took, lineage.Wait)
		}
		if r.Code != code || !strings.Contains(r.Stderr, "data catalog not told") || code == 0 && r.Outputs["read"] == "" {
			t.Errorf("exit %d, outputs %v\n%s", r.Code, r.Outputs, r.Stderr)
		}
		for _, entry := range r.Log {
			if entry["msg"] == "data catalog not told" && entry["level"] != "warn" {
				t.Errorf("%v", entry)
			}
		}
	}
}

func TestNoCatalogIsToldUnlessOneIsConfigured(t *testing.T) {
	t.Parallel()
	r := steptest.Run(t, reader(nil), map[string]string{"needed": "n"}, steptest.Env(map[string]string{"OPENLINEAGE_API_KEY": "k", "DATAHUB_GMS_TOKEN": "t", "OPENLINEAGE_NAMESPACE": "n"}))
	if r.Code != 0 || strings.Contains(r.Stderr, "catalog") {
		t.Errorf("exit %d\n%s", r.Code, r.Stderr)
	}
}

func TestSettingsThatAreWrongAreAFailure(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var states []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e event
		body, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(body, &e)
		mu.Lock()
		defer mu.Unlock()
		states = append(states, e.EventType)
	}))
	defer s.Close()
	r := steptest.Run(t, reader(nil), nil, steptest.Env(map[string]string{"OPENLINEAGE_URL": s.URL}))
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff([]string{"START", "FAIL"}, states); r.Code != 2 || diff != "" {
		t.Errorf("exit %d, states %s", r.Code, diff)
	}
}
