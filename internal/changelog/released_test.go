package changelog_test

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// A changeset that was released never changes: databases that have it would refuse the changelog.
// Those marked "on change" may change, since Liquibase runs them again.
// Take a changed digest as a reason to add a file, not to run this test with -update.
func TestReleasedChangesetsDoNotChange(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	for _, side := range []struct {
		name   string
		folder fs.FS
	}{{"training", database.Training}, {"inference", database.Inference}} {
		for _, d := range []struct {
			name string
			postgres.Dialect
		}{{"postgresql", postgres.Dialect{}}, {"greenplum", postgres.Dialect{Distributed: true}}} {
			sets, err := changelog.Load(side.folder, d.Dialect)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := changelog.Render("insitu/"+side.name, sets); err != nil {
				t.Error(err)
			}
			for _, c := range sets {
				if !c.OnChange {
					fmt.Fprintf(&got, "%x  %s %s %s\n", sha256.Sum256([]byte(c.SQL)), side.name, d.name, c.ID)
				}
			}
		}
	}
	const golden = "testdata/released.sha256"
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("(-released +now)\n%s", diff)
	}
}
