package dataset

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// numbered is a CSV of n rows whose value is their number; every tenth row is of class "rare".
func numbered(n int) []byte {
	var b strings.Builder
	b.WriteString("x,label\n")
	for i := range n {
		class := "usual"
		if i%10 == 0 {
			class = "rare"
		}
		fmt.Fprintf(&b, "%d,%s\n", i, class)
	}
	return []byte(b.String())
}

func float32s(values ...float64) (b []byte) {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v)))
	}
	return b
}

// splitsOf is the split of each value of a dataset with one feature. Copies must share it.
func splitsOf(t *testing.T, p *Prepared) map[float64]string {
	t.Helper()
	out := map[float64]string{}
	for _, r := range rowsOf(t, p) {
		if before, ok := out[r.Values[0]]; ok && before != r.Split {
			t.Fatalf("copies of %v are in %s and %s", r.Values[0], before, r.Split)
		}
		out[r.Values[0]] = r.Split
	}
	return out
}

func TestTheSplitHasTheFractionsAndEveryRowIsInItOnce(t *testing.T) {
	t.Parallel()
	const n = 10_000
	for seed := range uint64(3) {
		o := shaped(Float32, 1)
		o.Shards, o.Split.Seed = 3, seed
		p, err := prepare(t, "t.csv", numbered(n), o)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string][]int64{Train: {0, 0}, Validation: {0, 0}, Test: {0, 0}}
		seen := map[float64]bool{}
		for _, r := range rowsOf(t, p) {
			class := slices.Index(p.Manifest.Classes, r.Label)
			got[r.Split][class]++
			if seen[r.Values[0]] || (r.Label == "rare") != (int(r.Values[0])%10 == 0) {
				t.Fatalf("%v came twice or with a wrong label", r)
			}
			seen[r.Values[0]] = true
		}
		for i, name := range SplitNames() {
			c := p.Manifest.Splits.Of(name)
			if d := cmp.Diff(SplitCount{Rows: got[name][0] + got[name][1], Packs: (c.Rows + 3) / 4, Histogram: got[name]}, *c); d != "" {
				t.Errorf("seed %d: what was packed is not what the manifest says: %s", seed, d)
			}
			for class, rows := range []float64{n / 10, n * 9 / 10} {
				want := rows * o.Split.Fractions[i]
				// Beyond five standard deviations of a binomial draw it is no accident.
				if d := math.Abs(float64(got[name][class]) - want); d > 5*math.Sqrt(want*(1-o.Split.Fractions[i])) {
					t.Errorf("seed %d: %d rows of class %d for %s, expected about %.0f", seed, got[name][class], class, name, want)
				}
			}
		}
		shards := map[string][]int64{Train: {0, 0, 0}, Validation: {0, 0, 0}, Test: {0, 0, 0}}
		id := int64(0)
		for pack, err := range p.Packs() {
			if err != nil || pack.ID != id {
				t.Fatalf("pack %d has id %d (%v)", id, pack.ID, err)
			}
			id++
			shards[pack.Split][pack.Shard]++
		}
		for name, packs := range shards {
			if slices.Max(packs)-slices.Min(packs) > 1 || packs[0]+packs[1]+packs[2] != p.Manifest.Splits.Of(name).Packs {
				t.Errorf("the shards of %s have %v packs", name, packs)
			}
		}
	}
}

func TestARowStaysInItsSplitWhateverElseThereIs(t *testing.T) {
	t.Parallel()
	split := func(content []byte, change func(*Options)) map[float64]string {
		p, err := prepare(t, "t.csv", content, shaped(Float32, 1).with(change))
		if err != nil {
			t.Fatal(err)
		}
		return splitsOf(t, p)
	}
	rows := func(n int) []string { return strings.Split(strings.TrimSpace(string(numbered(n))), "\n")[1:] }
	table := func(rows ...string) string { return "x,label\n" + strings.Join(rows, "\n") + "\n" }
	reversed := rows(1000)
	slices.Reverse(reversed)
	want := split(numbered(1000), func(*Options) {})
	for name, c := range map[string]struct {
		content string
		change  func(*Options)
	}{
		"more rows":                    {table(rows(3000)...), func(*Options) {}},
		"the rows in another order":    {table(reversed...), func(*Options) {}},
		"every row twice":              {table(times(2, rows(1000)...)...), func(*Options) {}},
		"one more class":               {table(append(rows(1000), "-1,another", "-2,another", "-3,another", "-4,another")...), func(*Options) {}},
		"labels that were corrected":   {strings.ReplaceAll(table(rows(1000)...), "7,usual", "7,rare"), func(*Options) {}},
		"other packs and other shards": {table(rows(1000)...), func(o *Options) { o.PackSize, o.Shards = 7, 3 }},
	} {
		got := split([]byte(c.content), c.change)
		for value, split := range want {
			if got[value] != split {
				t.Errorf("with %s, row %v is for %s, and was for %s", name, value, got[value], split)
				break
			}
		}
	}
	moved := 0
	for value, split := range split(numbered(1000), func(o *Options) { o.Split.Seed = 1 }) {
		if want[value] != split {
			moved++
		}
	}
	// 1 - (0.7² + 0.15² + 0.15²) of the rows.
	if moved < 400 || moved > 530 {
		t.Errorf("with another seed %d of 1000 rows changed their split, expected about 465", moved)
	}
}

