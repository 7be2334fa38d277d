package dataset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/insitu-ml/insitu/internal/archive"
)

// Plan is a raw file with the options it will be packed by. Its digest is known before a row is read.
type Plan struct {
	Digest string
	Format string

	file    *File
	options Options
	report  func(Progress)
}

// Progress is how far one of the passes over the file is.
type Progress struct {
	Phase string // PhaseValidate or PhaseShuffle
	Rows  int64
	Bytes int64 // of the raw file
}

// The two passes over the file after it was hashed.
const (
	PhaseValidate = "validate"
	PhaseShuffle  = "shuffle"
)

// NewPlan checks the options and finds the file's format. Report may be nil.
// Wrong options are a configuration fault; a file of no known format is a permanent one.
func NewPlan(ctx context.Context, f *File, o Options, report func(Progress)) (*Plan, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if report == nil {
		report = func(Progress) {}
	}
	p := &Plan{Format: o.Format, file: f, options: o, report: report}
	if f.Size == 0 {
		return nil, p.named(errors.New("the file is empty"))
	}
	if p.Format == "" {
		format, err := p.raw(ctx, func(int) {}).detect()
		if err != nil {
			return nil, p.named(err)
		}
		p.Format = format
	}
	p.Digest = o.digest(f.SHA256, p.Format)
	return p, nil
}

func (p *Plan) raw(ctx context.Context, report func(n int)) *raw {
	return &raw{File: p.file, ctx: ctx, report: report, limits: archive.Limits{MaxBytes: p.options.MaxBytes}}
}

func (p *Plan) named(err error) error { return fmt.Errorf("dataset %q: %w", p.file.Name, err) }

// Prepared is a dataset that is validated, split and ready to be loaded. Close it.
type Prepared struct {
	Manifest *Manifest

	buckets *buckets
}

// Close frees the work space.
func (p *Prepared) Close() error { return p.buckets.close() }

// Prepare reads the file twice: first it validates all of it and counts, then it splits and shuffles it into workDir.
// An error names the line, row or member it is about and leaves nothing behind.
func (p *Plan) Prepare(ctx context.Context, workDir string) (*Prepared, error) {
	out, err := p.prepare(ctx, workDir)
	if err != nil {
		return nil, p.named(err)
	}
	return out, nil
}

func (p *Plan) prepare(ctx context.Context, workDir string) (*Prepared, error) {
	s, err := p.scan(ctx)
	if err != nil {
		return nil, err
	}
	o := p.options
	m := &Manifest{
		Version: ManifestVersion, Digest: p.Digest, Table: tableName(p.Digest), Source: p.file.Source, Format: p.Format, Task: o.Task,
		Raw:     Raw{SHA256: p.file.SHA256, Bytes: p.file.Size, Object: RawObject(p.file.SHA256)},
		Label:   o.Label,
		Columns: s.columns, Input: o.Input, Rows: s.rows(), Split: o.Split, Cuts: s.cuts, PackSize: o.PackSize, Shards: o.Shards,
		Creator: "insitu upload-dataset",
	}
	if o.Task == Classification {
		m.Classes = s.classes.names
	}
	for i, name := range SplitNames() {
		c := m.Splits.Of(name)
		c.Rows = s.splits[i]
		for _, n := range s.classes.counts {
			c.Histogram = append(c.Histogram, n[i])
		}
		c.Packs = (c.Rows + int64(o.PackSize) - 1) / int64(o.PackSize)
	}
	// A shard without a pack would train on nothing: small data has fewer shards than were asked for.
	m.Shards = int(min(int64(m.Shards), m.Splits.Train.Packs))
	b, err := newBuckets(workDir, m, defaultBucket)
	if err != nil {
		return nil, err
	}
	if err := p.scatter(ctx, s, b, m); err != nil {
		_ = b.close()
		return nil, err
	}
	return &Prepared{Manifest: m, buckets: b}, nil
}

// scanned is what the first pass finds.
type scanned struct {
	cuts     Cuts
	splits   [3]int64 // rows
	classes  *classes // none for regression
	columns  []string
	extremes extremes
}

