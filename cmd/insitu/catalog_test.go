package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/insitu-ml/insitu/internal/testenv"
)

// catalogCall runs insitu catalog resolve.
func catalogCall(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = execute(context.Background(), nil, append([]string{"insitu", "catalog", "resolve"}, args...), &out, &err)
	return code, out.String(), err.String()
}

func TestTwoTagsLeadToAWorkingBinding(t *testing.T) {
	t.Parallel()
	c := testenv.Inference(t)
	root := bindings(t, map[string]string{"type": "PostgreSQL", "provider": "VMware", "host": c.Host, "port": strconv.Itoa(c.Port), "database": c.Database, "username": c.Username, "password": c.Password, "sslmode": "disable"})
	dir := filepath.Join(root, "inference-db")
	for _, tags := range [][]string{
		{"--type", "postgres", "--provider", "vmware"}, {"--type=postgresql"},
		{"--type", "servicebinding:type:postgres", "--provider", "servicebinding:provider:vmware"}, // as the catalog shows them
	} {
		first := ""
		for range 2 {
			code, out, stderr := catalogCall(append(tags, "--bindings", root, "-o", "json")...)
			if code != 0 || first != "" && out != first {
				t.Fatalf("%q: exit %d, %s\n%s", tags, code, stderr, out)
			}
			first = out
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(first), &got); err != nil {
			t.Fatal(err)
		}
		if got["directory"] != dir || got["host"] != c.Host || got["port"] != float64(c.Port) || got["database"] != c.Database || got["username"] != c.Username ||
			got["platform"] != "postgres" || !strings.HasPrefix(got["version"].(string), "PostgreSQL ") {
			t.Errorf("%q: %v", tags, got)
		}
	}
	for _, format := range []string{"text", "json", "env"} {
		code, out, stderr := catalogCall("--type", "postgres", "--bindings", root, "-o", format)
		if code != 0 || c.Password == "" || strings.Contains(out+stderr, c.Password) || !strings.Contains(out, c.Host) {
			t.Errorf("%s: exit %d, %s%s", format, code, out, stderr)
		}
	}
}

func TestTheVariablesOfABindingAreForAShell(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	r := resolved{Directory: "/a b/it's", Host: "h", Port: 5432, Database: "$(touch x)", Username: "u"}
	if err := r.write(&b, "env"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", b.String()+`printf '%s|%s|%s' "$INSITU_BINDING_DIR" "$PGDATABASE" "$PGPORT"`).CombinedOutput()
	if err != nil || string(out) != "/a b/it's|$(touch x)|5432" || strings.Contains(b.String(), "PGSSL") {
		t.Errorf("%v, %s\n%s", err, out, b.String())
	}
}

func TestResolveSaysWhatItLacks(t *testing.T) {
	t.Parallel()
	files := map[string]string{"type": "greenplum", "provider": "vmware", "host": "127.0.0.1", "port": "1", "database": "d", "username": "u", "password": "hunter2"}
	root := bindings(t, files)
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no type":                      {nil, 2, `--type is "", expected the value of a tag servicebinding:type:<type>`},
		"a selector for a type":        {[]string{"--type", "greenplum/vmware"}, 2, `--type is "greenplum/vmware"`},
		"a format that is none":        {[]string{"--type", "greenplum", "-o", "yaml"}, 2, `--output is "yaml", expected text, json or env`},
		"an argument":                  {[]string{"--type", "greenplum", "vmware"}, 2, "expected flags only"},
		"a flag that is none":          {[]string{"--kind", "greenplum"}, 2, "see insitu catalog resolve --help"},
		"no binding of the type":       {[]string{"--type", "postgres", "--bindings", root}, 2, `found greenplum/vmware in "inference-db"`},
		"no binding of the provider":   {[]string{"--type", "greenplum", "--provider", "azure", "--bindings", root}, 2, `no service binding matches "greenplum/azure"`},
		"a database that is not there": {[]string{"--type", "greenplum", "--provider", "vmware", "--bindings", root}, 75, "inference-db: connect to 127.0.0.1:1/d"},
		"no bindings at all":           {[]string{"--type", "greenplum", "--state", t.TempDir()}, 2, "set --bindings, or start the local services"},
	} {
		code, out, stderr := catalogCall(test.args...)
		if code != test.code || out != "" || !strings.Contains(stderr, test.want) || strings.Contains(stderr, "hunter2") {
			t.Errorf("%s: exit %d, %q, %s", name, code, out, stderr)
		}
	}
}
