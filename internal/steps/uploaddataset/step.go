// Package uploaddataset is the step that brings a dataset into the object store and the training database.
package uploaddataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/mlapp/parameterflags"
	"github.com/insitu-ml/insitu/internal/objectstore"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
)

const (
	// maxApp bounds a packed ML app, in bytes.
	maxApp = 64 << 20
	// lockWait is how long an upload of the same file by another run is waited for.
	lockWait = 10 * time.Minute
)

// Spec declares the step.
func Spec() step.Spec {
	one, maxShards, maxPack := 1.0, 10_000.0, 1_000_000.0
	flags := []step.Flag{
		{Name: "app", Usage: "the ML app: a directory, or a tar.gz at file:, http(s): or s3:", Required: true},
		{Name: "dataset", Usage: "the data: a file or folder, http(s): or s3://bucket/key; when unset, what the ML app names"},
		{Name: "schema", Usage: "schema in the training database; created unless it exists", Required: true},
		{Name: "format", Usage: "format of the data; when unset, the ML app's, or else what the content says", Enum: dataset.Formats()},
		{Name: "label", Usage: "label column, or array of an NPZ file; when unset, the ML app's"},
		{Name: "csv-delimiter", Usage: "character between the fields of a CSV file, or the word tab", Default: ","},
		{Name: "shards", Usage: "parts of the data that are trained side by side; when unset, one a segment on Greenplum, 2 on PostgreSQL; at most as many as there are packs to train on, and as the ML app's max_shards", Kind: step.Int, Min: &one, Max: &maxShards},
		{Name: "pack-size", Usage: "examples in a row of the pack table", Kind: step.Int, Default: "256", Min: &one, Max: &maxPack},
		{Name: "split", Usage: "fractions of the data for training, validation and test, met on average", Default: "0.7,0.15,0.15"},
		{Name: "split-seed", Usage: "seed of the split and of the order of the examples", Kind: step.Int, Default: "0", Min: new(float64)},
		{Name: "max-bytes", Usage: "most bytes of the file, of what it decompresses to, and of the decoded examples", Kind: step.Int, Default: "10737418240", Min: &one},
		{Name: "work-dir", Usage: "directory for the copy of a remote file and for the shuffle, with room for file and decoded examples; when unset, the system's"},
	}
	flags = append(flags, parameterflags.CheckedFlags()...)
	flags = append(flags, services.TrainingFlags()...)
	flags = append(flags, services.S3Flags()...)
	return step.Spec{
		Name:    "upload-dataset",
		Summary: "Brings a dataset into the object store and, packed, into the training database",
		Description: "The raw file goes into the bucket under its SHA-256 (`raw/<sha256>`), its examples go into a pack table of the schema, and the dataset's manifest goes to both. " +
			"The same data with the same settings again moves no byte.\n\n" +
			"Formats: CSV with a header (`.gz` too), CIFAR-10's binary tar.gz, NPZ, Parquet, and images in one folder a class (a folder, zip, tar or tar.gz).\n\n" +
			"All of the input is checked before anything is stored; an error names the line, row or file. " +
			"A row's split is decided by a hash of its values and the seed, not of its label or of other rows. " +
			"So a row stays where it is when rows are added and the data is uploaded again, a model never learned from what is a test row later, and copies of a row are never on both sides. " +
			"Fractions and the balance of classes are therefore met on average, within some percent for thousands of rows, and not exactly; no split is left empty, and a class without a row to train on is an error. " +
			"Packs, shuffled once, are loaded in one transaction: an interrupted upload leaves nothing, or all.\n\n" +
			"Memory does not grow with the input up to 8 GiB of decoded examples: it holds one pack, one shuffle bucket of 8 MiB, at most 16 MiB of write buffers, and one decoded record, image (16 million pixels) or set of Parquet pages, one a column: below 64 MiB in all, unless packs, records, images or Parquet pages are large. " +
			"Beyond 8 GiB the bucket is 1/1024 of the decoded examples. " +
			"The work directory holds the decoded examples once, and a copy of the file if it is remote, in files without a name that vanish with the process.",
		Flags: flags,
		Outputs: []step.Output{
			{Name: "dataset-digest", Usage: "SHA-256 over the file and everything that decides how it is packed"},
			{Name: "dataset-table", Usage: "name of the pack table"},
			{Name: "rows", Usage: "examples in the dataset"},
			{Name: "train-rows", Usage: "examples for training"},
			{Name: "validation-rows", Usage: "examples for validation"},
			{Name: "test-rows", Usage: "examples for test"},
			{Name: "classes", Usage: "number of classes, 0 for a regression"},
			{Name: "bytes-uploaded", Usage: "bytes this run sent to the object store"},
			{Name: "rows-loaded", Usage: "examples this run sent to the database"},
		},
		Examples: []step.Example{{
			Text:    "Upload the data that comes with an app",
			Command: "upload-dataset --app=examples/digits --schema=team-a",
		}, {
			Text:    "Upload CIFAR-10 from a web server, for two shards",
			Command: "upload-dataset --app=examples/cifar10 --dataset=https://example.org/cifar-10-binary.tar.gz --schema=team-a --shards=2",
		}},
		Run: run,
	}
}

