package binding

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree makes a binding root: file contents by "directory/file".
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestFind(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"a/type": "greenplum\n", "a/provider": "vmware\n",
		"b/type": "postgresql", "b/provider": "vmware",
		"c/type": "postgres", "c/provider": "bitnami",
		"d/type":       "s3",
		"e/host":       "without type",
		".hidden/type": "mlflow",
		"plain-file":   "mlflow",
	})
	found := `found greenplum/vmware in "a", postgresql/vmware in "b", postgres/bitnami in "c", s3 in "d", one without a type in "e"`
	for _, c := range []struct {
		name, selector, want string // directory, or else
		err                  string
	}{
		{"type and provider choose one", "greenplum/vmware", "a", ""},
		{"postgres and postgresql are one type", "postgres/vmware", "b", ""},
		{"in both directions", "postgresql/bitnami", "c", ""},
		{"case does not matter", "Greenplum/VMware", "a", ""},
		{"a type alone matches any provider", "greenplum", "a", ""},
		{"a type alone matches a binding without provider", "s3", "d", ""},
		{"several are an error that names all", "postgres", "", `2 service bindings match "postgres" under ROOT, expected one: ` + found},
		{"another provider does not match", "greenplum/acme", "", `no service binding matches "greenplum/acme" under ROOT: ` + found},
		{"a binding without provider does not match one", "s3/vmware", "", `no service binding matches "s3/vmware" under ROOT: ` + found},
		{"directories and files that are no bindings are passed over", "mlflow", "", `no service binding matches "mlflow" under ROOT: ` + found},
		{"a selector needs a type", "/vmware", "", `binding selector "/vmware": expected type or type/provider`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, err := Find(root, c.selector)
			if c.err != "" {
				if want := strings.ReplaceAll(c.err, "ROOT", root); err == nil || err.Error() != want {
					t.Errorf("error %v\nwant  %s", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := filepath.Base(b.Dir); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

func TestNoBindingAtAllIsToldFromTooMany(t *testing.T) {
	t.Parallel()
	for name, root := range map[string]string{"an empty root": t.TempDir(), "no root": filepath.Join(t.TempDir(), "missing")} {
		if _, err := Find(root, "s3"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
	}
	root := tree(t, map[string]string{"a/type": "s3", "b/type": "s3"})
	if _, err := Find(root, "s3"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("two bindings: %v, want an error other than ErrNotFound", err)
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"files/type": "postgres", "files/host": "db\n", "files/port": "5433\r\n", "files/password": " spaces and = stay \n\n",
		"files/username": "", "files/uri": "postgresql://ann:p%40ss@other:1/base?sslmode=verify-full&sslrootcert=%2Fca.pem",
		"files/sslrootcert": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
		"uri/type":          "postgres", "uri/uri": "postgresql://ann:p%40ss%2F@[::1]:1/b%20c?sslmode=verify-full&sslrootcert=%2Fca.pem\n",
		"wrong/type": "postgres", "wrong/uri": "postgresql://ann:se/cret@host/base",
		"big/type": "postgres", "big/host": strings.Repeat("x", MaxFileBytes+1), "big/port": strings.Repeat("1", MaxFileBytes),
	})
	if err := syscall.Mkfifo(filepath.Join(root, "big", "password"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, dir, file, want, err string }{
		{"a file's trailing newline goes", "files", "host", "db", ""},
		{"a carriage return too", "files", "port", "5433", ""},
		{"other characters stay", "files", "password", " spaces and = stay ", ""},
		{"an empty file counts as none", "files", "username", "ann", ""},
		{"the uri fills what is missing", "files", "database", "base", ""},
		{"certificates stand for the path of their file", "files", "sslrootcert", filepath.Join(root, "files", "sslrootcert"), ""},
		{"the uri's host may be an IPv6 address", "uri", "host", "::1", ""},
		{"the uri's port", "uri", "port", "1", ""},
		{"the uri's database is decoded", "uri", "database", "b c", ""},
		{"the uri's password is decoded", "uri", "password", "p@ss/", ""},
		{"the uri's sslmode", "uri", "sslmode", "verify-full", ""},
		{"the uri's sslrootcert is a path", "uri", "sslrootcert", "/ca.pem", ""},
		{"the uri says nothing of other files", "uri", "bucket", "", ""},
		{"the uri itself is a file", "uri", "uri", "postgresql://ann:p%40ss%2F@[::1]:1/b%20c?sslmode=verify-full&sslrootcert=%2Fca.pem", ""},
		{"a wrong uri is not shown", "wrong", "host", "", `file "uri" of the service binding in "` + filepath.Join(root, "wrong") + `": ` + errURI.Error()},
		{"a file over the limit is refused", "big", "host", "", "service binding: read " + filepath.Join(root, "big", "host") + ": more than 65536 bytes, expected one value"},
		{"a file at the limit is read", "big", "port", strings.Repeat("1", MaxFileBytes), ""},
		{"what is no regular file is refused", "big", "password", "", "service binding: read " + filepath.Join(root, "big", "password") + ": not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := &Binding{Dir: filepath.Join(root, c.dir)}
			got, ok, err := b.Value(c.file)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff([]any{c.want, c.want != "", c.err}, []any{got, ok, text}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Kubernetes mounts a Secret as links through ..data into a directory with a time in its name.
func TestMountedSecret(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{"db/..2024_01_01/type": "greenplum", "db/..2024_01_01/host": "gp"})
	for link, target := range map[string]string{"..data": "..2024_01_01", "type": "..data/type", "host": "..data/host"} {
		if err := os.Symlink(target, filepath.Join(root, "db", link)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := Find(root, "greenplum")
	if err != nil {
		t.Fatal(err)
	}
	if host, ok, err := b.Value("host"); host != "gp" || !ok || err != nil {
		t.Errorf("host %q, %v, %v, want gp", host, ok, err)
	}
}

func FuzzParseURI(f *testing.F) {
	for _, seed := range []string{
		"postgresql://user:p%40ss@host:5432/base?sslmode=require", "postgres://[::1]/x", "postgres://u:p/w@h/d", "jdbc:postgresql://h/d",
		"http://h", "://", "postgres://h:port/d", "postgres://a@b@c/d?%zz", "postgres:///base?host=/run", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		parts, err := parseURI(uri)
		if err != nil {
			if !errors.Is(err, errURI) || parts != nil {
				t.Errorf("%q: error %v with %v, want the fixed text, which shows no password", uri, err, parts)
			}
			return
		}
		if parts["host"] == "" {
			t.Errorf("%q: accepted without a host", uri)
		}
		// What was read can be written and read again.
		u := url.URL{Scheme: "postgresql", Host: parts["host"], Path: "/" + parts["database"], User: url.UserPassword(parts["username"], parts["password"])}
		if strings.Contains(parts["host"], ":") {
			u.Host = "[" + strings.ReplaceAll(parts["host"], "%", "%25") + "]"
		}
		if parts["port"] != "" {
			u.Host += ":" + parts["port"]
		}
		u.RawQuery = url.Values{"sslmode": {parts["sslmode"]}, "sslrootcert": {parts["sslrootcert"]}}.Encode()
		again, err := parseURI(u.String())
		if err != nil {
			t.Skip() // hosts that Go reads but does not write, such as "a b"
		}
		if diff := cmp.Diff(parts, again); diff != "" {
			t.Errorf("%q: %s", uri, diff)
		}
	})
}
