package serve

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"
)

// openAPI describes every route and status; the tests hold each answer against it.
//
//go:embed openapi.json
var openAPI []byte

// OpenAPI is the description that the API answers with at /openapi.json.
func OpenAPI() []byte { return bytes.Clone(openAPI) }

//go:embed docs.gohtml
var docsPage string

//go:embed docs.css
var docsStyle string

// page is a finished HTML page and what its browser may do.
type page struct {
	html   []byte
	policy string
}

// The parts of OpenAPI that the page shows.
type (
	specification struct {
		Info struct {
			Title, Summary, Description string
		}
		Tags       []struct{ Name string }
		Paths      ordered[map[string]operation]
		Components struct {
			Responses map[string]response
		}
	}
	operation struct {
		Tags                 []string
		Summary, Description string
		Parameters           []struct{ Name, Description string }
		RequestBody          *struct {
			Content map[string]struct {
				Schema struct {
					Properties ordered[described]
				}
				Example json.RawMessage
			}
		}
		Responses ordered[response]
	}
	described struct{ Description string }
	response  struct {
		Ref         string `json:"$ref"`
		Description string
		Content     map[string]struct{ Example json.RawMessage }
	}
)

// ordered is a JSON object whose order matters to readers.
type ordered[T any] []entry[T]

type entry[T any] struct {
	Key   string
	Value T
}

// UnmarshalJSON keeps the keys in the order of the text.
func (o *ordered[T]) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		e := entry[T]{Key: fmt.Sprint(key)}
		if err := d.Decode(&e.Value); err != nil {
			return err
		}
		*o = append(*o, e)
	}
	return nil
}

// shown is one route of the page.
type shown struct {
	Method, Path, ID string
	operation
	Fields ordered[described] // of the form
	Form   bool               // can be tried in the page
	JSON   ordered[described] // properties of the body, where it may be JSON
	Body   string             // an example of that
	Many   bool
}

type group struct {
	Name   string
	Routes []shown
}

// render makes the page of openAPI, once: it never changes. With a token there is nothing to try out in it.
func render(token bool) (page, error) {
	var s specification
	if err := json.Unmarshal(openAPI, &s); err != nil {
		return page{}, fmt.Errorf("read openapi.json: %w", err)
	}
	var groups []group
	for _, tag := range s.Tags {
		g := group{Name: tag.Name}
		for _, path := range s.Paths {
			for method, o := range path.Value {
				if !slices.Contains(o.Tags, tag.Name) {
					continue
				}
				for i, r := range o.Responses {
					if name, ok := strings.CutPrefix(r.Value.Ref, "#/components/responses/"); ok {
						o.Responses[i].Value = s.Components.Responses[name]
					}
				}
				v := shown{Method: strings.ToUpper(method), Path: path.Key, ID: strings.Trim(strings.ReplaceAll(path.Key, "/", "-"), "-"), operation: o}
				if o.RequestBody != nil {
					v.Fields = o.RequestBody.Content["multipart/form-data"].Schema.Properties
					inJSON := o.RequestBody.Content["application/json"]
					v.JSON = inJSON.Schema.Properties
					var b bytes.Buffer
					if len(inJSON.Example) > 0 && json.Compact(&b, inJSON.Example) == nil {
						v.Body = b.String()
					}
					v.Form, v.Many = !token, strings.HasPrefix(path.Key, "/v1/")
				}
				g.Routes = append(g.Routes, v)
			}
		}
		groups = append(groups, g)
	}
	t, err := template.New("docs").Funcs(template.FuncMap{"example": example, "prose": prose}).Parse(docsPage)
	if err != nil {
		return page{}, fmt.Errorf("docs page: %w", err)
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{"Info": s.Info, "Groups": groups, "Token": token, "Style": template.CSS(docsStyle)})
	if err != nil {
		return page{}, fmt.Errorf("docs page: %w", err)
	}
	return page{
		html:   b.Bytes(),
		policy: "default-src 'none'; style-src " + hashSource(docsStyle) + "; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	}, nil
}

// example is a response's example, indented; "" if it has none.
func example(r response) string {
	for _, c := range r.Content {
		var b bytes.Buffer
		if len(c.Example) > 0 && json.Indent(&b, c.Example, "", "  ") == nil {
			return b.String()
		}
	}
	return ""
}

// prose shows `this` of the description's Markdown as code.
func prose(text string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			b.WriteString("<code>" + template.HTMLEscapeString(part) + "</code>")
		} else {
			b.WriteString(template.HTMLEscapeString(part))
		}
	}
	return template.HTML(b.String()) // every part is escaped above
}