// settings are the flags of one run.
type settings struct {
	app, dataset, schema, workDir string
	options                       dataset.Options // without what the app says
	database                      postgres.Config
	store                         objectstore.Config
}

func run(ctx context.Context, in *step.Input) error {
	s, err := read(in)
	if err != nil {
		return err
	}
	store, err := objectstore.New(s.store)
	if err != nil {
		return err
	}
	u := &upload{settings: s, in: in, store: store, meter: newMeter(in)}
	m, err := u.run(ctx)
	if err != nil {
		return err
	}
	in.Writes(raw(store.Bucket(), m), packs(services.TrainingDatabase(in, u.dialect), s.schema, m))
	in.Output("dataset-digest", m.Digest)
	in.Output("dataset-table", m.Table)
	in.Output("rows", strconv.FormatInt(m.Rows, 10))
	for _, name := range dataset.SplitNames() {
		in.Output(name+"-rows", strconv.FormatInt(m.Splits.Of(name).Rows, 10))
	}
	in.Output("classes", strconv.Itoa(len(m.Classes)))
	in.Output("bytes-uploaded", strconv.FormatInt(u.sent, 10))
	in.Output("rows-loaded", strconv.FormatInt(u.loaded, 10))
	return nil
}

func read(in *step.Input) (settings, error) {
	s3 := services.S3(in)
	fractions, splitErr := parseSplit(in.String("split"))
	delimiter, delimiterErr := parseDelimiter(in.String("csv-delimiter"))
	s := settings{
		app: in.String("app"), dataset: in.String("dataset"), schema: in.String("schema"), workDir: in.String("work-dir"),
		options: dataset.Options{
			Format: in.String("format"), Label: in.String("label"), Delimiter: delimiter,
			Split:    dataset.SplitOptions{Fractions: fractions, Seed: uint64(in.Int("split-seed"))},
			PackSize: in.Int("pack-size"), Shards: in.Int("shards"), MaxBytes: int64(in.Int("max-bytes")),
		},
		database: services.Training(in),
		store:    objectstore.Config(s3),
	}
	s.database.ApplicationName = "insitu upload-dataset"
	return s, in.Validate(changelog.CheckSchema(s.schema), splitErr, delimiterErr, s3.Check())
}

func parseSplit(text string) (fractions [3]float64, err error) {
	parts := strings.Split(text, ",")
	if len(parts) != len(fractions) {
		return fractions, fmt.Errorf("--split=%q: expected three fractions such as 0.7,0.15,0.15", text)
	}
	for i, part := range parts {
		if fractions[i], err = strconv.ParseFloat(strings.TrimSpace(part), 64); err != nil {
			return fractions, fmt.Errorf("--split=%q: %q is no number", text, part)
		}
	}
	return fractions, nil
}