func (s *scanned) rows() int64 { return s.splits[0] + s.splits[1] + s.splits[2] }

// rows runs the decoder over the file, with progress.
func (p *Plan) rows(ctx context.Context, phase string, yield func(*example) error) (*decoder, error) {
	var read int64
	now := Progress{Phase: phase}
	r := p.raw(ctx, func(n int) { read += int64(n) })
	d, err := r.open(p.Format, p.options)
	if err != nil {
		return nil, err
	}
	err = d.run(func(e *example) error {
		if now.Rows%64 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			// Some formats read parts of the file twice.
			now.Bytes = min(read, p.file.Size)
			p.report(now)
		}
		now.Rows++
		return yield(e)
	})
	if err != nil {
		return nil, err
	}
	now.Bytes = p.file.Size
	p.report(now)
	return d, p.file.Unchanged()
}

// scan validates and counts; once more if the cuts must move.
func (p *Plan) scan(ctx context.Context) (*scanned, error) {
	s, err := p.count(ctx, p.options.Split.cuts())
	if err != nil {
		return nil, err
	}
	if cuts := s.extremes.move(s.cuts); cuts != s.cuts {
		if s, err = p.count(ctx, cuts); err != nil {
			return nil, err
		}
	}
	return s, s.classes.check()
}

// count validates every row and counts the splits that the cuts make.
func (p *Plan) count(ctx context.Context, cuts Cuts) (*scanned, error) {
	s := &scanned{cuts: cuts, classes: newClasses(nil), extremes: newExtremes()}
	if p.options.Task == Classification {
		s.classes = newClasses(p.options.Labels)
	}
	size := int64(p.options.Input.Bytes())
	d, err := p.rows(ctx, PhaseValidate, func(e *example) error {
		at := position(e.data, p.options.Split.Seed)
		split := cuts.split(at)
		s.extremes.add(at, cuts)
		s.splits[split]++
		if s.rows() > p.options.MaxBytes/size {
			return fmt.Errorf("the decoded examples have more than %d bytes: raise max-bytes to read them: %w", p.options.MaxBytes, archive.ErrTooLarge)
		}
		var err error
		if p.options.Task == Classification {
			err = s.classes.add(e.label, split)
		} else {
			_, err = target(e.label)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.place, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.columns = d.columns
	s.classes.sort()
	switch {
	case s.rows() == 0:
		return nil, errors.New("the file has no rows")
	case len(s.classes.names) == 1:
		return nil, fmt.Errorf("all rows have the label %q, expected at least two classes", s.classes.names[0])
	case !s.extremes.three():
		return nil, fmt.Errorf("the file has fewer than %d different examples in its %d rows, expected one a split: copies of an example share their split", len(SplitNames()), s.rows())
	}
	return s, nil
}

// scatter runs the second pass: every row is given its split and put into one of the split's buckets.
func (p *Plan) scatter(ctx context.Context, s *scanned, b *buckets, m *Manifest) error {
	statistic := newStatistic(p.options.Input)
	record := make([]byte, labelBytes+p.options.Input.Bytes())
	var rows [3]int64
	_, err := p.rows(ctx, PhaseShuffle, func(e *example) error {
		var word uint32
		if p.options.Task == Classification {
			class, err := s.classes.number(e.label)
			if err != nil || class < 0 {
				return errChanged
			}
			word = uint32(class)
		} else {
			y, err := target(e.label)
			if err != nil {
				return errChanged
			}
			word = math.Float32bits(y)
		}
		split := s.cuts.split(position(e.data, p.options.Split.Seed))
		rows[split]++
		statistic.add(e.data, split == 0)
		binary.LittleEndian.PutUint32(record, word)
		copy(record[labelBytes:], e.data)
		return b.put(split, record)
	})
	if err != nil {
		return err
	}
	if rows != s.splits {
		return errChanged
	}
	m.Stats = statistic.result()
	return b.flush()
}
