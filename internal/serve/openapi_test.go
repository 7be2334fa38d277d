package serve

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// contract is openapi.json as the tests read it.
type contract map[string]any

func readContract(t testing.TB) contract {
	t.Helper()
	var c contract
	if err := json.Unmarshal(openAPI, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func at(value any, path ...string) any {
	for _, key := range path {
		m, _ := value.(map[string]any)
		value = m[key]
	}
	return value
}

func (c contract) deref(value any) any {
	ref, ok := at(value, "$ref").(string)
	if !ok {
		return value
	}
	return at(map[string]any(c), strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
}

// check fails unless the answer is one that the contract documents.
func (c contract) check(t testing.TB, method, path string, a answer) {
	t.Helper()
	operations, _ := at(map[string]any(c), "paths", path).(map[string]any)
	if operations == nil {
		if a.status != http.StatusNotFound {
			t.Errorf("%s %s: status %d of a path that openapi.json does not have", method, path, a.status)
		}
		return
	}
	operation := operations[strings.ToLower(method)]
	if operation == nil { // then the one method there is says what others get
		for _, o := range operations {
			operation = o
		}
	}
	response := c.deref(at(operation, "responses", strconv.Itoa(a.status)))
	if response == nil {
		t.Errorf("%s %s: status %d is not in openapi.json: %s", method, path, a.status, a.body)
		return
	}
	headers, _ := at(response, "headers").(map[string]any)
	for name := range headers {
		if a.header.Get(name) == "" {
			t.Errorf("%s %s: status %d without the header %s", method, path, a.status, name)
		}
	}
	content, _ := at(response, "content").(map[string]any)
	if method == http.MethodHead || content == nil {
		return
	}
	kind, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	media := content[kind]
	if media == nil {
		t.Errorf("%s %s: status %d has the type %q", method, path, a.status, kind)
		return
	}
	if kind == "application/json" {
		var value any
		if err := json.Unmarshal([]byte(a.body), &value); err != nil {
			t.Errorf("%s %s: status %d: %q: %v", method, path, a.status, a.body, err)
			return
		}
		for _, problem := range c.problems("", at(media, "schema"), value) {
			t.Errorf("%s %s: status %d: %s", method, path, a.status, problem)
		}
	}
}

// problems are where value is not as schema says: the part of JSON Schema that openapi.json uses, and no undeclared properties.
func (c contract) problems(where string, schema, value any) (all []string) {
	schema = c.deref(schema)
	say := func(text string) { all = append(all, strings.TrimPrefix(where+": "+text, ": ")) }
	if one, ok := at(schema, "oneOf").([]any); ok {
		matching := 0
		for _, s := range one {
			if len(c.problems(where, s, value)) == 0 {
				matching++
			}
		}
		if matching != 1 {
			say("matches " + strconv.Itoa(matching) + " of oneOf")
		}
		return all
	}
	if want := at(schema, "const"); want != nil && !reflect.DeepEqual(want, value) {
		say("is not the constant")
	}
	if enum, ok := at(schema, "enum").([]any); ok && !slices.Contains(enum, value) {
		say("is none of the enum")
	}
	types, ok := at(schema, "type").([]any)
	if !ok && at(schema, "type") != nil {
		types = []any{at(schema, "type")}
	}
	if types != nil && !slices.ContainsFunc(types, func(name any) bool { return isType(name, value) }) {
		text, _ := json.Marshal(value)
		say(string(text) + " has another type")
	}
	switch v := value.(type) {
	case map[string]any:
		required, _ := at(schema, "required").([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				say("lacks " + name.(string))
			}
		}
		properties, ok := at(schema, "properties").(map[string]any)
		for name, x := range v {
			if ok && properties[name] == nil {
				say("has the undeclared " + name)
			}
			all = append(all, c.problems(where+"."+name, properties[name], x)...)
		}
	case []any:
		for _, x := range v {
			all = append(all, c.problems(where+"[]", at(schema, "items"), x)...)
		}
	}
	return all
}

func isType(name, value any) bool {
	switch v := value.(type) {
	case nil:
		return name == "null"
	case string:
		return name == "string"
	case bool:
		return name == "boolean"
	case float64:
		return name == "number" || name == "integer" && v == float64(int64(v))
	case []any:
		return name == "array"
	}
	return name == "object"
}

func TestEveryRouteIsDescribedAndNothingElse(t *testing.T) {
	t.Parallel()
	a, err := newAPI(Config{Sessions: 1})
	if err != nil {
		t.Fatal(err)
	}
	var routes, described []string
	for _, r := range a.routes {
		routes = append(routes, r.method+" "+r.path)
	}
	c := readContract(t)
	ids := map[any]bool{}
	for path, operations := range at(map[string]any(c), "paths").(map[string]any) {
		for method, o := range operations.(map[string]any) {
			described = append(described, strings.ToUpper(method)+" "+path)
			if id := at(o, "operationId"); id == nil || ids[id] {
				t.Errorf("%s %s: operationId %v", method, path, id)
			} else {
				ids[id] = true
			}
			if at(o, "summary") == nil || at(o, "tags") == nil || at(o, "responses", "405") == nil {
				t.Errorf("%s %s: expected a summary, tags and 405", method, path)
			}
			if security, _ := at(o, "security").([]any); (at(o, "responses", "401") != nil) != (len(security) > 0) {
				t.Errorf("%s %s: 401 and security disagree", method, path)
			}
		}
	}
	slices.Sort(routes)
	slices.Sort(described)
	if diff := cmp.Diff(routes, described); diff != "" {
		t.Error(diff)
	}
	// Every reference leads somewhere, everything is referred to, and every example is as its schema says.
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`"\$ref": "#/components/([a-z]+/[A-Za-z]+)"`).FindAllStringSubmatch(string(openAPI), -1) {
		used[m[1]] = true
		if c.deref(map[string]any{"$ref": "#/components/" + m[1]}) == nil {
			t.Errorf("%s is not there", m[1])
		}
	}
	for _, kind := range []string{"schemas", "responses"} {
		for name := range at(map[string]any(c), "components", kind).(map[string]any) {
			if !used[kind+"/"+name] {
				t.Errorf("nothing refers to %s/%s", kind, name)
			}
		}
	}
	examples := 0
	var walk func(value any)
	walk = func(value any) {
		m, _ := value.(map[string]any)
		if example, ok := m["example"]; ok {
			examples++
			for _, problem := range c.problems("example", m["schema"], example) {
				t.Error(problem)
			}
		}
		for key := range maps.Keys(m) {
			walk(m[key])
		}
	}
	walk(map[string]any(c))
	if examples < 10 {
		t.Errorf("only %d examples", examples)
	}
}

func TestTheContractIsOpenAPI31(t *testing.T) {
	t.Parallel()
	validator := os.Getenv("INSITU_TEST_OPENAPI")
	if validator == "" {
		t.Skip("needs openapi-spec-validator: INSITU_TEST_OPENAPI is not set (make test installs it)")
	}
	if out, err := exec.CommandContext(t.Context(), validator, "--schema", "3.1", "--validation-errors", "all", "openapi.json").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestThePageNeedsNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	for _, token := range []bool{false, true} {
		p, err := render(token)
		if err != nil {
			t.Fatal(err)
		}
		html := string(p.html)
		for _, foreign := range []string{"<script", "<link", "src=", "@import", "url(", "href=\"http", "ZgotmplZ"} {
			if strings.Contains(html, foreign) {
				t.Errorf("the page has %q", foreign)
			}
		}
		for path := range at(map[string]any(readContract(t)), "paths").(map[string]any) {
			if !strings.Contains(html, "<code>"+path+"</code>") {
				t.Errorf("the page lacks %s", path)
			}
		}
		if strings.Contains(html, "<form") == token {
			t.Errorf("token %v: a form that cannot work, or none", token)
		}
	}
}
