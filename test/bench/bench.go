package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
)

// schema is the benchmark's own in both databases.
const schema = "bench"

// model is what is trained: the folder of an ML app, from the root of the repository, and the parameters that are not its defaults.
type model struct {
	name, folder string
	parameters   map[string]any
}

// cnn takes about 90 us an image, as the network that the goals were set with.
func cnn() model {
	return model{"CNN", "examples/cifar10", map[string]any{"filters": int64(8)}}
}

// large is the network that CIFAR-10 is meant for, about six times the work.
func large() model { return model{"large CNN", "examples/cifar10", nil} }

// softmax is the light model, about 5 us an image.
func softmax() model { return model{"softmax", "test/bench/apps/softmax", nil} }

func digits() model { return model{"digits", "examples/digits", nil} }

// bench is one run of the program.
type bench struct {
	scale               float64
	rounds              int
	python, peers       string // Pythons of the plain sides and of the peers of insitu serve
	insitu              string // the program
	bindings            string
	training, inference postgres.Config
	dir                 string         // scratch; the database's user can read it
	admin               *postgres.Conn // a session of the training schema
	apps                map[string]training.Release
	data                map[dataKey]*data
	jobs                int
	group               string // being measured
	rows                []row
	curves              []curve // time to accuracy
	epochs              []curve // seconds an epoch by rows
	began               time.Time
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: %4.0f s %s: %s\n", time.Since(b.began).Seconds(), b.group, fmt.Sprintf(format, args...))
}

// add enters a measured row.
func (b *bench) add(what string, g goal, u unit, s sample) {
	b.rows = append(b.rows, row{group: b.group, what: what, goal: g, unit: u, sample: s})
	last := b.rows[len(b.rows)-1].cells()
	b.say("%s: %s, goal %s, %s", what, last[3], last[2], last[5])
}

// missing enters a row that was not measured.
func (b *bench) missing(what string, g goal, u unit, why string) {
	b.rows = append(b.rows, row{group: b.group, what: what, goal: g, unit: u, missing: why})
	b.say("%s: %s", what, why)
}

func (b *bench) open(ctx context.Context) (err error) {
	b.began, b.apps, b.data = time.Now(), map[string]training.Release{}, map[dataKey]*data{}
	if b.dir, err = os.MkdirTemp("", "insitu-bench"); err != nil {
		return err
	}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	if b.admin, err = b.deployed(ctx, b.training, "training"); err != nil {
		b.close()
	}
	return err
}

func (b *bench) close() {
	if b.admin != nil {
		b.admin.Close()
	}
	_ = os.RemoveAll(b.dir)
}

// deployed makes an empty schema with our SQL functions and returns a session of it.
func (b *bench) deployed(ctx context.Context, config postgres.Config, side string) (*postgres.Conn, error) {
	folder := database.Training
	if side == "inference" {
		folder = database.Inference
	}
	c, err := postgres.Connect(ctx, config, postgres.Options{})
	if err != nil {
		return nil, err
	}
	sets, err := changelog.Load(folder, c.Dialect)
	if err != nil {
		c.Close()
		return nil, err
	}
	statements := []string{"drop schema if exists " + schema + " cascade", "create schema " + schema, "set search_path = " + schema + ", pg_temp"}
	for _, set := range sets {
		statements = append(statements, set.SQL)
	}
	for _, sql := range statements {
		err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql)
			return err
		})
		if err != nil {
			c.Close()
			return nil, postgres.Wrap(err, "set up schema "+strconv.Quote(schema))
		}
	}
	return c, nil
}

