package training_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
	"github.com/insitu-ml/insitu/internal/training/trainingtest"
)

// wide is a session that executes the driver's own statements, one at a time, for a job with examples of a size of its own.
type wide struct {
	*postgres.Conn
	f    *trainingtest.Fixture
	spec training.Spec
	size int // bytes of an example
}

const wideJob = "wide"

func newWide(t *testing.T, f *trainingtest.Fixture, features int, delay float64) *wide {
	t.Helper()
	parameters, err := f.App.Manifest.Resolve(map[string]any{"delay": delay})
	if err != nil {
		t.Fatal(err)
	}
	input := training.InputOf(f.Dataset)
	input.Shape, input.Statistics = []int{features}, training.Statistics{Shape: []int{1}, Mean: []float64{0}, Std: []float64{1}}
	w := &wide{f.Connect(t), f, training.Spec{Input: input, Parameters: parameters, Seed: 1, Shards: 1}, 4 * features}
	// As upload-dataset makes it.
	execute(t, w.Conn, "create table packs_wide (split text not null, shard int not null, id bigint not null, n int not null, labels bytea not null, data bytea not null, primary key (shard, id))")
	execute(t, w.Conn, "alter table packs_wide alter column data set storage external")
	// Bytes of the session's process, by the names of /proc/self/status, whoever may read that from outside.
	execute(t, w.Conn, `create function memory(name text) returns bigint language plpython3u as
		'return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name + ":"))'`)
	return w
}

// packs adds packs of a mebibyte.
func (w *wide) packs(t *testing.T, train, validation int) {
	t.Helper()
	const pack = 1 << 20
	execute(t, w.Conn, `insert into packs_wide select case when i <= $1 then 'train' else 'validation' end, 0, i, $3, decode(repeat('01000000', $3), 'hex'),
		decode(repeat(lpad(to_hex(i % 128), 2, '0') || '00003f', $4), 'hex') from generate_series(1, $1::int + $2::int) i`, train, validation, pack/w.size, pack/4)
}

func (w *wide) memory(t *testing.T, name string) (bytes int64) {
	t.Helper()
	if err := w.QueryRow(t.Context(), "select memory($1)", name).Scan(&bytes); err != nil {
		t.Fatal(err)
	}
	return bytes
}

// statement is the driver's.
func (w *wide) statement(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("sql", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "packs_x", "packs_wide")
}

func (w *wide) text(t *testing.T) string {
	t.Helper()
	text, err := json.Marshal(w.spec)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// begin makes the initial state.
func (w *wide) begin(t *testing.T) {
	t.Helper()
	execute(t, w.Conn, w.statement(t, "init.sql"), w.f.App.Digest, 1, w.text(t), wideJob)
}

type learned struct {
	State   []byte
	Rows    int64
	Metrics string
}

// fit trains the first epoch, which is not recorded.
func (w *wide) fit(t *testing.T) (learned, error) {
	t.Helper()
	open := strings.TrimSuffix(w.text(t), "}") + `,"epoch":1`
	rows, err := w.Query(t.Context(), w.statement(t, "fit.sql"), w.f.App.Digest, 1, open, wideJob, 0, 0)
	if err != nil {
		return learned{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[learned])
}

// record merges, validates and records what fit learned.
func (w *wide) record(t *testing.T, l learned) error {
	t.Helper()
	_, err := w.Exec(t.Context(), w.statement(t, "record.sql"), w.f.App.Digest, 1, w.text(t), wideJob, 1, [][]byte{l.State}, []int64{l.Rows}, `{"shards":[`+l.Metrics+`]`)
	return err
}

// A session reads one pack after the other: beside the interpreter and the learner it holds a few copies of one pack.
func TestADatasetLargerThanItsSessionsMemoryIsTrained(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 1)
	w := newWide(t, f, 4096, 0)
	const (
		packs = 400            // of a mebibyte
		limit = 32 * (1 << 20) // more than the session has, of which malloc keeps up to 64 MiB free (boot.py)
	)
	w.packs(t, packs, 8)
	execute(t, w.Conn, `create function limit_memory(bytes bigint) returns void language plpython3u as
		'import resource; resource.setrlimit(resource.RLIMIT_AS, (bytes, resource.RLIM_INFINITY))'`)
	w.begin(t) // loads the learner and numpy
	size, resident := w.memory(t, "VmSize"), w.memory(t, "RssAnon")
	execute(t, w.Conn, "select limit_memory($1)", size+limit)

	l, err := w.fit(t)
	if err != nil {
		t.Fatal(postgres.Wrap(err, "fit"))
	}
	if err := w.record(t, l); err != nil {
		t.Fatal(postgres.Wrap(err, "record"))
	}
	if want := int64(packs * (1 << 20) / w.size); l.Rows != want || len(states(t, f, wideJob)) != 2 {
		t.Errorf("%d rows and %d checkpoints, want %d and 2", l.Rows, len(states(t, f, wideJob)), want)
	}
	t.Logf("%d MiB of packs: the session grew by %d MiB (resident) and by %d MiB at most (address space)",
		packs, (w.memory(t, "RssAnon")-resident)>>20, (w.memory(t, "VmPeak")-size)>>20)

	var all int64
	err = w.QueryRow(t.Context(), "select length(string_agg(data, '')) from packs_wide").Scan(&all)
	if postgres.State(err) != "53200" {
		t.Errorf("%d bytes at once, error %v, want out of memory: the limit does not bite", all, err)
	}
}
