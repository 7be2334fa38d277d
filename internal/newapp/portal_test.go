package newapp

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/insitu-ml/insitu/internal/serve"
)

// choices are apps to make in every way there is: one a learner with defaults, and everything.
func choices() []Values {
	out := []Values{everything}
	for _, l := range allLearners() {
		out = append(out, Values{"name": "my-app", "learner": l.name, "repository": "https://github.com/team/my-app"})
	}
	return out
}

func templateOf(t *testing.T, of func(Values, []byte) (map[string][]byte, error), v Values) map[string][]byte {
	t.Helper()
	files, err := of(v, serve.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// parameters are what Backstage's form gives for choices: what is left out has the form's default.
func parameters(v Values) map[string]string {
	out := map[string]string{}
	for _, o := range Options() {
		if value := v[o.Name]; value != "" {
			out[o.Key()] = value
		} else if o.Default != "" {
			out[o.Key()] = o.Default
		}
	}
	host, rest, _ := strings.Cut(strings.TrimPrefix(out["repository"], "https://"), "/")
	owner, repo, _ := strings.Cut(rest, "/")
	out["repository"] = host + "?owner=" + owner + "&repo=" + repo // as RepoUrlPicker says it
	return out
}

func TestBackstageMakesTheSameBytes(t *testing.T) {
	t.Parallel()
	tools := os.Getenv("INSITU_TEST_BACKSTAGE")
	if tools == "" {
		t.Skip("needs Backstage's packages: INSITU_TEST_BACKSTAGE is not set (make test installs them)")
	}
	dir := t.TempDir()
	files := templateOf(t, Backstage, nil)
	if _, err := Write(dir, files, false); err != nil {
		t.Fatal(err)
	}
	type filled struct {
		Parameters map[string]string `json:"parameters"`
		Out        string            `json:"out"`
	}
	input := struct {
		Dir      string              `json:"dir"`
		Template any                 `json:"template"`
		Entities []map[string]any    `json:"entities"`
		Cases    []filled            `json:"cases"`
		Refused  []map[string]string `json:"refused"`
	}{Dir: dir}
	if err := yaml.UnmarshalStrict(files["template.yaml"], &input.Template); err != nil {
		t.Fatal(err)
	}
	for _, v := range choices() {
		input.Cases = append(input.Cases, filled{parameters(v), t.TempDir()})
		input.Entities = append(input.Entities, entities(t, app(t, v))...)
	}
	for _, o := range Options() {
		if o.Name == optionRepository { // Backstage's own field checks it
			continue
		}
		for _, value := range wrong[o.Name] {
			p := parameters(everything)
			p[o.Key()] = value
			input.Refused = append(input.Refused, p)
		}
	}
	text, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", filepath.Join("testdata", "backstage.cjs"))
	cmd.Env = append(cmd.Environ(), "NODE_PATH="+filepath.Join(tools, "node_modules"))
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "" {
		t.Fatalf("%v\n%s", err, out)
	}
	for i, v := range choices() {
		for _, engine := range []string{"nunjitsu", "nunjucks"} {
			same(t, engine+", "+v["learner"], app(t, v), read(t, filepath.Join(input.Cases[i].Out, engine)))
		}
	}
}

// read is all files of a folder.
func read(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if out[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// same compares what insitu init writes with what another engine wrote.
func same(t *testing.T, what string, want, got map[string][]byte) {
	t.Helper()
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("%s: files (-insitu init +template):\n%s", what, diff)
	}
	for name, text := range want {
		if bytes.Equal(text, got[name]) {
			continue
		}
		if binary(name) {
			t.Errorf("%s: %s differs", what, name)
		} else {
			t.Errorf("%s: %s (-insitu init +template):\n%s", what, name, cmp.Diff(string(text), string(got[name])))
		}
	}
}

// accelerator is accelerator.yaml as far as this package uses it, by the documentation of Application Accelerator ("Create an
// accelerator.yaml file", "Transform reference").
type accelerator struct {
	Accelerator struct {
		DisplayName string   `json:"displayName"`
		Description string   `json:"description"`
		Tags        []string `json:"tags"`
		Options     []struct {
			Name            string `json:"name"`
			Label           string `json:"label"`
			Description     string `json:"description"`
			DataType        string `json:"dataType"`
			InputType       string `json:"inputType"`
			ValidationRegex string `json:"validationRegex,omitempty"`
			DefaultValue    string `json:"defaultValue"`
			Required        bool   `json:"required"`
			Choices         []struct {
				Value string `json:"value"`
				Text  string `json:"text"`
			} `json:"choices,omitempty"`
		} `json:"options"`
	} `json:"accelerator"`
	Engine struct {
		Merge []struct {
			Include   []string `json:"include"`
			Condition string   `json:"condition,omitempty"`
			Chain     []struct {
				Type          string `json:"type"`
				Regex         string `json:"regex,omitempty"`
				RewriteTo     string `json:"rewriteTo,omitempty"`
				Substitutions []struct {
					Text string `json:"text"`
					With string `json:"with"`
				} `json:"substitutions,omitempty"`
			} `json:"chain"`
		} `json:"merge"`
	} `json:"engine"`
}

func TestTheAcceleratorIsWhatTheDocumentationDescribes(t *testing.T) {
	t.Parallel()
	var a accelerator
	var written, known any
	text := templateOf(t, Accelerator, nil)["accelerator.yaml"]
	if err := errors.Join(yaml.Unmarshal(text, &a), yaml.Unmarshal(text, &written), json.Unmarshal(encoded(t, a), &known)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(known, written); diff != "" {
		t.Errorf("properties (-documented +written):\n%s", diff)
	}
	if !slices.Contains(a.Accelerator.Tags, "in-database") {
		t.Errorf("a search for in-database does not find it: its tags are %q", a.Accelerator.Tags)
	}
	name := regexp.MustCompile(`^[a-z]+([A-Z][a-z]*)*$`)
	seen := map[string]bool{}
	for _, o := range a.Accelerator.Options {
		if !name.MatchString(o.Name) || seen[o.Name] {
			t.Errorf("option %q: names are in camelCase, and each is used once", o.Name)
		}
		seen[o.Name] = true
		if o.Label == "" || o.Description == "" || o.DataType != "string" {
			t.Errorf("option %s: %+v", o.Name, o)
		}
		if want := map[bool]string{true: "select", false: "text"}[len(o.Choices) > 0]; o.InputType != want {
			t.Errorf("option %s: inputType %s, expected %s", o.Name, o.InputType, want)
		}
	}
	for _, m := range a.Engine.Merge {
		for _, c := range m.Chain {
			if !slices.Contains([]string{"RewritePath", "ReplaceText"}, c.Type) {
				t.Errorf("there is no transform %s", c.Type)
			}
		}
	}
}

func encoded(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// spelValue is the value of the few Spring expressions that an accelerator of this package has.
func spelValue(t *testing.T, text string, variables map[string]string) string {
	t.Helper()
	if first, rest, elvis := strings.Cut(text, " ?: "); elvis { // empty text counts as none
		if found := spelValue(t, first, variables); found != "" {
			return found
		}
		return spelValue(t, rest, variables)
	}
	if variable, is := strings.CutSuffix(text, ".replace('-', '_')"); is {
		return strings.ReplaceAll(spelValue(t, variable, variables), "-", "_")
	}
	if strings.HasPrefix(text, "'") {
		return strings.Trim(text, "'")
	}
	found, ok := variables[strings.TrimPrefix(text, "#")]
	if !ok || !strings.HasPrefix(text, "#") {
		t.Fatalf("%q is no expression this test knows", text)
	}
	return found
}

func TestTheAcceleratorsTransformsMakeTheSameBytes(t *testing.T) {
	t.Parallel()
	files := templateOf(t, Accelerator, nil)
	var a accelerator
	if err := yaml.UnmarshalStrict(files["accelerator.yaml"], &a); err != nil {
		t.Fatal(err)
	}
	for _, v := range choices() {
		variables := map[string]string{}
		for _, o := range a.Accelerator.Options {
			variables[o.Name] = o.DefaultValue
		}
		for name, value := range v {
			variables[camel(name)] = value
		}
		got := map[string][]byte{}
		for _, m := range a.Engine.Merge {
			if variable, value, conditional := strings.Cut(m.Condition, " == "); conditional && spelValue(t, variable, variables) != spelValue(t, value, variables) {
				continue
			}
			for _, file := range m.Include {
				text, ok := files[file]
				if !ok {
					t.Fatalf("it includes %s, which is not there", file)
				}
				to := file
				for _, c := range m.Chain {
					if c.Type == "RewritePath" {
						to = spelValue(t, c.RewriteTo, map[string]string{"g1": regexp.MustCompile(c.Regex).FindStringSubmatch(to)[1]})
					}
					for _, s := range c.Substitutions {
						text = bytes.ReplaceAll(text, []byte(s.Text), []byte(spelValue(t, s.With, variables)))
					}
				}
				if got[to] != nil {
					t.Errorf("%s is made twice", to)
				}
				got[to] = text
			}
		}
		same(t, v["learner"], app(t, v), got)
	}
}

func TestEveryFormHasTheSameOptions(t *testing.T) {
	t.Parallel()
	type option struct {
		Name, Title, Description, Default, Pattern string
		Required                                   bool
		Choices                                    []string
	}
	defaults := maps.Clone(everything)
	delete(defaults, optionName)
	var want []option
	for _, o := range Options() {
		w := option{Name: o.Name, Title: o.Title, Description: o.Description, Default: defaults[o.Name], Required: o.Required()}
		for _, c := range o.Choices {
			w.Choices = append(w.Choices, c.Value)
		}
		if w.Choices == nil {
			w.Pattern = o.Pattern
		}
		want = append(want, w)
	}

	var a accelerator
	if err := yaml.UnmarshalStrict(templateOf(t, Accelerator, defaults)["accelerator.yaml"], &a); err != nil {
		t.Fatal(err)
	}
	var tap []option
	for i, o := range a.Accelerator.Options {
		g := option{Name: Options()[i].Name, Title: o.Label, Description: o.Description, Default: o.DefaultValue, Required: o.Required, Pattern: o.ValidationRegex}
		for _, c := range o.Choices {
			g.Choices = append(g.Choices, c.Value)
		}
		if o.Name != camel(g.Name) {
			t.Errorf("option %d is %s, expected %s", i, o.Name, camel(g.Name))
		}
		tap = append(tap, g)
	}
	if diff := cmp.Diff(want, tap); diff != "" {
		t.Errorf("accelerator.yaml (-table +file):\n%s", diff)
	}

	var b struct {
		Metadata struct{ Tags []string }
		Spec     struct {
			Owner      string
			Parameters []struct {
				Title      string
				Required   []string
				Properties map[string]struct {
					Title, Description, Default, Pattern string
					Enum, EnumNames                      []string
					Options                              struct{ AllowedHosts []string } `json:"ui:options"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(templateOf(t, Backstage, defaults)["template.yaml"], &b); err != nil {
		t.Fatal(err)
	}
	var portal []option
	for _, o := range Options() {
		for _, page := range b.Spec.Parameters {
			p, ok := page.Properties[o.Key()]
			if !ok {
				continue
			}
			g := option{Name: o.Name, Title: p.Title, Description: p.Description, Default: p.Default, Pattern: p.Pattern, Choices: p.Enum, Required: slices.Contains(page.Required, o.Key())}
			if o.Name == optionRepository { // a field of Backstage's own, which offers hosts and has neither default nor pattern
				g.Default, g.Pattern = defaults[o.Name], o.Pattern
				if !slices.Equal(p.Options.AllowedHosts, []string{"git.example.com"}) {
					t.Errorf("the field for the repository offers %q", p.Options.AllowedHosts)
				}
			}
			if page.Title != o.Page || len(p.EnumNames) != len(p.Enum) {
				t.Errorf("%s is on the page %q, with %d names for %d choices", o.Name, page.Title, len(p.EnumNames), len(p.Enum))
			}
			portal = append(portal, g)
		}
	}
	if diff := cmp.Diff(want, portal); diff != "" {
		t.Errorf("template.yaml (-table +file):\n%s", diff)
	}
	if b.Spec.Owner != everything["owner"] || !slices.Contains(b.Metadata.Tags, "in-database") {
		t.Errorf("the template is of %q, with the tags %q", b.Spec.Owner, b.Metadata.Tags)
	}
}

func TestATemplateHasNoNameAndNoWrongDefaults(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]func(Values, []byte) (map[string][]byte, error){"backstage": Backstage, "accelerator": Accelerator} {
		for want, v := range map[string]Values{"no name to choose": {"name": "my-app"}, `approval "maybe"`: {"approval": "maybe"}} {
			if _, err := of(v, nil); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, expected %q", name, err, want)
			}
		}
	}
	if _, err := Backstage(Values{"repository": "git@git.example.com:team/app"}, nil); err == nil || !strings.Contains(err.Error(), "expected https://") {
		t.Errorf("a repository by ssh: %v", err)
	}
}

func TestBothTemplatesShareOneSkeleton(t *testing.T) {
	t.Parallel()
	one, two := templateOf(t, Backstage, nil), templateOf(t, Accelerator, nil)
	delete(one, "template.yaml")
	delete(two, "accelerator.yaml")
	if diff := cmp.Diff(one, two); diff != "" {
		t.Error(diff)
	}
	for name := range one {
		if !strings.HasPrefix(name, skeletonFolder+"/") || path.Clean(name) != name {
			t.Errorf("%s is not in the skeleton", name)
		}
	}
}
