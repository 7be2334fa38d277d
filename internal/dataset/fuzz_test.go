package dataset

import (
	"bytes"
	"context"
	"io"
	"strconv"
	"testing"
)

// fuzzed runs a file through all passes: it may be refused, but not crash, hang or leave something behind.
func fuzzed(t *testing.T, format string, content []byte, o Options) {
	if len(content) == 0 {
		return
	}
	o.Format, o.MaxBytes = format, 1<<20
	ctx := context.Background()
	f, err := FetchReader(ctx, "f", io.NopCloser(bytes.NewReader(content)), FetchOptions{MaxBytes: o.MaxBytes})
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	plan, err := NewPlan(ctx, f, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Prepare(ctx, "")
	if err != nil {
		return
	}
	defer func() { _ = p.Close() }()
	var rows int64
	for pack, err := range p.Packs() {
		if err != nil {
			t.Fatal(err)
		}
		rows += int64(pack.Rows)
	}
	if rows != p.Manifest.Rows {
		t.Errorf("%d rows were packed, %d counted", rows, p.Manifest.Rows)
	}
}

func FuzzCSV(f *testing.F) {
	f.Add([]byte(table24()))
	f.Add([]byte("\xef\xbb\xbfu,label,v\n\"1\",\"a\n\",2\n"))
	f.Add(gzipOf(f, []byte(table24())))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, FormatCSV, b, shaped(Float32, 2)) })
}

func FuzzNPZ(f *testing.F) {
	y := npy("|u1", "(6,)", []byte{0, 1, 0, 1, 0, 1})
	f.Add(npy("|u1", "(6, 1)", []byte{1, 2, 3, 4, 5, 6}), y)
	f.Add(npy("<f2", "(6, 1)", make([]byte, 12)), npy("<U1", "(6,)", make([]byte, 24)))
	f.Add(npy("|O", "(6, 1)", make([]byte, 12)), npy("|S3", "(6,)", make([]byte, 18)))
	f.Fuzz(func(t *testing.T, x, y []byte) { fuzzed(t, FormatNPZ, npzOf(t, x, y), shaped(Float32, 1)) })
}

func FuzzCIFAR10(f *testing.F) {
	f.Add(tarOf(f, member{"data_batch_1.bin", cifarBatch(0, 1)}))
	f.Add(gzipOf(f, tarOf(f, member{"batches.meta.txt", []byte("a\nb\n")}, member{"test_batch.bin", cifarBatch(0)})))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, FormatCIFAR10, b, shaped(UInt8, 3, 32, 32)) })
}

func FuzzParquet(f *testing.F) {
	type row struct {
		X     []float64 `parquet:"x,list"`
		Label string    `parquet:"label"`
	}
	f.Add(parquetOf(f, times(3, row{[]float64{1}, "a"}, row{[]float64{2}, "b"})...))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, FormatParquet, b, shaped(Float32, 1)) })
}

func FuzzImages(f *testing.F) {
	pixel := pngOf(f, grayOf(1, 1, func(int, int) uint8 { return 1 }))
	var members []member
	for i := range 3 {
		members = append(members, member{"a/" + strconv.Itoa(i) + ".png", pixel}, member{"b/" + strconv.Itoa(i) + ".gif", gifOf(f, grayOf(1, 1, func(int, int) uint8 { return 0 }))})
	}
	f.Add(zipOf(f, members...))
	f.Add(tarOf(f, members...))
	f.Add(gzipOf(f, tarOf(f, members...)))
	f.Fuzz(func(t *testing.T, b []byte) {
		o := shaped(UInt8, 1, 1)
		o.Input.Resize = true
		fuzzed(t, FormatImages, b, o)
	})
}

func FuzzDetection(f *testing.F) {
	for _, b := range [][]byte{[]byte(table24()), cifarOf(f), []byte("PK\x03\x04"), []byte("PAR1")} {
		f.Add("t.csv", b)
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		file, err := FetchReader(context.Background(), name, io.NopCloser(bytes.NewReader(b)), FetchOptions{MaxBytes: 1 << 20})
		if err != nil {
			return
		}
		defer func() { _ = file.Close() }()
		_, _ = NewPlan(context.Background(), file, plain8(2), nil)
	})
}
