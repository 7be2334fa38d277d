package pipeline

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/lineage/lineagetest"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// proposal is one of DataHub's.
type proposal struct {
	EntityType, EntityURN, AspectName string
	Aspect                            struct{ JSON map[string]any }
}

// graph leads from a thing to what is made from it.
type graph map[string][]string

func (g graph) add(from, to string) { g[from] = append(g[from], to) }

// path is a shortest way, nil if there is none.
func (g graph) path(from, to string) []string {
	ways := [][]string{{from}}
	seen := map[string]bool{from: true}
	for len(ways) > 0 {
		way := ways[0]
		ways = ways[1:]
		last := way[len(way)-1]
		if last == to {
			return way
		}
		for _, next := range g[last] {
			if !seen[next] {
				seen[next] = true
				ways = append(ways, append(slices.Clone(way), next))
			}
		}
	}
	return nil
}

// TestTheLineageOfAWholeRun runs the pipeline twice with both writers set to files.
func TestTheLineageOfAWholeRun(t *testing.T) {
	t.Parallel()
	p := newProject(t, "digits")
	dir := t.TempDir()
	events, proposals := filepath.Join(dir, "events.ndjson"), filepath.Join(dir, "proposals.json")
	p.env = []string{"OPENLINEAGE_URL=file://" + events, "DATAHUB_GMS_URL=file://" + proposals}
	run := p.succeed(t, "-p", "epochs=1")
	version := run.outputs("evaluate-model")["model-version"]
	table := run.outputs("upload-dataset")["dataset-table"]

	training, inference := testenv.Training(t), testenv.Inference(t)
	platform := services.Platform(p.training.Dialect)
	urn := func(platform string, c postgres.Config, name string) string {
		address := c.Host + ":" + strconv.Itoa(c.Port)
		return "urn:li:dataset:(urn:li:dataPlatform:" + platform + "," + address + "." + c.Database + "." + p.name + "." + name + ",PROD)"
	}
	packs, served, function := urn(platform, training, table), urn("postgres", inference, "models"), urn("postgres", inference, "run_inference_task")
	model := "urn:li:mlModel:(urn:li:dataPlatform:mlflow," + p.name + "_" + version + ",PROD)"

	t.Run("OpenLineage's schemas accept every event, and they lead from the file to the function", func(t *testing.T) {
		lines, err := os.ReadFile(events)
		if err != nil {
			t.Fatal(err)
		}
		g, source, states, parents := graph{}, "", map[string][]string{}, map[string]bool{}
		for line := range bytes.Lines(lines) {
			if err := lineagetest.OpenLineage(line); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			type dataset struct {
				Namespace, Name string
			}
			var e struct {
				EventType string
				Job       struct{ Name string }
				Run       struct {
					Facets struct {
						Parent struct{ Run struct{ RunID string } }
					}
				}
				Inputs, Outputs []dataset
			}
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatal(err)
			}
			states[e.Job.Name] = append(states[e.Job.Name], e.EventType)
			parents[e.Run.Facets.Parent.Run.RunID] = true
			for _, in := range e.Inputs {
				g.add(in.Namespace+" "+in.Name, e.Job.Name)
				if strings.HasSuffix(in.Name, ".tar.gz/digits.csv.gz") {
					source = in.Namespace + " " + in.Name
				}
			}
			for _, out := range e.Outputs {
				g.add(e.Job.Name, out.Namespace+" "+out.Name)
			}
		}
		want := map[string][]string{}
		for _, step := range []string{"upload-dataset", "deploy-training-code", "train-model", "evaluate-model", "promote-model-to-staging", "deploy-inference-db", "smoke"} {
			want[p.name+"."+step] = []string{"START", "COMPLETE"}
		}
		if diff := cmp.Diff(want, states); diff != "" || len(parents) != 1 {
			t.Errorf("parents %v, events of the jobs (-want +got):\n%s", parents, diff)
		}
		at := func(platform string, c postgres.Config, name string) string {
			return platform + "://" + c.Host + ":" + strconv.Itoa(c.Port) + " " + c.Database + "." + p.name + "." + name
		}
		mlflow := "mlflow://" + strings.TrimPrefix(p.mlflow, "http://") + " " + p.name
		way := []string{source, p.name + ".upload-dataset", at(platform, training, table), p.name + ".train-model", mlflow, p.name + ".deploy-inference-db", at("postgres", inference, "run_inference_task")}
		if diff := cmp.Diff(way, g.path(source, way[len(way)-1])); diff != "" {
			t.Errorf("from the file to the function (-want +got):\n%s", diff)
		}
	})

	first := read(t, proposals)
	t.Run("DataHub's checker accepts the file", func(t *testing.T) {
		if err := lineagetest.DataHub(t, proposals); err != nil {
			t.Error(err)
		}
	})
	t.Run("DataHub's relations lead from the file to the function", func(t *testing.T) {
		g, source := graph{}, ""
		for _, x := range first {
			if x.AspectName == "datasetProperties" && strings.Contains(x.EntityURN, ".tar.gz/digits.csv.gz,") {
				source = x.EntityURN
			}
			for _, e := range list(x.Aspect.JSON["inputEdges"]) {
				g.add(e["destinationUrn"].(string), x.EntityURN)
			}
			for _, e := range list(x.Aspect.JSON["outputEdges"]) {
				g.add(x.EntityURN, e["destinationUrn"].(string))
			}
			for _, u := range list(x.Aspect.JSON["upstreams"]) {
				g.add(u["dataset"].(string), x.EntityURN)
			}
		}
		var kinds []string
		way := g.path(source, function)
		for _, urn := range way {
			kind, _, _ := strings.Cut(strings.TrimPrefix(urn, "urn:li:"), ":")
			kinds = append(kinds, kind)
		}
		want := []string{"dataset", "dataProcessInstance", "dataset", "dataProcessInstance", "mlModel", "dataProcessInstance", "dataset"}
		if diff := cmp.Diff(want, kinds); diff != "" || way[2] != packs || way[4] != model || way[6] != function {
			t.Errorf("%q (-want +got):\n%s", way, diff)
		}
		if g.path(model, served) == nil || g.path(served, function) == nil || g.path(function, source) != nil {
			t.Error("the model does not lead to the table of models, that not to the function, or the function to the file")
		}
	})
	t.Run("a model has its data, its job and its group", func(t *testing.T) {
		data := aspect(t, first, model, "mlModelTrainingData")
		properties := aspect(t, first, model, "mlModelProperties")
		want := map[string]any{"trainingData": []any{map[string]any{"dataset": packs}}}
		if diff := cmp.Diff(want, data); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]any{"urn:li:dataJob:(urn:li:dataFlow:(argo,insitu." + p.name + ",PROD),train-model)"}, properties["trainingJobs"]); diff != "" {
			t.Error(diff)
		}
		group := "urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow," + p.name + ",PROD)"
		if diff := cmp.Diff([]any{group}, properties["groups"]); diff != "" {
			t.Error(diff)
		}
		aspect(t, first, group, "mlModelGroupProperties")
	})
	t.Run("what is said of the tables is what the databases say", func(t *testing.T) {
		for urn, conn := range map[string]*postgres.Conn{packs: p.training, urn(platform, training, "releases"): p.training, served: p.inference} {
			name := strings.TrimSuffix(urn[strings.LastIndex(urn, ".")+1:], ",PROD)")
			rows, err := conn.Query(t.Context(), `select attname || ' ' || format_type(atttypid, atttypmod) from pg_attribute
				where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum`, postgres.Ident(p.name, name))
			if err != nil {
				t.Fatal(err)
			}
			want, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range list(aspect(t, first, urn, "schemaMetadata")["fields"]) {
				native := map[string]string{"int": "integer", "timestamptz": "timestamp with time zone"}[f["nativeDataType"].(string)]
				if native == "" {
					native = f["nativeDataType"].(string)
				}
				got = append(got, f["fieldPath"].(string)+" "+native)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-database +catalog):\n%s", urn, diff)
			}
		}
		var rows int64
		if err := p.training.QueryRow(t.Context(), "select sum(n) from "+postgres.Ident(p.name, table)).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		if got := aspect(t, first, packs, "datasetProfile")["rowCount"]; got != float64(rows) {
			t.Errorf("%v rows in the catalog, %d in the table", got, rows)
		}
	})
	t.Run("each database has the tags of its binding and no other's", func(t *testing.T) {
		for urn, want := range map[string][]string{
			packs:    {"servicebinding:type:" + bindingType(t, "postgresql/insitu-training"), "servicebinding:provider:insitu-training", "training"},
			served:   {"servicebinding:type:postgres", "servicebinding:provider:insitu-inference", "inference"},
			function: {"servicebinding:type:postgres", "servicebinding:provider:insitu-inference", "inference"},
		} {
			schema := aspect(t, first, urn, "container")["container"].(string)
			database := aspect(t, first, schema, "container")["container"].(string)
			for _, entity := range []string{urn, schema, database} {
				var got []string
				for _, tag := range list(aspect(t, first, entity, "globalTags")["tags"]) {
					got = append(got, strings.TrimPrefix(tag["tag"].(string), "urn:li:tag:"))
					aspect(t, first, tag["tag"].(string), "tagProperties")
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", entity, diff)
				}
			}
		}
		if view := aspect(t, first, "urn:li:dataHubView:insitu-servicebinding-sources", "dataHubViewInfo"); view["name"] != "ServiceBinding Sources" {
			t.Errorf("view %v", view)
		}
	})
	t.Run("a second run changes nothing but times, and adds its own runs", func(t *testing.T) {
		p.succeed(t, "-p", "epochs=1")
		second := read(t, proposals)
		if diff := cmp.Diff(lasting(first), lasting(second)); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
		if len(second) <= len(first) {
			t.Error("the second run is not told")
		}
		if err := lineagetest.DataHub(t, proposals); err != nil {
			t.Error(err)
		}
	})
}

func bindingType(t *testing.T, selector string) string {
	t.Helper()
	kind := strings.ToLower(testenv.Binding(t, selector)("type"))
	return strings.ReplaceAll(kind, "postgresql", "postgres")
}

func read(t *testing.T, file string) (list []proposal) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func aspect(t *testing.T, all []proposal, urn, name string) map[string]any {
	t.Helper()
	for _, x := range all {
		if x.EntityURN == urn && x.AspectName == name {
			return x.Aspect.JSON
		}
	}
	t.Fatalf("there is no %s of %s", name, urn)
	return nil
}

func list(v any) (out []map[string]any) {
	items, _ := v.([]any)
	for _, item := range items {
		out = append(out, item.(map[string]any))
	}
	return out
}

// lasting are the aspects of what is there beyond a run, without times.
func lasting(all []proposal) map[string]any {
	out := map[string]any{}
	for _, x := range all {
		if x.EntityType == "dataProcessInstance" {
			continue
		}
		delete(x.Aspect.JSON, "timestampMillis")
		out[x.EntityURN+" "+x.AspectName] = x.Aspect.JSON
	}
	return out
}
