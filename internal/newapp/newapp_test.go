package newapp

import (
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/serve"
)

// everything chooses something else than the default for each option.
var everything = Values{
	"name": "pump-failures", "learner": "sklearn", "dataset": "s3://data/pumps.csv?version=2", "owner": "group:default/plant-7",
	"repository": "https://git.example.com/plant-7/pump-failures", "branch": "release/1.2", "app-name": "pumps",
	"workflow": "in-database-pipeline-express", "experiment": "Plant 7/pumps", "schema": "plant_7", "stage": "production", "approval": "required",
	"training-binding": "postgresql/acme", "inference-binding": "postgres",
}

func app(t *testing.T, v Values) map[string][]byte {
	t.Helper()
	files, err := App(v, serve.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestEveryOptionIsTestedWithSomethingElseThanItsDefault(t *testing.T) {
	t.Parallel()
	for _, o := range Options() {
		if everything[o.Name] == "" || everything[o.Name] == o.Default {
			t.Errorf("%s: %q", o.Name, everything[o.Name])
		}
	}
}

func TestEveryLearnerMakesAnAppThatInsituReads(t *testing.T) {
	t.Parallel()
	for _, l := range allLearners() {
		dir := t.TempDir()
		if _, err := Write(dir, app(t, Values{"name": "my-app", "learner": l.name}), false); err != nil {
			t.Fatal(err)
		}
		a, err := mlapp.Load(dir)
		if err != nil {
			t.Errorf("%s: %v", l.name, err)
			continue
		}
		if a.Manifest.Name != "my-app" || a.Manifest.Model != "my-app" {
			t.Errorf("%s: it is called %q, its model %q", l.name, a.Manifest.Name, a.Manifest.Model)
		}
		data, err := a.OpenDataset()
		if err != nil {
			t.Errorf("%s: %v", l.name, err)
			continue
		}
		if n, err := io.Copy(io.Discard, data); err != nil || n < 10_000 {
			t.Errorf("%s: %d bytes of sample data, %v", l.name, n, err)
		}
		_ = data.Close()
	}
}

// document reads a YAML file of one document, without its comments for ytt.
func document(t *testing.T, text []byte, into any) {
	t.Helper()
	var kept []string
	for line := range strings.SplitSeq(string(text), "\n") {
		if !strings.HasPrefix(line, "#") {
			kept = append(kept, line)
		}
	}
	if err := yaml.Unmarshal([]byte(strings.Join(kept, "\n")), into); err != nil {
		t.Fatal(err)
	}
}

// chosen is where the choices are in the files of an app.
func chosen(t *testing.T, files map[string][]byte) map[string]any {
	t.Helper()
	var manifest mlapp.Manifest
	document(t, files["insitu.yaml"], &manifest)
	out := map[string]any{"name": manifest.Name, "model": manifest.Model, "source": manifest.Dataset.Source}
	var values map[string]any
	document(t, files["values.yaml"], &values)
	for _, name := range []string{"pipeline", "experiment_name", "model_stage", "training_db_schema", "inference_db_schema", "training_binding", "inference_binding", "approval"} {
		out[name] = values[name]
	}
	var cr struct {
		Metadata struct{ Name string }
		Spec     struct {
			Fetch []struct{ Git struct{ URL, Ref string } }
		}
	}
	document(t, files["pipeline_app.yaml"], &cr)
	out["App"], out["url"], out["ref"] = cr.Metadata.Name, cr.Spec.Fetch[0].Git.URL, cr.Spec.Fetch[0].Git.Ref
	for _, e := range entities(t, files) {
		spec, metadata := e["spec"].(map[string]any), e["metadata"].(map[string]any)
		name := e["kind"].(string) + " " + metadata["name"].(string)
		out[name] = spec["owner"]
		annotations, _ := metadata["annotations"].(map[string]any)
		for _, key := range []string{"insitu/binding", "insitu/schema", "insitu/app-name"} {
			if annotations[key] != nil {
				out[name+" "+key] = annotations[key]
			}
		}
	}
	return out
}

// entities are those of catalog-info.yaml, with the texts that it refers to.
func entities(t *testing.T, files map[string][]byte) []map[string]any {
	t.Helper()
	var out []map[string]any
	for text := range strings.SplitSeq(string(files["catalog-info.yaml"]), "\n---\n") {
		var e map[string]any
		if err := yaml.UnmarshalStrict([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		spec := e["spec"].(map[string]any)
		if definition, ok := spec["definition"].(map[string]any); ok {
			file := strings.TrimPrefix(definition["$text"].(string), "./")
			if len(files[file]) == 0 {
				t.Errorf("the definition is in %s, which is not there", file)
			}
			spec["definition"] = string(files[file])
		}
		out = append(out, e)
	}
	return out
}

func TestWhatIsChosenIsInTheFiles(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		values Values
		want   map[string]any
	}{
		"defaults": {Values{"name": "my-app"}, map[string]any{
			"name": "my-app", "model": "my-app", "source": "tumours.csv.gz", "pipeline": "in-database-pipeline", "experiment_name": "", "model_stage": "staging", "approval": "none",
			"training_db_schema": "my_app", "inference_db_schema": "my_app", "training_binding": "greenplum/vmware", "inference_binding": "postgres/vmware",
			"App": "my-app", "url": "https://github.com/your-organisation/your-ml-app", "ref": "origin/main",
			"Component my-app": "guests", "Component my-app insitu/app-name": "my-app", "Component my-app insitu/schema": "my_app", "API my-app-inference": "guests",
			"Resource my-app-training-db": "guests", "Resource my-app-training-db insitu/binding": "greenplum/vmware", "Resource my-app-training-db insitu/schema": "my_app",
			"Resource my-app-inference-db": "guests", "Resource my-app-inference-db insitu/binding": "postgres/vmware", "Resource my-app-inference-db insitu/schema": "my_app",
		}},
		"everything": {everything, map[string]any{
			"name": "pump-failures", "model": "pump-failures", "source": "s3://data/pumps.csv?version=2", "pipeline": "in-database-pipeline-express",
			"experiment_name": "Plant 7/pumps", "model_stage": "production", "approval": "required",
			"training_db_schema": "plant_7", "inference_db_schema": "plant_7", "training_binding": "postgresql/acme", "inference_binding": "postgres",
			"App": "pumps", "url": "https://git.example.com/plant-7/pump-failures", "ref": "origin/release/1.2",
			"Component pump-failures": "group:default/plant-7", "Component pump-failures insitu/app-name": "pumps", "Component pump-failures insitu/schema": "plant_7",
			"API pump-failures-inference":        "group:default/plant-7",
			"Resource pump-failures-training-db": "group:default/plant-7", "Resource pump-failures-training-db insitu/binding": "postgresql/acme", "Resource pump-failures-training-db insitu/schema": "plant_7",
			"Resource pump-failures-inference-db": "group:default/plant-7", "Resource pump-failures-inference-db insitu/binding": "postgres", "Resource pump-failures-inference-db insitu/schema": "plant_7",
		}},
	} {
		if diff := cmp.Diff(test.want, chosen(t, app(t, test.values))); diff != "" {
			t.Errorf("%s (-expected +written):\n%s", name, diff)
		}
	}
}

// wrong are values that no form may take.
var wrong = map[string][]string{
	"name":              {"", "My-App", "9lives", "ends-", "a b", `x"`, "é", strings.Repeat("a", 41), "a\nb"},
	"learner":           {"svm", "cnn "},
	"dataset":           {"data.csv", "ftp://a/b", `https://a/"b`, "https://a/ b", "https://a/${{ x }}"},
	"owner":             {"two words", "a:b:c", `"`},
	"repository":        {"git.example.com/x", "https://me:secret@git.example.com/x", "file:///x", "https://git.example.com/x y"},
	"branch":            {"a b", "-x", "a..b\""},
	"app-name":          {"Pumps", "x_y", strings.Repeat("a", 51)},
	"workflow":          {"mine"},
	"experiment":        {`"`, " x", "a#\nb"},
	"schema":            {"Team", "7up", "a-b"},
	"stage":             {"a b", "1"},
	"approval":          {"yes"},
	"training-binding":  {"Greenplum", "a/b/c", "/"},
	"inference-binding": {"a b"},
}

func TestWrongValuesAreRefusedTogetherAndByName(t *testing.T) {
	t.Parallel()
	for _, o := range Options() {
		for _, value := range wrong[o.Name] {
			v := Values{"name": "my-app", o.Name: value}
			if _, err := App(v, nil); err == nil || !strings.Contains(err.Error(), o.Name+" \"") || !strings.Contains(err.Error(), "expected "+o.Expected) || fault.Of(err) != fault.Configuration {
				t.Errorf("%s %q: %v", o.Name, value, err)
			}
		}
		if len(wrong[o.Name]) == 0 {
			t.Errorf("no wrong value of %s is tested", o.Name)
		}
	}
	_, err := App(Values{"name": "my-app", "stage": "a b", "branch": "a b", "color": "red"}, nil)
	if err == nil || strings.Count(err.Error(), "\n") != 2 || !strings.Contains(err.Error(), `no option "color"`) {
		t.Errorf("three mistakes: %v", err)
	}
}

func TestWritingTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ml", "my-app")
	files := app(t, Values{"name": "my-app"})
	names := slices.Sorted(maps.Keys(files))
	for _, want := range []Written{{New: names}, {Same: names}} {
		got, err := Write(dir, files, false)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	for name, text := range files {
		if found, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(found) != string(text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnEditedFileIsNotOverwrittenUnlessAsked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := app(t, Values{"name": "my-app"})
	edited := filepath.Join(dir, "learner.py")
	if err := os.WriteFile(edited, []byte("# mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Write(dir, files, false)
	if err == nil || !strings.Contains(err.Error(), "learner.py is there with other content") || !strings.Contains(err.Error(), "--force") || fault.Of(err) != fault.Configuration {
		t.Errorf("%v", err)
	}
	if found, _ := os.ReadDir(dir); len(found) != 1 {
		t.Errorf("after the refusal there are %v", found)
	}
	w, err := Write(dir, files, true)
	if err != nil || !slices.Equal(w.Changed, []string{"learner.py"}) || len(w.New) != len(files)-1 {
		t.Errorf("with overwrite: %+v, %v", w, err)
	}
	if found, _ := os.ReadFile(edited); string(found) != string(files["learner.py"]) {
		t.Error("learner.py is still the other one")
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(dir, map[string][]byte{"folder": nil}, true); err == nil || !strings.Contains(err.Error(), "is no file") {
		t.Errorf("a folder in the place of a file: %v", err)
	}
}

func TestWhatOthersTemplateEnginesWouldReadIsNoPartOfTheSkeleton(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"${{ values.name | upper }}", "{% if x %}", "{# x #}", "${{ parameters.name }}"} {
		if _, err := render("x "+text, map[string]string{"name": "x"}); err == nil || !strings.Contains(err.Error(), "no expression of the skeleton") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := render("${{ values.color }}", map[string]string{}); err == nil || !strings.Contains(err.Error(), `no value "color"`) {
		t.Errorf("an unknown value: %v", err)
	}
}
