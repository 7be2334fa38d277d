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
		Columns: s.columns, Input: o.Input, Rows: s.rows, Split: o.Split, PackSize: o.PackSize, Shards: o.Shards,
		Creator: "insitu upload-dataset",
	}
	counts := []int64{s.rows}
	if o.Task == Classification {
		m.Classes, counts = s.classes.names, s.classes.counts
	}
	sampler := newSampler(counts, o.Split)
	for i, name := range SplitNames() {
		c := m.Splits.Of(name)
		for class := range counts {
			n := sampler.left[class][i]
			c.Rows += n
			if o.Task == Classification {
				c.Histogram = append(c.Histogram, n)
			}
		}
		c.Packs = (c.Rows + int64(o.PackSize) - 1) / int64(o.PackSize)
	}
	// A shard without a pack would train on nothing: small data has fewer shards than were asked for.
	m.Shards = int(min(int64(m.Shards), m.Splits.Train.Packs))
	b, err := newBuckets(workDir, m, defaultBucket)
	if err != nil {
		return nil, err
	}
	if err := p.scatter(ctx, s, sampler, b, m); err != nil {
		_ = b.close()
		return nil, err
	}
	return &Prepared{Manifest: m, buckets: b}, nil
}

// scanned is what the first pass finds.
type scanned struct {
	rows    int64
	classes *classes
	columns []string
}

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

func (p *Plan) scan(ctx context.Context) (*scanned, error) {
	s := &scanned{classes: newClasses(p.options.Labels)}
	size := int64(p.options.Input.Bytes())
	d, err := p.rows(ctx, PhaseValidate, func(e *example) error {
		s.rows++
		if s.rows > p.options.MaxBytes/size {
			return fmt.Errorf("the decoded examples have more than %d bytes: raise max-bytes to read them: %w", p.options.MaxBytes, archive.ErrTooLarge)
		}
		var err error
		if p.options.Task == Classification {
			err = s.classes.add(e.label)
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
	switch {
	case s.rows == 0:
		return nil, errors.New("the file has no rows")
	case p.options.Task == Classification:
		s.classes.sort()
		if err := s.classes.check(); err != nil {
			return nil, err
		}
	case s.rows < int64(len(SplitNames())):
		return nil, fmt.Errorf("the file has %d rows, expected at least %d: one a split", s.rows, len(SplitNames()))
	}
	s.columns = d.columns
	return s, nil
}

// scatter runs the second pass: every row is given its split and put into one of the split's buckets.
func (p *Plan) scatter(ctx context.Context, s *scanned, sampler *sampler, b *buckets, m *Manifest) error {
	statistic := newStatistic(p.options.Input)
	record := make([]byte, labelBytes+p.options.Input.Bytes())
	var rows int64
	_, err := p.rows(ctx, PhaseShuffle, func(e *example) error {
		rows++
		class, word := 0, uint32(0)
		if p.options.Task == Classification {
			var err error
			if class, err = s.classes.number(e.label); err != nil || class < 0 {
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
		split, err := sampler.next(class)
		if err != nil {
			return err
		}
		statistic.add(e.data, split == 0)
		binary.LittleEndian.PutUint32(record, word)
		copy(record[labelBytes:], e.data)
		return b.put(split, record)
	})
	if err != nil {
		return err
	}
	if rows != s.rows {
		return errChanged
	}
	m.Stats = statistic.result()
	return b.flush()
}
