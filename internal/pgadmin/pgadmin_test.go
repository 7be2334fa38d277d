package pgadmin

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

const certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

// databases are a training database with TLS and a password full of special characters, and a plain inference database.
func databases(t *testing.T) Databases {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "sslrootcert")
	if err := os.WriteFile(ca, []byte(certificate), 0o600); err != nil {
		t.Fatal(err)
	}
	return Databases{
		Namespace: "team-a",
		Training:  postgres.Config{Host: "gp.example.com", Port: 5432, Database: "ml", Username: "insitu", Password: `a:b\c d`, SSLMode: "verify-full", SSLRootCert: ca},
		Inference: postgres.Config{Host: "2001:db8::1", Port: 5433, Database: "serving", Username: "reader", Password: "plain"},
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheImportFileSaysAllButThePasswords(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "by it")
	text, err := Write(dir, databases(t))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"Namespace": "team-a", "Servers": map[string]any{
		"1": map[string]any{
			"Name": "team-a training", "Group": "Server Group Training team-a", "Host": "gp.example.com", "Port": 5432.0,
			"MaintenanceDB": "ml", "DBRestriction": "ml", "Username": "insitu",
			"ConnectionParameters": map[string]any{"sslmode": "verify-full", "connect_timeout": 10.0, "passfile": filepath.Join(dir, "pgpass"), "sslrootcert": filepath.Join(dir, "training-ca.pem")},
		},
		"2": map[string]any{
			"Name": "team-a inference", "Group": "Server Group Inference team-a", "Host": "2001:db8::1", "Port": 5433.0,
			"MaintenanceDB": "serving", "DBRestriction": "serving", "Username": "reader",
			"ConnectionParameters": map[string]any{"sslmode": "prefer", "connect_timeout": 10.0, "passfile": filepath.Join(dir, "pgpass")},
		},
	}}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if file := read(t, filepath.Join(dir, "servers.json")); file != string(text) {
		t.Errorf("the file is not what is returned:\n%s", file)
	}
	wantPass := `gp.example.com:5432:ml:insitu:a\:b\\c d` + "\n" + `2001\:db8\:\:1:5433:serving:reader:plain` + "\n"
	if diff := cmp.Diff(wantPass, read(t, filepath.Join(dir, "pgpass"))); diff != "" {
		t.Errorf("pgpass (-want +got):\n%s", diff)
	}
	if got := read(t, filepath.Join(dir, "training-ca.pem")); got != certificate {
		t.Errorf("training-ca.pem: %q", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if len(entries) != 4 {
		t.Errorf("%d files, expected 4", len(entries))
	}
}

func TestWritingAgainReplacesTheFilesWhateverTheirMode(t *testing.T) {
	t.Parallel()
	dir, d := t.TempDir(), databases(t)
	if err := os.WriteFile(filepath.Join(dir, PassFile), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Write(dir, d); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, PassFile))
	if err != nil || info.Mode() != 0o600 || strings.Contains(read(t, filepath.Join(dir, PassFile)), "old") {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestASocketIsInThePasswordFileTwice(t *testing.T) {
	t.Parallel()
	got, err := passLines(postgres.Config{Host: "/var/run/postgresql", Port: 5432, Database: "d", Username: "u", Password: "p"})
	if want := "/var/run/postgresql:5432:d:u:p\nlocalhost:5432:d:u:p\n"; err != nil || got != want {
		t.Errorf("%q, %v, expected %q", got, err, want)
	}
}

func TestWhatCannotBeWrittenIsRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Databases)
		want   string
	}{
		"a namespace that leaves the folder":    {func(d *Databases) { d.Namespace = "../x" }, `namespace "../x": expected up to 63 letters`},
		"no namespace":                          {func(d *Databases) { d.Namespace = "" }, `namespace ""`},
		"a password of two lines":               {func(d *Databases) { d.Inference.Password = "secret\nmore" }, "inference database: a line break in"},
		"certificates that are not there":       {func(d *Databases) { d.Training.SSLRootCert = "/nonexistent" }, "sslrootcert of the training database: open /nonexistent"},
		"certificates that are something else":  {func(d *Databases) { d.Training.SSLRootCert = "/etc/hostname" }, "expected PEM certificates"},
		"certificates from a file without ends": {func(d *Databases) { d.Training.SSLRootCert = "/dev/zero" }, "expected PEM certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, dir := databases(t), filepath.Join(t.TempDir(), "out")
			test.change(&d)
			_, err := Write(dir, d)
			if err == nil || !strings.Contains(err.Error(), test.want) || fault.Of(err) != fault.Configuration || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v, expected a configuration fault that says %q", err, test.want)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("%s was made: %v", dir, err)
			}
		})
	}
}

func TestTheMachinesOwnCertificatesNeedNoFile(t *testing.T) {
	t.Parallel()
	d := databases(t)
	d.Training.SSLRootCert = "system"
	text, err := Write(t.TempDir(), d)
	if err != nil || !strings.Contains(string(text), `"sslrootcert": "system"`) {
		t.Errorf("%v\n%s", err, text)
	}
}
