package training_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
	"github.com/insitu-ml/insitu/internal/training/trainingtest"
)

// wide is a session that executes the driver's own statements, one at a time, for a job with examples of a size of its own.
type wide struct {
	*postgres.Conn
	f     *trainingtest.Fixture
	spec  training.Spec
	size  int      // bytes of an example
	files []string // temporary files of the server, once log_temp_files is on
}

const (
	wideJob  = "wide"
	mebibyte = 1 << 20
)

func newWide(t *testing.T, f *trainingtest.Fixture, features int, delay float64) *wide {
	t.Helper()
	parameters, err := f.App.Manifest.Resolve(map[string]any{"delay": delay})
	if err != nil {
		t.Fatal(err)
	}
	input := training.InputOf(f.Dataset)
	input.Shape, input.Statistics = []int{features}, training.Statistics{Shape: []int{1}, Mean: []float64{0}, Std: []float64{1}}
	w := &wide{f: f, spec: training.Spec{Input: input, Parameters: parameters, Seed: 1, Shards: 1}, size: 4 * features}
	w.Conn, err = postgres.Connect(t.Context(), f.Config, postgres.Options{OnNotice: func(n *pgconn.Notice) {
		if strings.HasPrefix(n.Message, "temporary file:") {
			w.files = append(w.files, n.Message)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	oneServer(t, w.Conn)
	execute(t, w.Conn, "select set_config('search_path', $1, false)", postgres.Ident(f.Schema)+", pg_temp")
	execute(t, w.Conn, "create table packs_wide"+dataset.PackTable(w.Dialect))
	execute(t, w.Conn, "alter table packs_wide alter column data set storage external")
	// Bytes of the session's process, by the names of /proc/self/status, whoever may read that from outside.
	execute(t, w.Conn, `create function memory(name text) returns bigint language plpython3u as
		'return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name + ":"))'`)
	return w
}

// packs adds packs of a mebibyte.
func (w *wide) packs(t *testing.T, train, validation int) {
	t.Helper()
	execute(t, w.Conn, `insert into packs_wide select case when i <= $1 then 'train' else 'validation' end, 0, i, $3, decode(repeat('01000000', $3), 'hex'),
		decode(repeat(lpad(to_hex(i % 128), 2, '0') || '00003f', $4), 'hex') from generate_series(1, $1::int + $2::int) i`, train, validation, mebibyte/w.size, mebibyte/4)
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
	text, err := os.ReadFile(filepath.Join("sql", w.Dialect.Name, name))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(filepath.Join("sql", name))
	}
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
	var state []byte
	if err := w.QueryRow(t.Context(), w.statement(t, "state.sql"), wideJob, 0).Scan(&state); err != nil {
		return learned{}, err
	}
	return w.fitFrom(t, state)
}

func (w *wide) fitFrom(t *testing.T, state []byte) (learned, error) {
	t.Helper()
	open := strings.TrimSuffix(w.text(t), "}") + `,"epoch":1`
	rows, err := w.Query(t.Context(), w.statement(t, "fit.sql"), w.f.App.Digest, 1, open, state, false, 0)
	if err != nil {
		return learned{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[learned])
}

// score returns the number of rows of the validation split that a state was tried on.
func (w *wide) score(t *testing.T, state []byte) (rows int64, err error) {
	t.Helper()
	var sums []byte
	if err := w.QueryRow(t.Context(), w.statement(t, "score.sql"), w.f.App.Digest, 1, w.text(t), state, 0).Scan(&sums); err != nil {
		return 0, err
	}
	var s training.Sums
	err = json.Unmarshal(sums, &s)
	return s.Rows, err
}

// A session reads one pack after the other: beside the interpreter and the learner it holds a few copies of one pack.
func TestADatasetLargerThanItsSessionsMemoryIsTrained(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 1)
	w := newWide(t, f, 4096, 0)
	const (
		packs = 200           // of a mebibyte, for training and for validation each
		limit = 32 * mebibyte // more than the session has, of which malloc keeps up to 64 MiB free (boot.py)
	)
	w.packs(t, packs, packs)
	execute(t, w.Conn, `create function limit_memory(bytes bigint) returns void language plpython3u as
		'import resource; resource.setrlimit(resource.RLIMIT_AS, (bytes, resource.RLIM_INFINITY))'`)
	w.begin(t) // loads the learner and numpy
	execute(t, w.Conn, "set log_temp_files = 0")
	execute(t, w.Conn, "set client_min_messages = log")
	size, resident := w.memory(t, "VmSize"), w.memory(t, "RssAnon")
	execute(t, w.Conn, "select limit_memory($1)", size+limit)

	var rows string
	if err := w.QueryRow(t.Context(), w.statement(t, "fingerprint.sql"), 0).Scan(&rows); err != nil {
		t.Fatal(postgres.Wrap(err, "fingerprint"))
	}
	l, err := w.fit(t)
	if err != nil {
		t.Fatal(postgres.Wrap(err, "fit"))
	}
	scored, err := w.score(t, l.State)
	if err != nil {
		t.Fatal(postgres.Wrap(err, "score"))
	}
	if each := int64(mebibyte / w.size); l.Rows != packs*each || scored != packs*each {
		t.Errorf("%d rows trained on and %d scored, want %d of each", l.Rows, scored, packs*each)
	}
	if len(w.files) > 0 {
		t.Errorf("the server wrote %d temporary files, want none: %q", len(w.files), w.files)
	}
	t.Logf("%d MiB of packs and as much validation: the session grew by %d MiB (resident) and by %d MiB at most (address space)",
		packs, (w.memory(t, "RssAnon")-resident)>>20, (w.memory(t, "VmPeak")-size)>>20)

	// What the test would see of a statement that holds or sorts the packs themselves.
	err = w.QueryRow(t.Context(), "select length(string_agg(data, '')) from packs_wide").Scan(nil)
	if postgres.State(err) != "53200" {
		t.Errorf("all packs at once: error %v, want out of memory: the limit does not bite", err)
	}
	execute(t, w.Conn, "select count(*) from (select data || ''::bytea as sorted from packs_wide order by sorted offset 0) q where length(sorted) > 0")
	if len(w.files) == 0 {
		t.Error("no temporary file was seen of a sort that needs one")
	}
}

func TestATrainingWithoutTheStateItGoesOnFromIsRefused(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	w := newWide(t, trainingtest.New(t, config, schema, 1), 4096, 0)
	w.packs(t, 1, 0)
	w.begin(t)
	if l, err := w.fitFrom(t, nil); err == nil || !strings.Contains(err.Error(), "the state is null") {
		t.Errorf("trained on %d rows, error %v, want that there is no state", l.Rows, err)
	}
}