func parseDelimiter(text string) (rune, error) {
	switch r, n := utf8.DecodeRuneInString(text); {
	case text == "tab":
		return '\t', nil
	case n != len(text) || r == utf8.RuneError:
		return 0, fmt.Errorf("--csv-delimiter=%q: expected one character, or the word tab", text)
	case r == ',':
		return 0, nil
	default:
		return r, nil
	}
}

// upload is one run of the step.
type upload struct {
	settings
	in      *step.Input
	store   *objectstore.Store
	meter   *meter
	dialect postgres.Dialect // of the database
	sent    int64            // bytes to the object store
	loaded  int64            // examples to the database
}

func (u *upload) run(ctx context.Context) (*dataset.Manifest, error) {
	app, err := mlapp.Open(ctx, u.app, u.fetchApp)
	if err != nil {
		return nil, err
	}
	o := u.optionsFor(app.Manifest)
	_, err = parameterflags.Candidates(u.in, &app.Manifest)
	checked := o
	checked.Shards = max(1, o.Shards) // when nobody asked for a number, the database says it below
	if err := errors.Join(checked.Validate(), err); err != nil {
		return nil, err
	}
	// Wrong credentials come to light before hours of reading.
	c, err := postgres.Connect(ctx, u.database, postgres.Options{})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	u.dialect = c.Dialect
	if o.Shards == 0 {
		if o.Shards, err = dataset.DefaultShards(ctx, c); err != nil {
			return nil, err
		}
	}
	if most := app.Manifest.MaxShards; most != nil && o.Shards > *most {
		u.in.Log.Info("fewer shards than asked for: the learner allows no more", zap.Int("asked", o.Shards), zap.Int("shards", *most))
		o.Shards = *most
	}
	if _, err := u.store.Exists(ctx); err != nil {
		return nil, err
	}

	u.in.Log.Info("reading", zap.String("phase", "fetch"))
	file, err := u.fetch(ctx, app)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	u.meter.size = file.Size
	base := u.app
	if u.dataset != "" {
		base = "."
	}
	u.in.Reads(source(base, file))
	plan, err := dataset.NewPlan(ctx, file, o, u.meter.pass)
	if err != nil {
		return nil, err
	}
	u.in.Log.Info("dataset is read", zap.String("source", file.Source), zap.String("sha256", file.SHA256),
		zap.Int64("bytes", file.Size), zap.String("format", plan.Format), zap.String("dataset_digest", plan.Digest))
	if err := plan.Lock(ctx, c, u.schema, lockWait); err != nil {
		return nil, err
	}
	m, err := dataset.Find(ctx, c, u.schema, plan.Digest)
	if err != nil {
		return nil, err
	}
	if m != nil {
		// A run that was killed after its commit may not have stored the manifest.
		err = u.putObjects(ctx, c, file, m)
		u.in.Log.Info("dataset is there already", zap.String("table", m.Table), zap.Int64("bytes_uploaded", u.sent))
		return m, err
	}
	return u.load(ctx, c, plan, file)
}

// load stores a dataset that is new.
func (u *upload) load(ctx context.Context, c *postgres.Conn, plan *dataset.Plan, file *dataset.File) (*dataset.Manifest, error) {
	prepared, err := plan.Prepare(ctx, u.in.TempDir())
	if err != nil {
		return nil, err
	}
	defer func() { _ = prepared.Close() }()
	m := prepared.Manifest
	if err := u.putRaw(ctx, c, file, m); err != nil {
		return nil, err
	}
	u.loaded, err = dataset.Load(ctx, c, u.schema, m, prepared.Packs(), func(rows int64) { u.meter.at("load", 4, rows, m.Rows, rows) })
	if err != nil {
		return nil, err
	}
	if err := u.putManifest(ctx, m); err != nil {
		return nil, err
	}
	u.in.Log.Info("dataset is loaded", zap.String("table", m.Table), zap.Int64("rows", m.Rows), zap.Int64("train_rows", m.Splits.Train.Rows),
		zap.Int64("validation_rows", m.Splits.Validation.Rows), zap.Int64("test_rows", m.Splits.Test.Rows),
		zap.Strings("classes", m.Classes[:min(len(m.Classes), 20)]), zap.Int64("bytes_uploaded", u.sent))
	return m, nil
}

