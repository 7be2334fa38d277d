package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// insitu runs one command line.
func insitu(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), nil, append([]string{"insitu"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

// twoBindings are those of a training and an inference database.
func twoBindings(t *testing.T) string {
	t.Helper()
	root := bindings(t, map[string]string{"type": "postgres", "provider": "vmware", "uri": "postgresql://reader:p%3Aw@pg.example.com:5433/serving?sslmode=require"})
	dir := filepath.Join(root, "training-db")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"type": "greenplum", "provider": "vmware", "host": "gp.example.com", "database": "ml", "username": "insitu", "password": "secret-1",
		"sslmode": "verify-ca", "sslrootcert": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestPgAdminServersWritesTheSameTwice(t *testing.T) {
	t.Parallel()
	root, out := twoBindings(t), filepath.Join(t.TempDir(), "out")
	var printed []string
	for range 2 {
		code, stdout, stderr := insitu(t, "pgadmin", "servers", "--bindings", root, "--namespace", "ml", "--output", out)
		if code != 0 || strings.Contains(stdout+stderr, "secret-1") || strings.Contains(stdout+stderr, "p:w") {
			t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
		}
		printed = append(printed, stdout)
	}
	for _, want := range []string{`"Group": "Server Group Training ml"`, `"Group": "Server Group Inference ml"`, `"sslmode": "verify-ca"`, `"sslmode": "require"`, `training-ca.pem"`, `"Port": 5433`} {
		if !strings.Contains(printed[0], want) {
			t.Errorf("the import file lacks %s:\n%s", want, printed[0])
		}
	}
	if printed[0] != printed[1] {
		t.Errorf("the second time it prints\n%s", printed[1])
	}
	pass, err := os.ReadFile(filepath.Join(out, "pgpass"))
	if want := "gp.example.com:5432:ml:insitu:secret-1\npg.example.com:5433:serving:reader:p\\:w\n"; err != nil || string(pass) != want {
		t.Errorf("%v, %q, expected %q", err, pass, want)
	}
}

func TestPgAdminServersWritesNothingWithoutBothBindings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no binding of that type":                 {[]string{"--training-binding", "oracle"}, `no service binding matches "oracle"`},
		"no directory":                            {[]string{"--bindings", "/nonexistent"}, "/nonexistent"},
		"neither bindings nor local services":     {[]string{"--bindings", "", "--state", "/nonexistent"}, "no service bindings and no local services in /nonexistent"},
		"no namespace":                            {[]string{"--namespace", ""}, "--namespace: expected the tenant"},
		"an argument":                             {[]string{"more"}, `"more"`},
		"a flag that is none, with where to look": {[]string{"--nmaespace", "x"}, "insitu pgadmin servers --help"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "out")
			code, stdout, stderr := insitu(t, append([]string{"pgadmin", "servers", "--bindings", twoBindings(t), "--namespace", "ml", "--output", out}, test.args...)...)
			if code != exitConfiguration || stdout != "" || !strings.Contains(stderr, test.want) {
				t.Errorf("exit code %d, expected %d and %q\n%s%s", code, exitConfiguration, test.want, stdout, stderr)
			}
			if _, err := os.Stat(out); !os.IsNotExist(err) {
				t.Errorf("%s was made: %v", out, err)
			}
		})
	}
}

func TestPgAdminImportNeedsAPgAdmin(t *testing.T) {
	t.Parallel()
	code, _, stderr := insitu(t, "pgadmin", "import", "--bindings", twoBindings(t), "--namespace", "ml", "--tools", "/nonexistent")
	if code != exitConfiguration || !strings.Contains(stderr, "name the Python that pgAdmin runs with in --python") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}
