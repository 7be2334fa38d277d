// Package lineagetest holds what the steps say to data catalogs against what the catalogs themselves publish:
// OpenLineage's JSON schemas, and DataHub's checker of metadata files.
package lineagetest

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/insitu-ml/insitu/internal/lineage/facets"
)

//go:embed openlineage
var published embed.FS

// schemas loads the published and Insitu's own schemas by their ids; nothing is fetched.
func schemas() (*jsonschema.Compiler, error) {
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for _, files := range []fs.FS{published, facets.Schemas} {
		err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".json") {
				return err
			}
			text, err := fs.ReadFile(files, path)
			if err != nil {
				return err
			}
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			id, _ := doc.(map[string]any)["$id"].(string)
			return c.AddResource(id, doc)
		})
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// OpenLineage says what is wrong with an event: by the schema it names, and each facet by the schema that one names.
// A facet without a schema, or with one that nobody published, is wrong, too.
func OpenLineage(event []byte) error {
	c, err := schemas()
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(event))
	if err != nil {
		return err
	}
	root, ok := doc.(map[string]any)
	if !ok {
		return errors.New("the event is no JSON object")
	}
	problems := []error{validate(c, root["schemaURL"], root)}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case []any:
			for i, item := range v {
				walk(fmt.Sprintf("%s[%d]", at, i), item)
			}
		case map[string]any:
			for key, item := range v {
				path := at + "." + key
				if key == "facets" || key == "inputFacets" || key == "outputFacets" {
					for name, facet := range item.(map[string]any) {
						url := facet.(map[string]any)["_schemaURL"]
						if err := validate(c, url, facet); err != nil {
							problems = append(problems, fmt.Errorf("%s.%s: %w", path, name, err))
						}
					}
					continue
				}
				walk(path, item)
			}
		}
	}
	walk("event", root)
	return errors.Join(problems...)
}

func validate(c *jsonschema.Compiler, url, value any) error {
	text, _ := url.(string)
	if text == "" {
		return errors.New("it names no schema")
	}
	schema, err := c.Compile(text)
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// ofItsEntity fails on an aspect that DataHub's model does not have for its entity, which the checker lets pass.
const ofItsEntity = `
import json, sys
from datahub.metadata.schema_classes import KEY_ASPECTS
for p in json.load(open(sys.argv[1])):
    if p["aspectName"] not in KEY_ASPECTS[p["entityType"]].ASPECT_INFO["entityAspects"]:
        sys.exit(p["entityUrn"] + ": DataHub has no aspect " + p["aspectName"] + " of " + p["entityType"])
`

// DataHub runs DataHub's own checker on a metadata file, and asks DataHub's model whether each entity can have its aspects.
// A test without the checker is skipped.
func DataHub(t testing.TB, file string) error {
	t.Helper()
	program := os.Getenv("INSITU_TEST_DATAHUB")
	if program == "" {
		t.Skip("needs DataHub's checker: INSITU_TEST_DATAHUB is not set (make test sets it)")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	out, err := run(t, filepath.Join(filepath.Dir(program), "python"), "-c", ofItsEntity, file)
	if err == nil {
		out, err = run(t, program, "check", "metadata-file", file)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	if want := fmt.Sprintf("%d MCEs found - all valid", len(list)); !strings.Contains(string(out), want) {
		return fmt.Errorf("the checker did not say %q:\n%s", want, out)
	}
	return nil
}

func run(t testing.TB, program string, args ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "DATAHUB_TELEMETRY_ENABLED=false")
	return cmd.CombinedOutput()
}
