package dataset

import (
	"encoding/binary"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// table24 is what most formats carry: row i is [i i+100], of class "a" if i is even, else "b".
func table24() string {
	var b strings.Builder
	b.WriteString("u,label,v\n")
	for i := range 24 {
		fmt.Fprintf(&b, "%d,%s,%d\n", i, ab(i), i+100)
	}
	return b.String()
}

func ab(i int) string { return []string{"a", "b"}[i%2] }

// want24 are the contents of table24, with what stands for the classes.
func want24(classes ...string) (all []string) {
	for i := range 24 {
		all = append(all, fmt.Sprintf("%s [%d %d]", classes[i%2], i, i+100))
	}
	slices.Sort(all)
	return all
}

func TestEveryFormatIsRead(t *testing.T) {
	t.Parallel()
	type flat struct {
		U     int32   `parquet:"u"`
		Label string  `parquet:"label"`
		V     float64 `parquet:"v"`
	}
	type list struct {
		Features []float32 `parquet:"features,list"`
		Label    int64     `parquet:"label"`
	}
	var flats []flat
	var lists []list
	var bytes24, labels24, text24, floats24 []byte
	var swapped []string
	for i := range 24 {
		flats = append(flats, flat{int32(i), ab(i), float64(i + 100)})
		lists = append(lists, list{[]float32{float32(i), float32(i + 100)}, int64(i % 2)})
		bytes24, labels24 = append(bytes24, byte(i), byte(i+100)), append(labels24, byte(i%2))
		text24 = append(text24, ab(i)[0], 0, 0, 0, 0, 0, 0, 0)
		for _, v := range []int{i, i + 100} {
			floats24 = binary.LittleEndian.AppendUint32(floats24, math.Float32bits(float32(v)))
		}
		swapped = append(swapped, fmt.Sprintf("%s [%d %d]", ab(i), i+100, i))
	}
	slices.Sort(swapped)
	folders := func(prefix string) (all []member) {
		for i := range 24 {
			ending := []string{".png", ".PNG"}[i%2]
			all = append(all, member{prefix + ab(i) + "/" + strconv.Itoa(i) + ending, pngOf(t, grayOf(2, 1, func(x, _ int) uint8 { return uint8(i + 100*x) }))})
		}
		return append(all, member{prefix + ".DS_Store", []byte("junk")}, member{"__MACOSX/x.png", []byte("junk")})
	}
	table, want, digits := table24(), want24("a", "b"), want24("0", "1")
	fractions := want24("a", "b")
	for i := range fractions {
		fractions[i] = strings.ReplaceAll(fractions[i], " 123]", " -4.5]")
	}
	for name, c := range map[string]struct {
		file    string
		content []byte
		options Options
		format  string
		want    []string
	}{
		"CSV":                                {"t.csv", []byte(table), plain8(2), FormatCSV, want},
		"CSV with no name to go by":          {"download", []byte(table), plain8(2), FormatCSV, want},
		"CSV with a byte order mark":         {"t.csv", []byte("\xef\xbb\xbf" + table), plain8(2), FormatCSV, want},
		"CSV with Windows line ends":         {"t.csv", []byte(strings.ReplaceAll(table, "\n", "\r\n")), plain8(2), FormatCSV, want},
		"CSV with spaces and quotes":         {"t.csv", []byte(strings.ReplaceAll(table, "2,a,102", " 2 ,\"a\", 102")), plain8(2), FormatCSV, want},
		"CSV with semicolons":                {"t.csv", []byte(strings.ReplaceAll(table, ",", ";")), plain8(2).with(func(o *Options) { o.Delimiter = ';' }), FormatCSV, want},
		"CSV compressed":                     {"t.csv.gz", gzipOf(t, []byte(table)), plain8(2), FormatCSV, want},
		"CSV with a label of another name":   {"t.csv", []byte(strings.Replace(table, "label", "class", 1)), plain8(2).with(func(o *Options) { o.Label = "class" }), FormatCSV, want},
		"CSV with chosen columns in order":   {"t.csv", []byte(table), plain8(2).with(func(o *Options) { o.Columns = []string{"v", "u"} }), FormatCSV, swapped},
		"CSV as floats":                      {"t.csv", []byte(strings.ReplaceAll(table, ",123\n", ",-4.5e0\n")), shaped(Float32, 2), FormatCSV, fractions},
		"CSV with numbers of listed classes": {"t.csv", []byte(strings.NewReplacer(",a,", ",1,", ",b,", ",0,").Replace(table)), plain8(2).with(func(o *Options) { o.Labels = []string{"b", "a"} }), FormatCSV, want},
		"Parquet with numeric columns":       {"t.parquet", parquetOf(t, flats...), plain8(2), FormatParquet, want},
		"Parquet with a list column":         {"t.parquet", parquetOf(t, lists...), shaped(Float32, 2), FormatParquet, digits},
		"NPZ":                                {"t.npz", npzOf(t, npy("|u1", "(24, 2)", bytes24), npy("|u1", "(24,)", labels24)), plain8(2), FormatNPZ, digits},
		"NPZ with floats and text": {"t.npz", zipOf(t, member{"images.npy", npy("<f4", "(24, 1, 2)", floats24)},
			member{"labels.npy", npy("<U2", "(24, 1)", text24)}), shaped(UInt8, 1, 2), FormatNPZ, want},
		"images in a tar.gz":        {"t.tar.gz", gzipOf(t, tarOf(t, folders("set/")...)), shaped(UInt8, 1, 2), FormatImages, want},
		"images in a tar":           {"t.tar", tarOf(t, folders("")...), shaped(UInt8, 1, 1, 2), FormatImages, want},
		"images in a zip":           {"t.zip", zipOf(t, folders("train/")...), shaped(UInt8, 1, 2), FormatImages, want},
		"images as floats in a zip": {"t.zip", zipOf(t, folders("train/")...), shaped(Float32, 1, 2), FormatImages, want},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := prepare(t, c.file, c.content, c.options)
			if err != nil {
				t.Fatal(err)
			}
			if p.Manifest.Format != c.format {
				t.Errorf("format %q, want %q", p.Manifest.Format, c.format)
			}
			if d := cmp.Diff(c.want, contents(rowsOf(t, p))); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestTheLimitOnOneRecordIsNotOneOnTheFile(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 1000)
	content := []byte("x,label\n")
	for i := range maxRecord / 950 {
		content = fmt.Appendf(content, "%d,%s\n", i%250, long[i%2:])
	}
	if len(content) <= maxRecord+csvBuffer {
		t.Fatal("the file is too small for this test")
	}
	if _, err := prepare(t, "t.csv", content, plain8(1)); err != nil {
		t.Fatalf("%.300v", err)
	}
}

func TestAFolderOfImagesIsReadAndHashedByItsContent(t *testing.T) {
	t.Parallel()
	folder := func() string {
		dir := t.TempDir()
		for i, name := range []string{"cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/2.png", "dog/3.png", "dog/.hidden"} {
			file := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, pngOf(t, grayOf(1, 1, func(int, int) uint8 { return uint8(10 * i) })), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	var digests []string
	for range 2 {
		p, err := prepareFile(t, folder(), t.TempDir(), shaped(UInt8, 1, 1))
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, p.Manifest.Digest)
		if d := cmp.Diff([]string{"cat [0]", "cat [10]", "cat [20]", "dog [30]", "dog [40]", "dog [50]"}, contents(rowsOf(t, p))); d != "" {
			t.Error(d)
		}
	}
	if digests[0] != digests[1] {
		t.Error("the same folder has two digests")
	}
}

func cifarOf(t testing.TB) []byte {
	return gzipOf(t, tarOf(t,
		member{"cifar-10-batches-bin/data_batch_1.bin", cifarBatch(0, 1, 0)},
		member{"cifar-10-batches-bin/batches.meta.txt", []byte("airplane\nautomobile\nbird\n\n")},
		member{"cifar-10-batches-bin/readme.html", []byte("<html>")},
		member{"cifar-10-batches-bin/test_batch.bin", cifarBatch(1, 0, 1)}))
}

func TestCIFAR10IsReadInBothLayouts(t *testing.T) {
	t.Parallel()
	for _, shape := range [][]int{{3, 32, 32}, {32, 32, 3}, {3072}} {
		p, err := prepare(t, "cifar-10-binary.tar.gz", cifarOf(t), shaped(UInt8, shape...))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"airplane", "automobile"}, p.Manifest.Classes); d != "" {
			t.Error(d)
		}
		rows := rowsOf(t, p)
		if len(rows) != 6 {
			t.Fatalf("%d rows", len(rows))
		}
		for _, r := range rows {
			i := r.Values[0]
			if i > 2 || r.Label != map[bool]string{true: "automobile", false: "airplane"}[r.Values[0] == 1] && i == 1 && r.Label != "airplane" {
				t.Errorf("%v: label %s, first value %v", shape, r.Label, i)
			}
			green, blue := r.Values[1024], r.Values[3071]
			if shape[0] == 32 {
				green, blue = r.Values[1], r.Values[2]
			}
			if green != i+50 || blue != i+100 {
				t.Errorf("%v: red %v, green %v, blue %v", shape, i, green, blue)
			}
		}
	}
}

func TestImagesAreConvertedOnlyWhenThatLosesNothingOrTheAppSaysSo(t *testing.T) {
	t.Parallel()
	red := color.NRGBA{255, 0, 0, 255}
	grey := func(int, int) uint8 { return 7 }
	for name, c := range map[string]struct {
		file    []byte
		ending  string
		options Options
		want    []float64
		err     string
	}{
		"grey as colours":           {pngOf(t, grayOf(1, 1, grey)), "png", shaped(UInt8, 3, 1, 1), []float64{7, 7, 7}, ""},
		"grey colours as grey":      {pngOf(t, colourOf(1, 1, color.NRGBA{9, 9, 9, 255})), "png", shaped(UInt8, 1, 1), []float64{9}, ""},
		"colours, channels first":   {pngOf(t, colourOf(2, 1, red)), "png", shaped(UInt8, 3, 1, 2), []float64{255, 255, 0, 0, 0, 0}, ""},
		"colours, channels last":    {pngOf(t, colourOf(1, 2, red)), "png", shaped(UInt8, 2, 1, 3), []float64{255, 0, 0, 255, 0, 0}, ""},
		"a GIF":                     {gifOf(t, colourOf(1, 1, color.NRGBA{255, 255, 255, 255})), "gif", shaped(UInt8, 3, 1, 1), []float64{255, 255, 255}, ""},
		"a JPEG":                    {jpegOf(t, grayOf(1, 1, grey)), "jpeg", shaped(UInt8, 1, 1), []float64{7}, ""},
		"colours as grey":           {pngOf(t, colourOf(1, 1, red)), "png", shaped(UInt8, 1, 1), nil, "the image has colours"},
		"colours as grey by resize": {pngOf(t, colourOf(1, 1, red)), "png", shaped(UInt8, 1, 1).with(func(o *Options) { o.Input.Resize = true }), []float64{76}, ""},
		"transparency":              {pngOf(t, colourOf(1, 1, color.NRGBA{255, 0, 0, 9})), "png", shaped(UInt8, 3, 1, 1), nil, "partly transparent"},
		"transparency by resize":    {pngOf(t, colourOf(1, 1, color.NRGBA{255, 0, 0, 9})), "png", shaped(UInt8, 3, 1, 1).with(func(o *Options) { o.Input.Resize = true }), []float64{255, 0, 0}, ""},
		"another size":              {pngOf(t, grayOf(3, 2, grey)), "png", shaped(UInt8, 1, 1), nil, "3 wide and 2 high, expected 1 and 1"},
		"another size by resize":    {pngOf(t, grayOf(3, 2, grey)), "png", shaped(UInt8, 1, 1).with(func(o *Options) { o.Input.Resize = true }), []float64{7}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var members []member
			for _, class := range []string{"a", "b"} {
				for i := range 3 {
					members = append(members, member{class + "/" + strconv.Itoa(i) + "." + c.ending, c.file})
				}
			}
			// Other images, so that there is something to split.
			lay, _ := layoutOf(c.options.Input.Shape)
			for i := range 20 {
				other := pngOf(t, grayOf(lay.width, lay.height, func(int, int) uint8 { return uint8(100 + 5*i) }))
				members = append(members, member{ab(i) + "/other" + strconv.Itoa(i) + ".png", other})
			}
			p, err := prepare(t, "i.zip", zipOf(t, members...), c.options)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), `"a/0.`) {
					t.Fatalf("got %v, want %q and the member", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got [][]float64
			for _, r := range rowsOf(t, p) {
				if v := r.Values[0]; v < 100 || v > 195 {
					got = append(got, r.Values)
				}
			}
			if d := cmp.Diff(times(6, c.want), got, cmpopts.EquateApprox(0, 1)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRegressionLabelsAreFloats(t *testing.T) {
	t.Parallel()
	p, err := prepare(t, "t.csv", []byte("x,y\n1,0.5\n2,-3\n3,1e3\n4,7\n"), plain8(1).with(func(o *Options) { o.Task, o.Label = Regression, "y" }))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"-3 [2]", "0.5 [1]", "1000 [3]", "7 [4]"}, contents(rowsOf(t, p))); d != "" {
		t.Error(d)
	}
	if p.Manifest.Classes != nil || p.Manifest.Splits.Train.Histogram != nil {
		t.Errorf("a regression has classes: %+v", p.Manifest)
	}
}

func TestClassesAreSortedByNumberOrName(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		labels, listed, want []string
	}{
		"integers by number":        {[]string{"10", "9", "-1"}, nil, []string{"-1", "9", "10"}},
		"text by bytes":             {[]string{"b", "B", "10"}, nil, []string{"10", "B", "b"}},
		"as listed":                 {[]string{"x", "y"}, []string{"y", "x"}, []string{"y", "x"}},
		"numbers of listed classes": {[]string{"1", "0", "y"}, []string{"y", "x"}, []string{"y", "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newClasses(c.listed)
			for _, label := range slices.Concat(c.labels, c.labels, c.labels) {
				if err := k.add(label, 0); err != nil {
					t.Fatal(err)
				}
			}
			k.sort()
			if err := k.check(); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, k.names); d != "" {
				t.Error(d)
			}
			for _, label := range c.want {
				if i, err := k.number(label); err != nil || k.names[i] != label {
					t.Errorf("%q has number %d (%v)", label, i, err)
				}
			}
		})
	}
}