func (u *upload) putObjects(ctx context.Context, c *postgres.Conn, file *dataset.File, m *dataset.Manifest) error {
	if err := u.putRaw(ctx, c, file, m); err != nil {
		return err
	}
	return u.putManifest(ctx, m)
}

func (u *upload) putRaw(ctx context.Context, c *postgres.Conn, file *dataset.File, m *dataset.Manifest) error {
	if err := u.store.EnsureBucket(ctx); err != nil {
		return err
	}
	// Tenants share the bucket: one that starts to send a file removes the parts another is sending.
	lock := "object:" + u.store.Bucket() + "/" + m.Raw.Object
	if err := postgres.TryLock(ctx, c, lock, lockWait); err != nil {
		return err
	}
	defer postgres.Unlock(ctx, c, lock)
	n, err := u.store.PutFile(ctx, m.Raw.Object, file, file.Size, file.SHA256, u.meter.upload)
	if err != nil {
		return err
	}
	u.sent += n
	if err := file.Unchanged(); err != nil {
		// What was sent is not what the key says.
		return errors.Join(err, u.store.Remove(context.WithoutCancel(ctx), m.Raw.Object))
	}
	return nil
}

func (u *upload) putManifest(ctx context.Context, m *dataset.Manifest) error {
	text, err := m.JSON()
	if err != nil {
		return err
	}
	n, err := u.store.Put(ctx, dataset.ManifestObject(m.Digest), text, "application/json")
	u.sent += n
	return err
}

// optionsFor completes the options with what the app says; flags that are set come first.
func (u *upload) optionsFor(m mlapp.Manifest) dataset.Options {
	o := u.options
	o.Task = m.Task
	o.Input = dataset.Input{Shape: m.Input.Shape, DType: m.Input.DType, Range: m.Input.Range, Resize: m.Input.Resize}
	o.Labels, o.Columns = m.Input.Labels, m.Dataset.Columns
	if o.Label == "" {
		o.Label = m.Dataset.Label
	}
	// The format the app names is that of its own data.
	if o.Format == "" && u.dataset == "" {
		o.Format = m.Dataset.Format
	}
	return o
}

func (u *upload) fetchOptions() dataset.FetchOptions {
	return dataset.FetchOptions{WorkDir: u.in.TempDir(), MaxBytes: u.options.MaxBytes, Objects: u.store, Progress: u.meter.fetch}
}

// fetch opens the dataset the user names, or the app's: a location, or a file beside its insitu.yaml.
func (u *upload) fetch(ctx context.Context, app *mlapp.App) (*dataset.File, error) {
	location := u.dataset
	if location == "" && app.DatasetFile() == "" {
		location = app.Manifest.Dataset.Source
	}
	if location != "" {
		return dataset.Fetch(ctx, location, u.fetchOptions())
	}
	r, err := app.OpenDataset()
	if err != nil {
		return nil, err
	}
	return dataset.FetchReader(ctx, app.DatasetFile(), r, u.fetchOptions())
}

// fetchApp opens a packed app that is not on this machine.
func (u *upload) fetchApp(ctx context.Context, location string) (io.ReadCloser, error) {
	o := u.fetchOptions()
	o.MaxBytes, o.Progress = maxApp, nil
	file, err := dataset.Fetch(ctx, location, o)
	if err != nil {
		return nil, err
	}
	return file.Stream(), nil
}
