package main

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Images are shaped as CIFAR-10's: a label, then three planes of 32 by 32.
const (
	side     = 32
	pixels   = 3 * side * side
	classes  = 10
	pack     = 256 // images
	maxBytes = 64 << 30
	// many is how many images the light work gets: 123 MB, so that the tables of a group fit into shared buffers together.
	many = 40_000
)

// dataKey names a generated dataset.
type dataKey struct {
	images, shards int
	split          [3]float64
}

// ordinary is the split of the groups that measure time.
func ordinary() [3]float64 { return [3]float64{0.8, 0.1, 0.1} }

// data is a dataset in the training schema.
type data struct {
	*dataset.Manifest
	raw string // tar file it was made from
}

// images loads generated images as a dataset of so many shards, once.
func (b *bench) images(ctx context.Context, key dataKey) (*data, error) {
	if d, found := b.data[key]; found {
		return d, nil
	}
	prepared, raw, err := b.prepared(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = prepared.Close() }()
	if _, err := dataset.Load(ctx, b.admin, schema, prepared.Manifest, prepared.Packs(), nil); err != nil {
		return nil, err
	}
	d := &data{prepared.Manifest, raw}
	b.data[key] = d
	return d, exec1(ctx, b.admin, "vacuum analyze "+postgres.Ident(d.Table))
}

// prepared generates images and packs them as upload-dataset does; the caller closes it.
func (b *bench) prepared(ctx context.Context, key dataKey) (*dataset.Prepared, string, error) {
	raw := filepath.Join(b.dir, fmt.Sprintf("images-%d.tar", key.images))
	if _, err := os.Stat(raw); errors.Is(err, os.ErrNotExist) {
		if err := writeImages(raw, key.images); err != nil {
			return nil, "", err
		}
	}
	file, err := dataset.Fetch(ctx, raw, dataset.FetchOptions{MaxBytes: maxBytes})
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = file.Close() }()
	plan, err := dataset.NewPlan(ctx, file, imageOptions(key.shards, key.split), nil)
	if err != nil {
		return nil, "", err
	}
	out, err := plan.Prepare(ctx, b.dir)
	return out, raw, err
}

func imageOptions(shards int, split [3]float64) dataset.Options {
	return dataset.Options{
		Task: dataset.Classification, Format: "cifar10",
		Input:  dataset.Input{Shape: []int{3, side, side}, DType: dataset.UInt8, Range: &[2]float64{0, 255}},
		Labels: strings.Fields("airplane automobile bird cat deer dog frog horse ship truck"),
		Split:  dataset.SplitOptions{Fractions: split, Seed: 1}, PackSize: pack, Shards: shards, MaxBytes: maxBytes,
	}
}

// writeImages writes learnable images in CIFAR-10's binary form: the same number gives the same bytes.
func writeImages(path string, n int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(f, 1<<20)
	out := tar.NewWriter(buffered)
	err = out.WriteHeader(&tar.Header{Name: "data_batch_1.bin", Mode: 0o644, Size: int64(n) * (1 + pixels)})
	for g, i := newGenerator(), 0; err == nil && i < n; i++ {
		label, image := g.next()
		_, err = out.Write(append([]byte{label}, image...))
	}
	return errors.Join(err, out.Close(), buffered.Flush(), f.Close())
}

// generator makes images of a class: its own smooth pattern, moved about, mixed with another class's, under noise.
type generator struct {
	random   *rand.Rand
	noise    *rand.ChaCha8
	patterns [classes][3][patternSide][patternSide]float64
	image    []byte
}

// patternSide leaves room to move an image by up to eight pixels.
const patternSide = side + 8

func newGenerator() *generator {
	g := &generator{random: rand.New(rand.NewPCG(1, 2)), noise: rand.NewChaCha8([32]byte{1}), image: make([]byte, pixels)}
	const coarse = 7 // points of a pattern, interpolated
	for c := range classes {
		for plane := range 3 {
			var grid [coarse][coarse]float64
			for y := range coarse {
				for x := range coarse {
					grid[y][x] = g.random.NormFloat64()
				}
			}
			for y := range patternSide {
				for x := range patternSide {
					fy, fx := float64(y)/patternSide*(coarse-1), float64(x)/patternSide*(coarse-1)
					iy, ix := int(fy), int(fx)
					fy, fx = fy-float64(iy), fx-float64(ix)
					g.patterns[c][plane][y][x] = (grid[iy][ix]*(1-fx)+grid[iy][ix+1]*fx)*(1-fy) + (grid[iy+1][ix]*(1-fx)+grid[iy+1][ix+1]*fx)*fy
				}
			}
		}
	}
	return g
}