// connect opens another session of the training schema.
func (b *bench) connect(ctx context.Context) (*postgres.Conn, error) {
	c, err := postgres.Connect(ctx, b.training, postgres.Options{})
	if err != nil {
		return nil, err
	}
	if err := exec1(ctx, c, "set search_path = "+schema+", pg_temp"); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func exec1(ctx context.Context, c *postgres.Conn, sql string, args ...any) error {
	_, err := c.Exec(ctx, sql, args...)
	return postgres.Wrap(err, sql)
}

// execAll runs statements one by one.
func execAll(ctx context.Context, c *postgres.Conn, statements ...string) error {
	for _, sql := range statements {
		if err := exec1(ctx, c, sql); err != nil {
			return err
		}
	}
	return nil
}

// timed is how long it takes, in seconds.
func timed(run func() error) (float64, error) {
	began := time.Now()
	err := run()
	return time.Since(began).Seconds(), err
}

// release deploys an app once.
func (b *bench) release(ctx context.Context, c *postgres.Conn, folder string) (*mlapp.App, training.Release, error) {
	app, err := mlapp.Load(folder)
	if err != nil {
		return nil, training.Release{}, err
	}
	if r, found := b.apps[c.Config().Database+folder]; found {
		return app, r, nil
	}
	manifest, err := app.ManifestJSON()
	if err != nil {
		return nil, training.Release{}, err
	}
	bundle, err := app.Bundle()
	if err != nil {
		return nil, training.Release{}, err
	}
	if err := exec1(ctx, c, "insert into releases (ordinal, app, digest, manifest, bundle) values ($1, $2, $3, $4, $5)", len(b.apps)+1, app.Manifest.Name, app.Digest, manifest, bundle); err != nil {
		return nil, training.Release{}, err
	}
	r, err := training.ReadRelease(ctx, c, schema, app.Digest)
	b.apps[c.Config().Database+folder] = r
	return app, r, err
}

// worker is a process of plain.py.
type worker struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

// script runs a Python script of this folder, set up as the database's Python is.
func (b *bench) script(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.python, append([]string{filepath.Join("test", "bench", name)}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join("database", "training", "runtime"), "PYTHONDONTWRITEBYTECODE=1",
		"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1")
	cmd.Stderr = os.Stderr
	return cmd
}

// worker starts a plain process; with an app, it holds the packs of a binary COPY file in memory.
func (b *bench) worker(ctx context.Context, app, packs string) (*worker, error) {
	cmd := b.script(ctx, "plain.py")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	w := &worker{cmd, json.NewEncoder(in), json.NewDecoder(out)}
	if app == "" {
		return w, nil
	}
	if _, err := w.do(map[string]any{"do": "open", "app": app, "packs": packs}); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// answer is what a command gives; each uses some of it.
type answer struct {
	Seconds  float64 `json:"seconds"`
	Rows     int64   `json:"rows"`
	SHA256   string  `json:"sha256"`
	Memory   float64 `json:"memory"`
	Total    int64   `json:"total"`
	Checksum int64   `json:"checksum"`
}

func (w *worker) do(command map[string]any) (a answer, err error) {
	if err := w.in.Encode(command); err != nil {
		return a, fmt.Errorf("plain.py: %w", err)
	}
	if err := w.out.Decode(&a); err != nil {
		return a, fmt.Errorf("plain.py: %v: %w", command["do"], err)
	}
	return a, nil
}

func (w *worker) close() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}

// psqlProgram is the newest psql itself: Debian's /usr/bin/psql is a Perl program that looks for it, and takes much longer to start.
func psqlProgram() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	if len(found) == 0 {
		return "psql"
	}
	return found[len(found)-1]
}

// psql runs psql on the training database with a script from standard input; it stops at the first error.
func (b *bench) psql(ctx context.Context, script string) error {
	c := b.training
	cmd := exec.CommandContext(ctx, psqlProgram(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", c.Host, "-p", strconv.Itoa(c.Port), "-U", c.Username, "-d", c.Database, "-f", "-")
	cmd.Env = append(os.Environ(), "PGPASSWORD="+c.Password, "PGOPTIONS=-c search_path="+schema)
	cmd.Stdin, cmd.Stdout = strings.NewReader(script), nil
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("psql: %w\n%s", err, out)
	}
	return nil
}

// machine says what the figures were measured on.
func (b *bench) machine() (string, error) {
	ctx := context.Background()
	var server, versions string
	if err := b.admin.QueryRow(ctx, "select split_part(version(), ' ', 2), library_versions()::text").Scan(&server, &versions); err != nil {
		return "", postgres.Wrap(err, "ask for versions")
	}
	var libraries map[string]string
	if err := json.Unmarshal([]byte(versions), &libraries); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s, %d cores%s, PostgreSQL %s", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), processor(), server)
	for _, name := range []string{"python", "numpy", "torch", "onnxruntime"} {
		if libraries[name] != "" {
			text += ", " + name + " " + libraries[name]
		}
	}
	text += fmt.Sprintf("; `-rounds %d -scale %g`, %.0f minutes.", b.rounds, b.scale, time.Since(b.began).Minutes())
	return text, nil
}

// processor is the name of the processor in parentheses, if Linux tells.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return " (" + strings.TrimSpace(value) + ")"
		}
	}
	return ""
}
