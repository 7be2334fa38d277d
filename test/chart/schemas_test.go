package chart

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// kinds are the chart's Kubernetes resources by their names in the OpenAPI document.
var kinds = map[string]string{
	"ConfigMap":               "io.k8s.api.core.v1.ConfigMap",
	"Deployment":              "io.k8s.api.apps.v1.Deployment",
	"HorizontalPodAutoscaler": "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
	"Job":                     "io.k8s.api.batch.v1.Job",
	"NetworkPolicy":           "io.k8s.api.networking.v1.NetworkPolicy",
	"PersistentVolumeClaim":   "io.k8s.api.core.v1.PersistentVolumeClaim",
	"PodDisruptionBudget":     "io.k8s.api.policy.v1.PodDisruptionBudget",
	"Role":                    "io.k8s.api.rbac.v1.Role",
	"RoleBinding":             "io.k8s.api.rbac.v1.RoleBinding",
	"Secret":                  "io.k8s.api.core.v1.Secret",
	"Service":                 "io.k8s.api.core.v1.Service",
	"ServiceAccount":          "io.k8s.api.core.v1.ServiceAccount",
}

// schemas writes the JSON schemas kubeconform would otherwise download, one file a kind:
// Kubernetes' from the OpenAPI document that scripts/install.sh chart takes from a Go module,
// Argo's from the full custom resource definitions in Argo's own module.
func schemas(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(kind string, schema map[string]any) {
		text, err := json.Marshal(schema)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, strings.ToLower(kind)+".json"), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	path := filepath.Join(tools(), "kubernetes-openapi.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%s does not exist: run scripts/install.sh chart", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for name, d := range document.Definitions {
		strict(d)
		switch {
		case strings.HasSuffix(name, ".IntOrString"):
			document.Definitions[name] = map[string]any{"type": []string{"string", "integer"}}
		case strings.HasSuffix(name, ".Quantity"):
			document.Definitions[name] = map[string]any{"type": []string{"string", "number"}}
		}
	}
	for kind, name := range kinds {
		if document.Definitions[name] == nil {
			t.Fatalf("%s has no %s", path, name)
		}
		used := map[string]any{}
		collect(document.Definitions, name, used)
		write(kind, map[string]any{"$ref": "#/definitions/" + name, "definitions": used})
	}

	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/argoproj/argo-workflows/v3").Output()
	if err != nil {
		t.Fatalf("find Argo's module: %v", err)
	}
	for kind, file := range map[string]string{"WorkflowTemplate": "workflowtemplates", "CronWorkflow": "cronworkflows"} {
		text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(module)), "manifests/base/crds/full", "argoproj.io_"+file+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var crd object
		if err := yaml.Unmarshal(text, &crd); err != nil {
			t.Fatal(err)
		}
		schema := at(items(at(crd, "spec", "versions"))[0], "schema", "openAPIV3Schema").(map[string]any)
		strict(schema)
		write(kind, schema)
	}
	return dir
}

// strict refuses fields that a schema does not name, as the API server warns of them.
func strict(v any) {
	switch v := v.(type) {
	case map[string]any:
		properties, isObject := v["properties"].(map[string]any)
		_, open := v["additionalProperties"]
		if isObject && !open && v["x-kubernetes-preserve-unknown-fields"] != true {
			v["additionalProperties"] = false
		}
		if v["x-kubernetes-int-or-string"] == true {
			delete(v, "anyOf")
			v["type"] = []string{"string", "integer"}
		}
		for _, p := range properties {
			strict(p)
		}
		for key, child := range v {
			if key != "properties" {
				strict(child)
			}
		}
	case []any:
		for _, child := range v {
			strict(child)
		}
	}
}

// collect adds a definition and all it refers to.
func collect(definitions map[string]map[string]any, name string, used map[string]any) {
	if used[name] != nil {
		return
	}
	used[name] = definitions[name]
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				collect(definitions, strings.TrimPrefix(ref, "#/definitions/"), used)
			}
			for _, child := range v {
				walk(child)
			}
		case []any:
			for _, child := range v {
				walk(child)
			}
		}
	}
	walk(definitions[name])
}