func TestNoSplitIsEmptyHoweverFewRowsThereAre(t *testing.T) {
	t.Parallel()
	regression := func(n int) []byte {
		return []byte(strings.NewReplacer(",usual", ",1", ",rare", ",2").Replace(string(numbered(n))))
	}
	for n := 3; n < 30; n++ {
		for seed := range uint64(20) {
			o := shaped(Float32, 1).with(func(o *Options) { o.Task, o.Split.Seed = Regression, seed })
			p, err := prepare(t, "t.csv", regression(n), o)
			if err != nil {
				t.Fatal(err)
			}
			at, m := o.Split.cuts(), p.Manifest
			var nominal [3]int64
			for i := range n {
				nominal[at.split(position(float32s(float64(i)), seed))]++
			}
			got := [3]int64{m.Splits.Train.Rows, m.Splits.Validation.Rows, m.Splits.Test.Rows}
			if full := slices.Min(nominal[:]) > 0; slices.Min(got[:]) < 1 || got[0]+got[1]+got[2] != int64(n) || full && (got != nominal || m.Cuts != at) {
				t.Fatalf("%d rows by seed %d: %v with cuts %v, the fractions say %v", n, seed, got, m.Cuts, nominal)
			}
			if len(splitsOf(t, p)) != n {
				t.Fatalf("%d rows by seed %d: rows are missing", n, seed)
			}
		}
	}
	// No fraction is too small, and none is too large.
	for _, f := range [][3]float64{{0.999998, 0.000001, 0.000001}, {0.000001, 0.000001, 0.999998}, {0.000001, 0.999998, 0.000001}} {
		p, err := prepare(t, "t.csv", regression(1000), shaped(Float32, 1).with(func(o *Options) { o.Task, o.Split.Fractions = Regression, f }))
		if err != nil {
			t.Fatal(err)
		}
		want := [3]int64{1, 1, 1}
		for i := range f {
			if f[i] > 0.5 {
				want[i] = 998
			}
		}
		if got := [3]int64{p.Manifest.Splits.Train.Rows, p.Manifest.Splits.Validation.Rows, p.Manifest.Splits.Test.Rows}; got != want {
			t.Errorf("1000 rows by %v: %v, want %v", f, got, want)
		}
	}
}