// next returns an image that is valid until the next one.
func (g *generator) next() (label byte, image []byte) {
	c, other := g.random.IntN(classes), g.random.IntN(classes)
	dy, dx, oy, ox := g.random.IntN(9), g.random.IntN(9), g.random.IntN(9), g.random.IntN(9)
	own, mixed := 26+10*g.random.Float64(), 10*g.random.Float64()
	at := 0
	for plane := range 3 {
		for y := range side {
			a, o := &g.patterns[c][plane][y+dy], &g.patterns[other][plane][y+oy]
			for x := 0; x < side; x += 8 {
				noise := g.noise.Uint64()
				for k := range 8 {
					v := 128 + own*a[x+k+dx] + mixed*o[x+k+ox] + float64(int8(noise>>(8*k)))*0.6
					g.image[at] = byte(min(max(v, 0), 255))
					at++
				}
			}
		}
	}
	return byte(c), g.image
}

// export writes the rows of a query as a binary COPY file, which inmemory.read_packs reads, and the server.
func (b *bench) export(ctx context.Context, name, query string) (string, error) {
	path := filepath.Join(b.dir, name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	_, err = b.admin.PgConn().CopyTo(ctx, f, "copy ("+query+") to stdout (format binary)")
	return path, errors.Join(postgres.Wrap(err, "export "+query), f.Close(), os.Chmod(path, 0o644))
}

// packFile is the file of all packs of a dataset.
func (b *bench) packFile(ctx context.Context, d *data) (string, error) {
	return b.export(ctx, d.Table+".packs", "select split, shard, id, n, labels, data from "+postgres.Ident(d.Table)+" order by id")
}

// rowTable makes the usual table from the images of packs: one row an image. Pixels become what column makes of a bytea:
// "pixels" itself or an array.
func (b *bench) rowTable(ctx context.Context, c *postgres.Conn, name, kind string, images int) error {
	columns := "id int primary key, label int not null, pixels " + kind + " not null"
	if err := execAll(ctx, c, "drop table if exists "+name, "create table "+name+" ("+columns+")"); err != nil {
		return err
	}
	var rows int64
	var err error
	if kind == "bytea" {
		rows, err = c.CopyRows(ctx, []string{schema, name}, []string{"id", "label", "pixels"}, func(yield func([]any, error) bool) {
			for g, i := newGenerator(), 0; i < images; i++ {
				label, image := g.next()
				if !yield([]any{int32(i), int32(label), image}, nil) {
					return
				}
			}
		})
	} else {
		reader, writer := io.Pipe()
		go func() { _ = writer.CloseWithError(writeArrays(writer, images)) }()
		tag, copyErr := c.PgConn().CopyFrom(ctx, reader, "copy "+name+" from stdin (format binary)")
		_ = reader.Close()
		rows, err = tag.RowsAffected(), copyErr
	}
	if err != nil {
		return postgres.Wrap(err, "fill "+name)
	}
	if rows != int64(images) {
		return fmt.Errorf("table %s: %d rows arrived, expected %d", name, rows, images)
	}
	return exec1(ctx, c, "vacuum analyze "+name)
}

// writeArrays writes rows of id, label and pixels as an int[] in binary COPY form.
func writeArrays(w io.Writer, images int) error {
	const int4 = 23 // its OID
	out := bufio.NewWriterSize(w, 1<<20)
	write := func(value any) { _ = binary.Write(out, binary.BigEndian, value) } // a buffered writer keeps its error
	_, _ = out.WriteString("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	element := make([]byte, 8*pixels)
	for g, i := newGenerator(), 0; i < images; i++ {
		label, image := g.next()
		write(int16(3))
		write([...]int32{4, int32(i), 4, int32(label), 20 + 8*pixels})
		write([...]int32{1, 0, int4, pixels, 1})
		for k, v := range image {
			binary.BigEndian.PutUint32(element[8*k:], 4)
			binary.BigEndian.PutUint32(element[8*k+4:], uint32(v))
		}
		_, _ = out.Write(element)
	}
	write(int16(-1))
	return out.Flush()
}
