package dataset

import (
	"context"
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

func TestQuotasAreTheNearestWithAtLeastOneEach(t *testing.T) {
	t.Parallel()
	f := [3]float64{0.7, 0.15, 0.15}
	for n, want := range map[int64][3]int64{3: {1, 1, 1}, 4: {2, 1, 1}, 10: {7, 2, 1}, 20: {14, 3, 3}, 100: {70, 15, 15}, 178: {124, 27, 27}, 1e12: {7e11, 1.5e11, 1.5e11}} {
		if got := quotas(n, f); got != want {
			t.Errorf("%d rows: %v, want %v", n, got, want)
		}
	}
	for n := int64(3); n < 3000; n++ {
		for _, f := range [][3]float64{f, {0.8, 0.1, 0.1}, {0.98, 0.01, 0.01}, {1.0 / 3, 1.0 / 3, 1.0 / 3}} {
			q := quotas(n, f)
			if q[0]+q[1]+q[2] != n || slices.Min(q[:]) < 1 {
				t.Fatalf("%d rows by %v: %v", n, f, q)
			}
			for i := range q {
				if d := math.Abs(float64(q[i]) - float64(n)*f[i]); d > 2 {
					t.Fatalf("%d rows by %v: %v", n, f, q)
				}
			}
		}
	}
}

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

func TestTheSplitIsExactlyStratifiedAndEveryRowIsInItOnce(t *testing.T) {
	t.Parallel()
	o := shaped(Float32, 1)
	o.Shards = 3
	p, err := prepare(t, "t.csv", numbered(1000), o)
	if err != nil {
		t.Fatal(err)
	}
	want := Splits{
		Train:      SplitCount{Rows: 700, Packs: 175, Histogram: []int64{70, 630}},
		Validation: SplitCount{Rows: 150, Packs: 38, Histogram: []int64{15, 135}},
		Test:       SplitCount{Rows: 150, Packs: 38, Histogram: []int64{15, 135}},
	}
	if d := cmp.Diff(want, p.Manifest.Splits); d != "" {
		t.Error(d)
	}
	got := map[string]map[string]int64{}
	seen := map[float64]bool{}
	for _, r := range rowsOf(t, p) {
		if got[r.Split] == nil {
			got[r.Split] = map[string]int64{}
		}
		got[r.Split][r.Label]++
		if seen[r.Values[0]] || (r.Label == "rare") != (int(r.Values[0])%10 == 0) {
			t.Fatalf("%v came twice or with a wrong label", r)
		}
		seen[r.Values[0]] = true
	}
	if d := cmp.Diff(map[string]map[string]int64{"train": {"rare": 70, "usual": 630}, "validation": {"rare": 15, "usual": 135}, "test": {"rare": 15, "usual": 135}}, got); d != "" {
		t.Error(d)
	}
	shards := map[string]map[int32]int{}
	id := int64(0)
	for pack, err := range p.Packs() {
		if err != nil || pack.ID != id {
			t.Fatalf("pack %d has id %d (%v)", id, pack.ID, err)
		}
		id++
		if shards[pack.Split] == nil {
			shards[pack.Split] = map[int32]int{}
		}
		shards[pack.Split][pack.Shard]++
	}
	if d := cmp.Diff(map[string]map[int32]int{"train": {0: 59, 1: 58, 2: 58}, "validation": {0: 13, 1: 13, 2: 12}, "test": {0: 13, 1: 13, 2: 12}}, shards); d != "" {
		t.Error(d)
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
	base := digest("t.csv", table6, plain8(2))
	if digest("other", table6, plain8(2).with(func(o *Options) { o.MaxBytes-- })) != base {
		t.Error("the name or a limit changes the digest")
	}
	for name, change := range map[string]func(*Options){
		"the seed":      func(o *Options) { o.Split.Seed = 1 },
		"the fractions": func(o *Options) { o.Split.Fractions = [3]float64{0.6, 0.2, 0.2} },
		"the pack size": func(o *Options) { o.PackSize = 5 },
		"the dtype":     func(o *Options) { o.Input.DType = Float32 },
		"the range":     func(o *Options) { o.Input.Range = &[2]float64{0, 9} },
		"the classes":   func(o *Options) { o.Labels = []string{"b", "a"} },
		"the columns":   func(o *Options) { o.Columns = []string{"v", "u"} },
		"the label":     func(o *Options) { o.Label = "label" },
	} {
		if digest("t.csv", table6, plain8(2).with(change)) == base {
			t.Errorf("%s does not change the digest", name)
		}
	}
	if digest("t.csv", table6+"1,a,2\n", plain8(2)) == base {
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
	write(table6)
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
	write(table6 + "1,a,2\n")
	if _, err := plan.Prepare(ctx, t.TempDir()); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Error(err)
	}
}

func TestManifestsSurviveStorage(t *testing.T) {
	t.Parallel()
	p, err := prepare(t, "t.csv", []byte(table6), plain8(2))
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
