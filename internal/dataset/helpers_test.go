package dataset

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// plain8 are options for flat examples of n uint8 values.
func plain8(n int) Options {
	return Options{
		Task: Classification, Input: Input{Shape: []int{n}, DType: UInt8},
		Split: SplitOptions{Fractions: [3]float64{0.7, 0.15, 0.15}}, PackSize: 4, Shards: 1, MaxBytes: 64 << 20,
	}
}

func shaped(dtype string, shape ...int) Options {
	o := plain8(1)
	o.Input = Input{Shape: shape, DType: dtype}
	return o
}

func (o Options) with(change func(*Options)) Options {
	change(&o)
	return o
}

// prepare runs a file through all but the load. It fails the test when something stays in the work directory.
func prepare(t testing.TB, name string, content []byte, o Options) (*Prepared, error) {
	t.Helper()
	dir, work := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return prepareFile(t, file, work, o)
}

func prepareFile(t testing.TB, location, work string, o Options) (*Prepared, error) {
	t.Helper()
	defer func() {
		if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
			t.Errorf("the work directory holds %v (%v)", left, err)
		}
	}()
	ctx := context.Background()
	f, err := Fetch(ctx, location, FetchOptions{WorkDir: work, MaxBytes: o.MaxBytes})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = f.Close() })
	plan, err := NewPlan(ctx, f, o, nil)
	if err != nil {
		return nil, err
	}
	p, err := plan.Prepare(ctx, work)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = p.Close() })
	return p, nil
}

// loadedRow is one example as the database would get it.
type loadedRow struct {
	Split, Label string
	Values       []float64
}

// rowsOf unpacks everything, in the order of the packs.
func rowsOf(t testing.TB, p *Prepared) []loadedRow {
	t.Helper()
	var rows []loadedRow
	for pack, err := range p.Packs() {
		if err != nil {
			t.Fatal(err)
		}
		n := int(pack.Rows)
		if len(pack.Labels) != 4*n || len(pack.Data) != n*p.Manifest.Input.Bytes() || n > p.Manifest.PackSize || n == 0 {
			t.Fatalf("pack %d: %d rows, %d label bytes, %d data bytes", pack.ID, n, len(pack.Labels), len(pack.Data))
		}
		for i := range n {
			word := binary.LittleEndian.Uint32(pack.Labels[4*i:])
			r := loadedRow{Split: pack.Split}
			if p.Manifest.Task == Classification {
				r.Label = p.Manifest.Classes[word]
			} else {
				r.Label = fmt.Sprint(math.Float32frombits(word))
			}
			data := pack.Data[i*p.Manifest.Input.Bytes():][:p.Manifest.Input.Bytes()]
			for j := range p.Manifest.Input.Values() {
				if p.Manifest.Input.DType == UInt8 {
					r.Values = append(r.Values, float64(data[j]))
				} else {
					r.Values = append(r.Values, float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*j:]))))
				}
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// contents are the rows without their splits, sorted: what must be the same in every format.
func contents(rows []loadedRow) []string {
	var out []string
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%s %v", r.Label, r.Values))
	}
	slices.Sort(out)
	return out
}

type member struct {
	name    string
	content []byte
}

func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if err := w.WriteHeader(&tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipOf(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range members {
		f, err := w.Create(m.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// npy writes an array as NumPy does.
func npy(descr, shape string, data []byte) []byte {
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr, shape)
	header += strings.Repeat(" ", 63-(10+len(header))%64) + "\n"
	return slices.Concat([]byte("\x93NUMPY\x01\x00"), binary.LittleEndian.AppendUint16(nil, uint16(len(header))), []byte(header), data)
}

func npzOf(t testing.TB, x, y []byte) []byte {
	return zipOf(t, member{"x.npy", x}, member{"y.npy", y})
}

// grayOf and colourOf make small pictures.
func grayOf(w, h int, at func(x, y int) uint8) image.Image {
	m := image.NewGray(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.SetGray(x, y, color.Gray{at(x, y)})
		}
	}
	return m
}

func colourOf(w, h int, c color.Color) image.Image {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.Set(x, y, c)
		}
	}
	return m
}

func pngOf(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func jpegOf(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: 100}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gifOf(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := gif.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func parquetOf[T any](t testing.TB, rows ...T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[T](&b)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func times[T any](n int, rows ...T) []T { return slices.Repeat(rows, n) }

// cifarBatch makes records whose pixels all have the value of their number.
func cifarBatch(labels ...byte) []byte {
	var b []byte
	for i, label := range labels {
		b = append(b, label)
		b = append(b, bytes.Repeat([]byte{byte(i)}, cifarPlane)...)
		b = append(b, bytes.Repeat([]byte{byte(i + 50)}, cifarPlane)...)
		b = append(b, bytes.Repeat([]byte{byte(i + 100)}, cifarPlane)...)
	}
	return b
}
