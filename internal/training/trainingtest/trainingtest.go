// Package trainingtest sets up a training schema with a small app and a small dataset on a real server, for tests.
package trainingtest

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/postgres"
)

//go:embed app/insitu.yaml app/learner.py
var app embed.FS

// The size of the dataset: three classes in eight dimensions.
const (
	features = 8
	packSize = 64
)

// Fixture is a schema that is ready for training.
type Fixture struct {
	Config   postgres.Config
	Schema   string
	App      *mlapp.App
	Dataset  *dataset.Manifest
	Classes  []string
	PackRows int
}

// New deploys the SQL functions, the app and a dataset of that many shards into the schema, which exists and is empty.
func New(t testing.TB, config postgres.Config, schema string, shards int) *Fixture {
	t.Helper()
	config.ApplicationName = schema // so that tests can tell their sessions apart
	f := &Fixture{Config: config, Schema: schema, App: load(t), Classes: []string{"a", "b", "c"}, PackRows: packSize}
	c := f.Connect(t)
	sets, err := changelog.Load(database.Training, c.Dialect)
	must(t, err)
	for _, set := range sets {
		must(t, pgx.BeginFunc(t.Context(), c, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), set.SQL)
			return postgres.Wrap(err, set.ID)
		}))
	}
	manifest, err := f.App.ManifestJSON()
	must(t, err)
	bundle, err := f.App.Bundle()
	must(t, err)
	f.exec(t, c, "insert into releases (ordinal, app, digest, git_sha, manifest, bundle) values (1, $1, $2, 'abc', $3, $4)", f.App.Manifest.Name, f.App.Digest, manifest, bundle)
	f.load(t, c, shards)
	return f
}

// Connect opens a session of the schema that the test closes.
func (f *Fixture) Connect(t testing.TB) *postgres.Conn {
	t.Helper()
	c, err := postgres.Connect(t.Context(), f.Config, postgres.Options{})
	must(t, err)
	t.Cleanup(c.Close)
	f.exec(t, c, "select set_config('search_path', $1, false)", postgres.Ident(f.Schema)+", pg_temp")
	return c
}

func (f *Fixture) exec(t testing.TB, c *postgres.Conn, sql string, args ...any) {
	t.Helper()
	_, err := c.Exec(t.Context(), sql, args...)
	must(t, postgres.Wrap(err, sql))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB) *mlapp.App {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{mlapp.ManifestFile, mlapp.LearnerFile} {
		text, err := fs.ReadFile(app, "app/"+name)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	a, err := mlapp.Load(dir)
	must(t, err)
	return a
}

// load makes the packs: five of the train split a shard, one of validation and one of test each.
func (f *Fixture) load(t testing.TB, c *postgres.Conn, shards int) {
	t.Helper()
	sum := sha256.Sum256([]byte{byte(shards)})
	digest := hex.EncodeToString(sum[:])
	table := "packs_" + digest[:16]
	m := &dataset.Manifest{
		Version: dataset.ManifestVersion, Digest: digest, Table: table, Source: "generated", Format: "csv", Task: dataset.Classification,
		Classes: f.Classes, Input: dataset.Input{Shape: []int{features}, DType: dataset.Float32}, PackSize: packSize, Shards: shards,
		Stats: dataset.InputStatistic{Shape: []int{features}, Mean: make([]float64, features), Std: make([]float64, features)},
	}
	for i := range features {
		m.Stats.Std[i] = 2
	}
	f.exec(t, c, "create table if not exists datasets (digest text primary key, pack_table text, manifest json, created_at timestamptz default now())")
	f.exec(t, c, "create table "+postgres.Ident(table)+dataset.PackTable(c.Dialect))
	var places []int32
	must(t, pgx.BeginFunc(t.Context(), c, func(tx pgx.Tx) (err error) {
		places, err = dataset.Places(t.Context(), tx, c.Dialect, shards)
		return err
	}))
	random := rand.New(rand.NewPCG(1, 2))
	id := 0
	for shard := range shards {
		for _, split := range []string{"train", "train", "train", "train", "train", "validation", "test"} {
			labels, data := blobs(random, len(f.Classes))
			args, values := []any{split, shard, id, packSize, labels, data}, "$1, $2, $3, $4, $5, $6"
			if places != nil {
				args, values = append(args, places[shard]), values+", $7"
			}
			f.exec(t, c, "insert into "+postgres.Ident(table)+" values ("+values+")", args...)
			count := m.Splits.Of(split)
			if count.Histogram == nil {
				count.Histogram = make([]int64, len(f.Classes))
			}
			for i := 0; i < len(labels); i += 4 {
				count.Histogram[labels[i]]++ // fewer than 256 classes, little-endian
			}
			count.Rows += packSize
			count.Packs++
			m.Rows += packSize
			id++
		}
	}
	text, err := m.JSON()
	must(t, err)
	f.exec(t, c, "insert into datasets (digest, pack_table, manifest) values ($1, $2, $3)", digest, table, string(text))
	f.Dataset = m
}

// blobs are examples around a corner of the cube for each class.
func blobs(random *rand.Rand, classes int) (labels, data []byte) {
	var x, y bytes.Buffer
	for range packSize {
		class := random.IntN(classes)
		_ = binary.Write(&y, binary.LittleEndian, int32(class)) // a buffer never fails
		for i := range features {
			centre := float64((i*(class+2)/2)%3 - 1)
			_ = binary.Write(&x, binary.LittleEndian, math.Float32bits(float32(2*centre+random.NormFloat64())))
		}
	}
	return y.Bytes(), x.Bytes()
}