func TestTestRowsAreKnownToBeUnseenOnlyWhereTheSplitSaysSo(t *testing.T) {
	t.Parallel()
	manifest := func(n int, change func(*Options)) *Manifest {
		p, err := prepare(t, "t.csv", numbered(n), shaped(Float32, 1).with(change))
		if err != nil {
			t.Fatal(err)
		}
		return p.Manifest
	}
	mine := manifest(2000, func(*Options) {})
	old := *mine
	old.Version = 1
	named := *mine
	named.Columns = []string{"y"}
	for name, c := range map[string]struct {
		other *Manifest
		want  bool
	}{
		"fewer rows":                     {manifest(1000, func(*Options) {}), true},
		"other packs, shards and labels": {manifest(1000, func(o *Options) { o.PackSize, o.Shards, o.Labels = 7, 3, []string{"usual", "rare"} }), true},
		"a larger fraction for test":     {manifest(1000, func(o *Options) { o.Split.Fractions = [3]float64{0.6, 0.2, 0.2} }), true},
		"a smaller fraction for test":    {manifest(1000, func(o *Options) { o.Split.Fractions = [3]float64{0.8, 0.1, 0.1} }), false},
		"another seed":                   {manifest(1000, func(o *Options) { o.Split.Seed = 1 }), false},
		"another type of values":         {manifest(200, func(o *Options) { o.Input.DType = UInt8 }), false},
		"other columns":                  {&named, false},
		"a split drawn at random":        {&old, false},
	} {
		if got := mine.TestsUnseenBy(c.other); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

// What a seed means is part of a digest: this order must never change without a new ManifestVersion.
func TestASeedGivesTheSameSplitAndOrderForEver(t *testing.T) {
	t.Parallel()
	order := func(seed uint64) string {
		o := shaped(Float32, 1)
		o.Split.Seed = seed
		p, err := prepare(t, "t.csv", numbered(30), o)
		if err != nil {
			t.Fatal(err)
		}
		var first []string
		for _, r := range rowsOf(t, p) {
			first = append(first, fmt.Sprintf("%s%v", r.Split[:2], r.Values[0]))
		}
		return strings.Join(first, " ")
	}
	if got := order(0); got != order(0) {
		t.Error("two runs differ:", got)
	}
	if order(0) == order(1) {
		t.Error("two seeds give one order")
	}
	want, err := os.ReadFile(filepath.Join("testdata", "order.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.TrimSpace(string(want)), order(7)); d != "" {
		t.Error(d)
	}
}

func TestManySmallBucketsHoldEveryRowAndMixThem(t *testing.T) {
	t.Parallel()
	const n = 20_000
	m := &Manifest{Rows: n, Input: Input{Shape: []int{1}, DType: Float32}, Task: Regression, PackSize: 100, Shards: 1, Splits: Splits{Train: SplitCount{Rows: n}}}
	for name, record := range map[string]int{"buffered rows": 8, "rows larger than a buffer": chunkBytes + 8} {
		t.Run(name, func(t *testing.T) {
			m := *m
			m.Input.Shape = []int{(record - labelBytes) / 4}
			count := n
			if record > chunkBytes {
				count = 200
			}
			m.Rows, m.Splits.Train.Rows = int64(count), int64(count)
			b, err := newBuckets(t.TempDir(), &m, int64(record*count/16))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = b.close() }()
			if len(b.splits[0]) != 16 {
				t.Fatalf("%d buckets", len(b.splits[0]))
			}
			row := make([]byte, record)
			for i := range count {
				row[0], row[1], row[record-1] = byte(i), byte(i>>8), byte(i)
				if err := b.put(0, row); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.flush(); err != nil {
				t.Fatal(err)
			}
			p := &Prepared{Manifest: &m, buckets: b}
			seen := make([]bool, count)
			place, near := 0, 0
			for pack, err := range p.Packs() {
				if err != nil {
					t.Fatal(err)
				}
				for i := range int(pack.Rows) {
					k := int(pack.Labels[4*i]) | int(pack.Labels[4*i+1])<<8
					if seen[k] || pack.Data[(i+1)*m.Input.Bytes()-1] != byte(k) {
						t.Fatalf("row %d came twice or mixed up", k)
					}
					seen[k] = true
					if d := place - k; d > -count/10 && d < count/10 {
						near++
					}
					place++
				}
			}
			if place != count {
				t.Errorf("%d of %d rows", place, count)
			}
			// A uniform order leaves 19 % of the rows within a tenth of where they were.
			if share := float64(near) / float64(count); share < 0.1 || share > 0.28 {
				t.Errorf("%.0f %% of the rows stayed near their place", 100*share)
			}
		})
	}
}

func TestStatisticsAreThoseOfTheTrainSplit(t *testing.T) {
	t.Parallel()
	var lines strings.Builder
	lines.WriteString("a,b,c,d,label\n")
	for i := range 200 {
		fmt.Fprintf(&lines, "%d,7,%d,%d,k%d\n", i%50, 255-i, i*i%251, i%2)
	}
	for name, c := range map[string]struct {
		options Options
		shape   []int
		group   []int // group of each value
	}{
		"per feature, uint8":           {plain8(4), []int{4}, []int{0, 1, 2, 3}},
		"per feature, float32":         {shaped(Float32, 4), []int{4}, []int{0, 1, 2, 3}},
		"one channel":                  {shaped(UInt8, 2, 2), []int{1, 1}, []int{0, 0, 0, 0}},
		"one channel with an axis":     {shaped(Float32, 1, 2, 2), []int{1, 1, 1}, []int{0, 0, 0, 0}},
		"four values without a layout": {shaped(UInt8, 4, 1, 1), []int{1, 1, 1}, []int{0, 0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := prepare(t, "t.csv", []byte(lines.String()), c.options)
			if err != nil {
				t.Fatal(err)
			}
			values := make([][]float64, slices.Max(c.group)+1)
			want := InputStatistic{Shape: c.shape, Min: math.Inf(1), Max: math.Inf(-1)}
			for _, r := range rowsOf(t, p) {
				for i, x := range r.Values {
					want.Min, want.Max = min(want.Min, x), max(want.Max, x)
					if r.Split == Train {
						values[c.group[i]] = append(values[c.group[i]], x)
					}
				}
			}
			for _, all := range values {
				mean, square := 0.0, 0.0
				for _, x := range all {
					mean += x / float64(len(all))
				}
				for _, x := range all {
					square += (x - mean) * (x - mean) / float64(len(all))
				}
				want.Mean, want.Std = append(want.Mean, mean), append(want.Std, math.Sqrt(square))
			}
			if d := cmp.Diff(want, p.Manifest.Stats, cmpopts.EquateApprox(1e-12, 1e-12)); d != "" {
				t.Error(d)
			}
			if len(c.group) == len(values) && p.Manifest.Stats.Std[1] != 0 {
				t.Error("a constant has a deviation of", p.Manifest.Stats.Std[1])
			}
		})
	}
	p, err := prepare(t, "c.tar.gz", cifarOf(t), shaped(UInt8, 3, 32, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := p.Manifest.Stats
	if d := cmp.Diff([]int{3, 1, 1}, s.Shape); d != "" || len(s.Mean) != 3 || math.Abs(s.Mean[1]-s.Mean[0]-50) > 1e-9 || math.Abs(s.Mean[2]-s.Mean[1]-50) > 1e-9 {
		t.Errorf("CIFAR: %+v", s)
	}
}

func TestTheDigestDependsOnBytesAndOptionsAlone(t *testing.T) {
	t.Parallel()
	digest := func(name, content string, o Options) string {
		p, err := prepare(t, name, []byte(content), o)
		if err != nil {
			t.Fatal(err)
		}
		return p.Manifest.Digest
	}
	base := digest("t.csv", table24(), plain8(2))
	if digest("other", table24(), plain8(2).with(func(o *Options) { o.MaxBytes-- })) != base {
		t.Error("the name or a limit changes the digest")
	}
	for name, change := range map[string]func(*Options){
		"the seed":      func(o *Options) { o.Split.Seed = 1 },
		"the fractions": func(o *Options) { o.Split.Fractions = [3]float64{0.6, 0.2, 0.2} },
		"the pack size": func(o *Options) { o.PackSize = 5 },
		"the dtype":     func(o *Options) { o.Input.DType = Float32 },
		"the range":     func(o *Options) { o.Input.Range = &[2]float64{0, 200} },
		"the classes":   func(o *Options) { o.Labels = []string{"b", "a"} },
		"the columns":   func(o *Options) { o.Columns = []string{"v", "u"} },
		"the label":     func(o *Options) { o.Label = "label" },
	} {
		if digest("t.csv", table24(), plain8(2).with(change)) == base {
			t.Errorf("%s does not change the digest", name)
		}
	}
	if digest("t.csv", table24()+"1,a,2\n", plain8(2)) == base {
		t.Error("the content does not change the digest")
	}
}

func TestAFileThatChangesMeanwhileIsRefused(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "t.csv")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(table24())
	ctx := context.Background()
	f, err := Fetch(ctx, file, FetchOptions{MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	plan, err := NewPlan(ctx, f, plain8(2), nil)
	if err != nil {
		t.Fatal(err)
	}
	write(table24() + "1,a,2\n")
	if _, err := plan.Prepare(ctx, t.TempDir()); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Error(err)
	}
}

func TestManifestsSurviveStorage(t *testing.T) {
	t.Parallel()
	p, err := prepare(t, "t.csv", []byte(table24()), plain8(2))
	if err != nil {
		t.Fatal(err)
	}
	text, err := p.Manifest.JSON()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p.Manifest, got); d != "" {
		t.Error(d)
	}
	if _, err := ParseManifest([]byte(`{"version":99}`)); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Error(err)
	}
}
