package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/localrun"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// inMemory is what insitu_runtime.inmemory prints.
type inMemory struct {
	BestEpoch int      `json:"best_epoch"`
	Shards    int      `json:"shards"`
	State     string   `json:"state_sha256"`
	States    []string `json:"states_sha256"` // after each epoch, the initial state first
}

// compareInMemory trains the same job once more outside the database, on the same packs, and compares the numbers.
func (r *pipelineRun) compareInMemory(ctx context.Context, result *localrun.Result) error {
	training, _ := trained(result.Steps)
	job, digest := training.Outputs["job"], ""
	for _, step := range result.Steps {
		if step.Name == "upload-dataset" {
			digest = step.Outputs["dataset-digest"]
		}
	}
	if job == "" || digest == "" {
		return errors.New("--in-memory: the workflow has no train-model and upload-dataset to compare with")
	}
	dir, err := os.MkdirTemp("", "insitu-in-memory-")
	if err != nil {
		return fmt.Errorf("--in-memory: %w", err)
	}
	defer os.RemoveAll(dir)
	packs := filepath.Join(dir, "packs")
	spec, epoch, state, err := r.exportJob(ctx, job, digest, packs)
	if err != nil {
		return fmt.Errorf("--in-memory: %w", err)
	}
	began := time.Now()
	outside, err := r.trainOutside(ctx, dir, packs, spec)
	if err != nil {
		return fmt.Errorf("--in-memory: %w", err)
	}
	fmt.Fprintf(r.stdout, "\nThe same training outside the database (shards: %d, %.1f s)\n", outside.Shards, time.Since(began).Seconds())
	fmt.Fprintf(r.stdout, "  state in the database  %s, epoch %d\n  state outside          %s, epoch %d\n", state, epoch, outside.State, outside.BestEpoch)
	if outside.State != state {
		fmt.Fprintln(r.stdout, "  not equal")
		return exitError(exitFailed)
	}
	fmt.Fprintln(r.stdout, "  equal, bit for bit")
	return nil
}

// exportJob writes the packs of a dataset to a file by binary COPY and returns the job's spec and the digest of its model's state.
func (r *pipelineRun) exportJob(ctx context.Context, job, digest, file string) (spec string, epoch int, state string, err error) {
	conn, err := r.connect(ctx, r.workflow.Value("training-binding"))
	if err != nil {
		return "", 0, "", err
	}
	defer conn.Close()
	schema := r.workflow.Value("schema")
	var content []byte
	err = conn.QueryRow(ctx, "select j.spec::text, m.epoch, m.state from "+postgres.Ident(schema, "jobs")+" j join "+postgres.Ident(schema, "models")+
		" m on m.job = j.id where j.id = $1", job).Scan(&spec, &epoch, &content)
	if err != nil {
		return "", 0, "", postgres.Wrap(err, "read job "+job)
	}
	var text string
	if err := conn.QueryRow(ctx, "select manifest::text from "+postgres.Ident(schema, "datasets")+" where digest = $1", digest).Scan(&text); err != nil {
		return "", 0, "", postgres.Wrap(err, "read the dataset's manifest")
	}
	m, err := dataset.ParseManifest([]byte(text))
	if err != nil {
		return "", 0, "", err
	}
	out, err := os.Create(file)
	if err != nil {
		return "", 0, "", err
	}
	_, err = conn.PgConn().CopyTo(ctx, out, "copy (select split, shard, id, n, labels, data from "+postgres.Ident(schema, m.Table)+" order by id) to stdout (format binary)")
	if err = errors.Join(postgres.Wrap(err, "export the packs"), out.Close()); err != nil {
		return "", 0, "", err
	}
	sum := sha256.Sum256(content)
	return spec, epoch, hex.EncodeToString(sum[:]), nil
}

// trainOutside runs the runtime's in-memory training as an ordinary Python program.
func (r *pipelineRun) trainOutside(ctx context.Context, dir, packs, spec string) (*inMemory, error) {
	for name, source := range database.Runtime() {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
			return nil, err
		}
	}
	app, err := filepath.Abs(r.c.String("app"))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, r.python(), "-m", "insitu_runtime.inmemory", "--app", app, "--packs", packs, "--spec", spec)
	cmd.Dir = dir
	// One thread, as in the database's sessions: sums in another order give other last bits.
	cmd.Env = append(r.environment(), "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("run %s -m insitu_runtime.inmemory: %w\n%s", cmd.Path, err, bytes.TrimSpace(stderr.Bytes()))
	}
	out := new(inMemory)
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		return nil, fmt.Errorf("read what insitu_runtime.inmemory printed: %w", err)
	}
	return out, nil
}

// python is the interpreter with the databases' libraries: the installed environment, else the system's.
func (r *pipelineRun) python() string {
	if p := r.c.String("python"); p != "" {
		return p
	}
	if p := filepath.Join(r.c.String("tools"), "db-venv", "bin", "python"); executable(p) {
		return p
	}
	return "python3"
}

func executable(file string) bool {
	_, err := exec.LookPath(file)
	return err == nil
}
