package training_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
	"github.com/insitu-ml/insitu/internal/training/trainingtest"
)

const (
	// pack is how long the learner takes for one in these tests.
	pack = 50 * time.Millisecond
	// quick is what the database may need beyond the pack it is in when it is told to stop.
	quick = 100 * time.Millisecond
	// noise is what a single try may take longer on a machine that runs other tests too; the median may not.
	// The training itself would go on for ten seconds.
	noise = 2 * time.Second
	tries = 10
)

// lengthen makes an epoch take about ten seconds with a delay of pack.
func lengthen(t *testing.T, f *trainingtest.Fixture) {
	t.Helper()
	oneServer(t, f.Connect(t))
	execute(t, f.Connect(t), "insert into "+postgres.Ident(f.Dataset.Table)+
		" select split, shard, id + 1000 * copy, n, labels, data from "+postgres.Ident(f.Dataset.Table)+", generate_series(1, 40) copy where split = 'train'")
}

// oneServer skips a test that looks at the sessions and processes of the server itself.
func oneServer(t *testing.T, c *postgres.Conn) {
	t.Helper()
	if c.Dialect.Distributed {
		t.Skip("looks at the server's own processes; on Greenplum the segments' do the work")
	}
}

func execute(t *testing.T, c *postgres.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(context.Background(), sql, args...); err != nil { // cleanups execute too
		t.Fatal(postgres.Wrap(err, sql))
	}
}

// statements counts what runs for the schema now, watch's own statement aside.
func statements(t *testing.T, watch *postgres.Conn, schema, like string) (n int) {
	t.Helper()
	err := watch.QueryRow(context.Background(), "select count(*) from pg_stat_activity where state = 'active' and query like $1 and application_name = $2 and pid <> pg_backend_pid()", like, schema).Scan(&n)
	if err != nil {
		t.Error(err)
	}
	return n
}

// await waits until so many of them run.
func await(t *testing.T, watch *postgres.Conn, schema, like string, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); statements(t, watch, schema, like) != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%d statements like %q did not come within a minute", n, like)
			return
		}
	}
}

// checkStops compares the times from a wish to stop to an idle database with what is promised.
func checkStops(t *testing.T, what string, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	median, longest := took[len(took)/2], took[len(took)-1]
	t.Logf("%s, with packs of %v: idle after %v (median of %d), %v at most", what, pack, median, len(took), longest)
	if median > pack+quick || longest > pack+quick+noise {
		t.Errorf("%s: idle after %v, want a median of %v at most", what, took, pack+quick)
	}
}

func TestAStoppedTrainingLeavesTheDatabaseIdleWithinAPack(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	j := job(t, f, 1, map[string]any{"delay": pack.Seconds(), "epochs": 50})
	watch := f.Connect(t)
	oneServer(t, watch)
	var took []time.Duration
	for try := range tries {
		ctx, stop := context.WithCancel(t.Context())
		warm, ended := make(chan bool, j.Epochs), make(chan error, 1)
		go func() {
			_, err := train(ctx, f, j, training.Options{LockWait: time.Minute, Epoch: func(_ training.Epoch, resumed bool) {
				if !resumed {
					warm <- true
				}
			}})
			ended <- err
		}()
		<-warm // the first pack of a session takes longer: it loads the learner's libraries
		await(t, watch, schema, "%fit(%", 2)
		time.Sleep(time.Duration(try) * pack / tries) // another moment of the pack each time
		stopped := time.Now()
		stop()
		await(t, watch, schema, "%", 0)
		took = append(took, time.Since(stopped))
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v, want that the context was cancelled", err)
		}
	}
	checkStops(t, "context cancelled", took)
}

func TestAStatementTimeoutIsPermanentAndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	lengthen(t, f)
	j := job(t, f, 1, map[string]any{"delay": pack.Seconds()})
	watch, role := f.Connect(t), postgres.Ident("timeout-"+schema)
	execute(t, watch, "create role "+role+" superuser login password 'timeout'")
	t.Cleanup(func() {
		c, err := postgres.Connect(context.Background(), config, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		execute(t, c, "drop role "+role)
	})
	// Long enough to load the learner, much shorter than the epoch.
	const timeout = 2 * time.Second
	execute(t, watch, "alter role "+role+" set statement_timeout = "+strconv.Itoa(int(timeout.Milliseconds())))
	f.Config.Username, f.Config.Password = "timeout-"+schema, "timeout"
	var took []time.Duration
	for range 3 {
		d, err := training.Open(t.Context(), f.Config, j, training.Options{Schema: schema, LockWait: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Train(t.Context())
		if fault.Of(err) != fault.Permanent || postgres.State(err) != "57014" || !strings.Contains(fmt.Sprint(err), "alter role ... set statement_timeout") {
			t.Errorf("error %v, want a permanent one that names the setting", err)
		}
		var seconds float64
		err = watch.QueryRow(t.Context(), `select max(extract(epoch from state_change - query_start))::float8 from pg_stat_activity
			where application_name = $1 and query like '%fit(%' and pid <> pg_backend_pid()`, schema).Scan(&seconds)
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		took = append(took, time.Duration(seconds*float64(time.Second))-timeout)
	}
	checkStops(t, "statement_timeout", took)
}

// A session that lives on after a cancelled epoch is a user's: the driver closes its own.
func TestACancelledEpochLeavesNothingBehindInItsSession(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 1)
	const features = 1 << 18 // a learner of 6 MiB
	w := newWide(t, f, features, 0.1)
	w.packs(t, 6, 0)
	execute(t, w.Conn, `create function running() returns int language plpython3u as 'return sum(len(host.running) for host in GD.values() if hasattr(host, "running"))'`)
	running := func() (n int) {
		t.Helper()
		if err := w.QueryRow(t.Context(), "select running()").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	w.begin(t)
	execute(t, w.Conn, "set statement_timeout = 250") // after two packs of six
	left := 0
	var before int64
	const cancels = 20
	for i := range cancels + 2 {
		if i == 2 {
			before = w.memory(t, "RssAnon")
		}
		if _, err := w.fit(t); postgres.State(err) != "57014" {
			t.Fatalf("error %v, want that the statement was cancelled", err)
		}
		if n := running(); n > 1 {
			t.Fatalf("%d models of cancelled statements are in the session, want that of the last one at most", n)
		} else if n == 1 {
			left++
		}
	}
	grown := w.memory(t, "RssAnon") - before
	t.Logf("%d of %d cancelled statements left a model; the session grew by %d MiB", left, cancels+2, grown>>20)
	if left == 0 {
		t.Error("no statement was cancelled after its first pack: nothing was tested")
	}
	if limit := int64(cancels / 2 * features * 3 * 4 * 2); grown > limit {
		t.Errorf("the session grew by %d bytes in %d cancelled epochs, want %d at most", grown, cancels, limit)
	}
	execute(t, w.Conn, "set statement_timeout = 0")
	if _, err := w.fit(t); err != nil {
		t.Error(err)
	}
	if n := running(); n != 0 {
		t.Errorf("%d models are in the session after an epoch that ended, want none", n)
	}
}
