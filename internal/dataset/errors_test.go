package dataset

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image/color"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/insitu-ml/insitu/internal/fault"
)

// hugePNG is a valid header of a picture of w times h pixels, and nothing else.
func hugePNG(w, h uint32) []byte {
	ihdr := append([]byte("IHDR"), binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, w), h)...)
	ihdr = append(ihdr, 8, 0, 0, 0, 0)
	b := append([]byte("\x89PNG\r\n\x1a\n"), 0, 0, 0, 13)
	b = append(b, ihdr...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(ihdr))
}

func TestBadInputIsRefusedAndNothingIsLeft(t *testing.T) {
	t.Parallel()
	type nullable struct {
		X     *float64 `parquet:"x,optional"`
		Label string   `parquet:"label"`
	}
	type list struct {
		X     []float64 `parquet:"x,list"`
		Label string    `parquet:"label"`
	}
	type text struct {
		X     string `parquet:"x"`
		Label string `parquet:"label"`
	}
	one := 1.0
	x6, y6 := npy("|u1", "(6, 1)", []byte{1, 2, 3, 4, 5, 6}), npy("|u1", "(6,)", []byte{0, 1, 0, 1, 0, 1})
	nan := binary.LittleEndian.AppendUint32(make([]byte, 20), math.Float32bits(float32(math.NaN())))
	pixel := pngOf(t, grayOf(1, 1, func(int, int) uint8 { return 1 }))
	set := func(extra ...member) []member {
		var all []member
		for i := range 3 {
			all = append(all, member{"a/" + strconv.Itoa(i) + ".png", pixel}, member{"b/" + strconv.Itoa(i) + ".png", pixel})
		}
		return append(all, extra...)
	}
	imageShape := shaped(UInt8, 1, 1)
	cifarShape := shaped(UInt8, 3, 32, 32)
	cifar := func(members ...member) []byte { return gzipOf(t, tarOf(t, members...)) }
	rows := func(lines ...string) []byte { return []byte("x,label\n" + strings.Join(lines, "\n") + "\n") }
	// A value that is not of the train split.
	late := 1000.0
	for position(float32s(late), 0) < 0.7 {
		late++
	}
	good := []string{"1,a", "2,b", "3,a", "4,b", "5,a", "6,b"}
	goodParquet := parquetOf(t, times(3, list{[]float64{1}, "a"}, list{[]float64{2}, "b"})...)
	for name, c := range map[string]struct {
		file    string
		content []byte
		options Options
		want    []string
	}{
		"an empty file":                     {"t.csv", nil, plain8(1), []string{`"t.csv"`, "the file is empty"}},
		"an empty compressed file":          {"t.csv.gz", gzipOf(t, nil), plain8(1), []string{"empty once decompressed"}},
		"a header alone":                    {"t.csv", []byte("x,label\n"), plain8(1), []string{"no rows"}},
		"a ragged row":                      {"t.csv", rows(append(good, "7,a,9")...), plain8(1), []string{"line 8", "3 fields"}},
		"a short row":                       {"t.csv", rows(append(good, "7")...), plain8(1), []string{"line 8", "1 fields"}},
		"an open quote":                     {"t.csv", rows(append(good, `7,"a`)...), plain8(1), []string{"line 8"}},
		"a line without end":                {"t.csv", []byte("x,label\n\"" + strings.Repeat("1\n", 9<<20)), plain8(1), []string{"more than 16777216 bytes"}},
		"no label column":                   {"t.csv", []byte("x,y\n1,2\n"), plain8(1), []string{`no column is named "label"`, `"x", "y"`}},
		"no feature column of that name":    {"t.csv", rows(good...), plain8(1).with(func(o *Options) { o.Columns = []string{"z"} }), []string{`no column is named "z"`}},
		"a column twice":                    {"t.csv", []byte("x,x,label\n"), plain8(2), []string{`column "x" appears twice`}},
		"too many columns":                  {"t.csv", rows(good...), plain8(3), []string{"1 feature columns, expected 3"}},
		"text where a number belongs":       {"t.csv", rows(append(good, "many,a")...), plain8(1), []string{"line 8", `column "x"`, `"many" is no number`}},
		"an empty cell":                     {"t.csv", rows(append(good, ",a")...), plain8(1), []string{"line 8", "empty"}},
		"NaN":                               {"t.csv", rows(append(good, "NaN,a")...), shaped(Float32, 1), []string{"line 8", `column "x"`, "NaN"}},
		"infinity":                          {"t.csv", rows(append(good, "-inf,a")...), shaped(Float32, 1), []string{"line 8", "infinite"}},
		"beyond float32":                    {"t.csv", rows(append(good, "1e39,a")...), shaped(Float32, 1), []string{"line 8", "float32"}},
		"beyond float64":                    {"t.csv", rows(append(good, "1e999,a")...), shaped(Float32, 1), []string{"line 8", "infinite"}},
		"beyond uint8":                      {"t.csv", rows(append(good, "256,a")...), plain8(1), []string{"line 8", "value 256", "[0, 255]"}},
		"a fraction in uint8":               {"t.csv", rows(append(good, "1.5,a")...), plain8(1), []string{"line 8", "1.5 is no integer"}},
		"out of the app's range":            {"t.csv", rows(append(good, "17,a")...), plain8(1).with(func(o *Options) { o.Input.Range = &[2]float64{0, 16} }), []string{"line 8", "value 17", "[0, 16]"}},
		"a label the app does not list":     {"t.csv", rows(append(good, "7,c")...), plain8(1).with(func(o *Options) { o.Labels = []string{"a", "b"} }), []string{"line 8", `unknown label "c"`, `"a", "b"`}},
		"a listed class without rows":       {"t.csv", rows(good...), plain8(1).with(func(o *Options) { o.Labels = []string{"a", "b", "c"} }), []string{`class "c" has no rows`}},
		"an empty label":                    {"t.csv", rows(append(good, "7,")...), plain8(1), []string{"line 8", "label is empty"}},
		"a label that is not UTF-8":         {"t.csv", rows(append(good, "7,\xff")...), plain8(1), []string{"line 8", "not UTF-8"}},
		"a cell that is not UTF-8":          {"t.csv", rows(append(good, "\xff,a")...), plain8(1), []string{"line 8", `column "x"`, "not UTF-8"}},
		"a header that is not UTF-8":        {"t.csv", []byte("\xff,label\n1,a\n"), plain8(1), []string{"line 1", "not UTF-8"}},
		"UTF-16":                            {"t.csv", []byte("\xff\xfex\x00,\x00"), plain8(1), []string{"line 1", "UTF-16"}},
		"one class":                         {"t.csv", rows("1,a", "2,a", "3,a"), plain8(1), []string{`all rows have the label "a"`}},
		"a class without a row to train on": {"t.csv", append(numbered(100), fmt.Sprintf("%v,c\n", late)...), shaped(Float32, 1), []string{`class "c" has no row in the train split, of 1 rows`, "another split seed"}},
		"copies of two examples":            {"t.csv", rows(times(50, "1,a", "2,b")...), plain8(1), []string{"fewer than 3 different examples in its 100 rows"}},
		"a regression on text":              {"t.csv", rows(good...), plain8(1).with(func(o *Options) { o.Task = Regression }), []string{"line 2", "label", "no number"}},
		"a regression with NaN":             {"t.csv", rows("1,1", "2,nan"), plain8(1).with(func(o *Options) { o.Task = Regression }), []string{"line 3", "label NaN"}},
		"a compressed file cut short":       {"t.csv.gz", gzipOf(t, rows(good...))[:30], plain8(1), []string{"truncated"}},
		"a compressed file without its end": {"t.csv.gz", func() []byte { b := gzipOf(t, rows(good...)); return b[:len(b)-4] }(), plain8(1), []string{"truncated"}},
		"a compressed bomb":                 {"t.csv.gz", gzipOf(t, append(rows(good...), bytes.Repeat([]byte("1,a\n"), 4<<20)...)), plain8(1), []string{"more than 200-fold"}},
		"more bytes than allowed":           {"t.csv", rows(good...), plain8(1).with(func(o *Options) { o.MaxBytes = 20 }), []string{"limit is 20", "raise max-bytes"}},
		"more decompressed bytes":           {"t.csv.gz", gzipOf(t, rows(times(100, good...)...)), plain8(1).with(func(o *Options) { o.MaxBytes = 1000 }), []string{"more than 1000 bytes"}},
		"more decoded bytes":                {"t.csv", []byte("x,y,label\n" + strings.Repeat("1,1,a\n2,2,b\n", 60)), shaped(Float32, 2).with(func(o *Options) { o.MaxBytes = 800 }), []string{"decoded examples have more than 800 bytes"}},
		"a name that promises Parquet":      {"t.parquet", []byte("hello"), plain8(1), []string{"says parquet", "corrupt"}},
		"a name that promises gzip":         {"t.csv.gz", rows(good...), plain8(1), []string{"says gzip", "corrupt"}},
		"binary of no known format":         {"t.bin", []byte("\x7fELF\x00\x00"), plain8(1), []string{"expected one of csv, cifar10"}},
		"an archive as CSV":                 {"t.zip", zipOf(t, set()...), plain8(1).with(func(o *Options) { o.Format = FormatCSV }), []string{"found an archive"}},
		"CSV as images":                     {"t.csv", rows(good...), imageShape.with(func(o *Options) { o.Format = FormatImages }), []string{"expected a zip, tar or tar.gz"}},

		"a CIFAR batch cut short":        {"c.tar.gz", cifar(member{"x/data_batch_1.bin", cifarBatch(0, 1)[:4000]}), cifarShape, []string{`"x/data_batch_1.bin"`, "4000 bytes", "multiple of 3073"}},
		"a CIFAR label out of range":     {"c.tar.gz", cifar(member{"x/data_batch_1.bin", cifarBatch(0, 10)}), cifarShape, []string{`"x/data_batch_1.bin" record 2`, "label 10"}},
		"a CIFAR label without a name":   {"c.tar.gz", cifar(member{"batches.meta.txt", []byte("a\nb\n")}, member{"data_batch_1.bin", cifarBatch(2)}), cifarShape, []string{"label 2, expected 0 to 1"}},
		"CIFAR names that are not UTF-8": {"c.tar.gz", cifar(member{"batches.meta.txt", []byte("a\xff\nb\n")}, member{"data_batch_1.bin", cifarBatch(1)}), cifarShape, []string{`"batches.meta.txt" is not UTF-8`}},
		"CIFAR for another shape":        {"c.tar.gz", cifarOf(t), plain8(1), []string{"[3, 32, 32]"}},
		"CIFAR without batches":          {"c.tar.gz", cifar(member{"batches.meta.txt", []byte("a\nb\n")}), cifarShape, []string{"no data_batch_*.bin"}},
		"a CIFAR archive cut short":      {"c.tar.gz", cifarOf(t)[:200], cifarShape, []string{"truncated"}},
		"a CIFAR archive that climbs":    {"c.tar.gz", cifar(member{"../data_batch_1.bin", cifarBatch(1)}), cifarShape, []string{`"../data_batch_1.bin"`, "leaves the archive"}},

		"NPZ with Python objects":     {"t.npz", npzOf(t, npy("|O", "(6, 1)", make([]byte, 48)), y6), plain8(1), []string{`"x.npy"`, "Python objects, which are never read"}},
		"NPZ with a structured array": {"t.npz", npzOf(t, []byte("\x93NUMPY\x01\x00\x45\x00{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (6, 1), }\n"), y6), plain8(1), []string{"structured"}},
		"NPZ in Fortran order":        {"t.npz", npzOf(t, bytes.Replace(bytes.Replace(npy("|u1", "(3, 2)", make([]byte, 6)), []byte("False"), []byte("True"), 1), []byte("\n"), []byte(" \n"), 1), y6), plain8(2), []string{`"x.npy"`, "Fortran order"}},
		"NPZ with big-endian numbers": {"t.npz", npzOf(t, npy(">u2", "(6, 1)", make([]byte, 12)), y6), plain8(1), []string{"big-endian"}},
		"NPZ with complex numbers":    {"t.npz", npzOf(t, npy("<c8", "(6, 1)", make([]byte, 48)), y6), plain8(1), []string{`dtype "<c8" is not read`}},
		"NPZ without labels":          {"t.npz", zipOf(t, member{"x.npy", x6}), plain8(1), []string{`no array "y", "labels"`, `"x"`}},
		"NPZ with uneven arrays":      {"t.npz", npzOf(t, x6, npy("|u1", "(5,)", make([]byte, 5))), plain8(1), []string{`"x.npy" has 6 rows, "y.npy" has 5`}},
		"NPZ of another shape":        {"t.npz", npzOf(t, x6, y6), plain8(2), []string{"shape [6 1]", "[2]"}},
		"NPZ shorter than its shape":  {"t.npz", npzOf(t, npy("|u1", "(6, 1)", []byte{1}), y6), plain8(1), []string{"takes 6 bytes, the array has 1"}},
		"NPZ with an absurd shape":    {"t.npz", npzOf(t, npy("|u1", "(99999999999999999999, 1)", []byte{1}), y6), plain8(1), []string{"larger than allowed"}},
		"NPZ with an overflow":        {"t.npz", npzOf(t, npy("<f8", "(1000000000000, 1000000000000)", []byte{1}), y6), plain8(1), []string{"larger than allowed"}},
		"NPZ with NaN":                {"t.npz", npzOf(t, npy("<f4", "(6, 1)", nan), y6), shaped(Float32, 1), []string{"row 6", "NaN"}},
		"NPZ with a NaN label":        {"t.npz", npzOf(t, x6, npy("<f4", "(6,)", nan)), plain8(1), []string{"row 6", "label: NaN"}},
		"NPZ cut short":               {"t.npz", npzOf(t, x6, y6)[:100], plain8(1), []string{"zip"}},
		"NPZ that is no array":        {"t.npz", npzOf(t, []byte("hello, this is no array"), y6), plain8(1), []string{`"x.npy"`, ".npy header"}},
		"NPZ that climbs":             {"t.npz", zipOf(t, member{"../x.npy", x6}), plain8(1), []string{"leaves the archive"}},

		"Parquet cut short": {"t.parquet", goodParquet[:len(goodParquet)-9], plain8(1), []string{"Parquet"}},
		"Parquet with its middle overwritten": {"t.parquet", func() []byte {
			b := bytes.Clone(goodParquet)
			copy(b[4:], bytes.Repeat([]byte{0xff}, 60))
			return b
		}(), plain8(1), nil},
		"Parquet with a null":       {"t.parquet", parquetOf(t, nullable{&one, "a"}, nullable{nil, "b"}), plain8(1), []string{"row 2", `column "x"`, "null"}},
		"Parquet with a short list": {"t.parquet", parquetOf(t, list{[]float64{1}, "a"}, list{nil, "b"}), plain8(1), []string{"row 2", `column "x"`}},
		"Parquet with a long list":  {"t.parquet", parquetOf(t, list{[]float64{1}, "a"}, list{[]float64{1, 2}, "b"}), plain8(1), []string{"row 2", "more than 1 values"}},
		"Parquet with NaN":          {"t.parquet", parquetOf(t, list{[]float64{math.NaN()}, "a"}), shaped(Float32, 1), []string{"row 1", "NaN"}},
		"Parquet with text":         {"t.parquet", parquetOf(t, text{"a", "b"}), plain8(1), []string{`column "x" is STRING`, "expected numbers"}},

		"an image without a folder":      {"i.zip", zipOf(t, set(member{"x.png", pixel})...), imageShape, []string{`"x.png" lies in no folder`}},
		"a file that is no image":        {"i.zip", zipOf(t, set(member{"a/readme.txt", []byte("hi")})...), imageShape, []string{`"a/readme.txt" is no PNG`}},
		"a broken image":                 {"i.tar", tarOf(t, set(member{"b/9.png", pixel[:40]})...), imageShape, []string{`"b/9.png"`, "decode image"}},
		"an image bomb":                  {"i.zip", zipOf(t, set(member{"b/9.png", hugePNG(1<<20, 1<<20)})...), imageShape.with(func(o *Options) { o.Input.Resize = true }), []string{`"b/9.png"`, "1048576 x 1048576 pixels"}},
		"an image of another size":       {"i.zip", zipOf(t, set(member{"b/9.png", pngOf(t, colourOf(2, 1, color.Black))})...), imageShape, []string{`"b/9.png"`, "2 wide and 1 high"}},
		"images for a flat input":        {"i.zip", zipOf(t, set()...), plain8(1), []string{"is no image"}},
		"a zip that climbs":              {"i.zip", zipOf(t, set(member{"../../c/9.png", pixel})...), imageShape, []string{`"../../c/9.png"`, "leaves the archive"}},
		"a tar that climbs":              {"i.tar.gz", gzipOf(t, tarOf(t, set(member{"/etc/9.png", pixel})...)), imageShape, []string{`"/etc/9.png"`, "relative path"}},
		"a zip bomb":                     {"i.zip", zipOf(t, set(member{"b/9.png", make([]byte, 8<<20)})...), imageShape, []string{`"b/9.png"`, "200-fold"}},
		"an archive without images":      {"i.zip", zipOf(t), imageShape, []string{"no PNG, JPEG or GIF"}},
		"one folder":                     {"i.zip", zipOf(t, member{"a/1.png", pixel}, member{"a/2.png", pixel}, member{"a/3.png", pixel}), imageShape, []string{"all rows have the label"}},
		"copies of one image":            {"i.zip", zipOf(t, set(member{"c/1.png", pixel})...), imageShape, []string{"fewer than 3 different examples in its 7 rows"}},
		"a folder whose name is no text": {"i.tar", tarOf(t, set(member{"\xff/1.png", pixel})...), imageShape, []string{"not UTF-8"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := prepare(t, c.file, c.content, c.options)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %q", err, want)
				}
			}
			if class := fault.Of(err); class != fault.Permanent {
				t.Errorf("%v has class %d", err, class)
			}
		})
	}
}

func TestWrongOptionsAreRefusedTogether(t *testing.T) {
	t.Parallel()
	o := Options{Task: "x", Input: Input{Shape: []int{0}, DType: "int8", Range: &[2]float64{2, 1}}, Labels: []string{"a", "a"}, Columns: []string{"c", "c", "l"}, Label: "l",
		Format: "xml", Delimiter: '"', Split: SplitOptions{Fractions: [3]float64{1, 0.5, 0}}}
	err := o.Validate()
	for _, want := range []string{"task", "input shape", "dtype", "range", `class "a"`, `column "c"`, `column "l"`, "format", "delimiter", "train fraction", "test fraction", "add up to 1.5", "pack size 0", "0 shards", "limit of 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	if fault.Of(err) != fault.Configuration {
		t.Error("it is no configuration fault")
	}
	large := shaped(Float32, 3, 1024, 1024)
	large.PackSize = 1000
	if err := large.Validate(); err == nil || !strings.Contains(err.Error(), "lower the pack size to 21") {
		t.Error(err)
	}
}
