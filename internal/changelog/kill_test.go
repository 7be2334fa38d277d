package changelog

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// killedSchema tells the test binary to be the deployment that gets killed.
const killedSchema = "INSITU_TEST_KILLED_SCHEMA"

func TestADeploymentThatIsToBeKilled(t *testing.T) {
	name := os.Getenv(killedSchema)
	if name == "" {
		t.Skip("run by the next test only")
	}
	_, _, err := open(t, schemaOn(t, changelogtest.Server(t), name)).Update(t.Context(), changesets("select pg_sleep(60);"))
	t.Fatalf("the deployment ended by itself: %v", err)
}

func TestAKilledDeploymentIsClearedAwayByTheNext(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	name := changelogtest.Schema(t, cfg, "Test")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestADeploymentThatIsToBeKilled$")
	cmd.Env = append(os.Environ(), killedSchema+"="+name)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watch, err := postgres.Connect(t.Context(), cfg, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	application := applicationName(name)
	for start, asleep := time.Now(), false; !asleep; time.Sleep(50 * time.Millisecond) {
		err := watch.QueryRow(t.Context(), "select exists (select 1 from pg_stat_activity where application_name = $1 and query like '%pg_sleep(60)%' and state = 'active')", application).Scan(&asleep)
		if err != nil || time.Since(start) > 30*time.Second {
			t.Fatalf("Liquibase never got to the changeset: %v\n%s", err, output.String())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	started := time.Now()
	s := open(t, schemaOn(t, cfg, name))
	if _, _, err := s.Update(t.Context(), changesets(note(t, 1, "one"))); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("the next deployment took %v", took)
	}
}
