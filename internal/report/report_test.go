package report

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/insitu-ml/insitu/internal/evaluation"
)

// scored makes the metrics of a model that is right with the given probability, on the same rows for the same seed.
func scored(t *testing.T, classes []string, rows int, skill float64, mistakes int) *evaluation.Scores {
	t.Helper()
	s, err := evaluation.New(evaluation.Classification, classes, mistakes)
	if err != nil {
		t.Fatal(err)
	}
	labels, luck := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, uint64(skill*1e6)))
	p := evaluation.Pack{ID: 7, N: rows}
	for range rows {
		label := labels.IntN(len(classes))
		said := label
		if luck.Float64() > skill {
			said = (label + 1 + luck.IntN(2)*5) % len(classes)
		}
		p.Labels = binary.LittleEndian.AppendUint32(p.Labels, uint32(label))
		sure := 0.55 + 0.44*luck.Float64()
		for c := range classes {
			v := (1 - sure) / float64(len(classes)-1)
			if c == said {
				v = sure
			}
			p.Predictions = binary.LittleEndian.AppendUint32(p.Predictions, math.Float32bits(float32(v)))
		}
	}
	if err := s.Add(p); err != nil {
		t.Fatal(err)
	}
	return s
}

func names(k int, format string) []string {
	out := make([]string, k)
	for i := range out {
		out[i] = fmt.Sprintf(format, i)
	}
	return out
}

// disc draws a soft ring: something to see without a dataset.
func disc(seed int, l Layout) []byte {
	var out []byte
	for y := range l.Height {
		for x := range l.Width {
			r := math.Hypot(float64(x)-float64(l.Width)/2+.5, float64(y)-float64(l.Height)/2+.5) - float64(l.Width)*(.2+.02*float64(seed%7))
			for c := range l.Channels {
				out = append(out, byte(float64(16+239*min(1, l.Channels-1)*(c+1)/3)*math.Exp(-r*r/float64(l.Width)*2)))
			}
		}
	}
	return out
}

func sample(t *testing.T) Report {
	t.Helper()
	classes := names(10, "%d")
	candidate, champion := scored(t, classes, 270, 0.97, 12), scored(t, classes, 270, 0.965, 0)
	comparison, err := evaluation.Compare(candidate, champion)
	if err != nil {
		t.Fatal(err)
	}
	r := Report{
		Model: "digits", Version: "4", Alias: "staging", Tolerance: 0.01, Candidate: candidate.Metrics(),
		Champion: &evaluation.Champion{Version: "3", Metrics: champion.Metrics(), Comparison: comparison},
		Notes:    []string{"Champion version 3 was trained on dataset 3f2a9c01, which may share rows with this test split."},
		Sweep: &Sweep{Parameters: []string{"epochs", "learning_rate"}, Contenders: []Contender{
			{Version: "3", Values: []string{"5", "0.02"}, Loss: 0.214, Accuracy: 0.941},
			{Version: "4", Values: []string{"10", "0.02"}, Loss: 0.1081, Accuracy: 0.974, Chosen: true},
			{Version: "5", Values: []string{"10", "0.005"}, Loss: 0.35, Accuracy: 0.9},
		}},
		BestEpoch: 9,
		Dataset: Dataset{
			Facts: []Fact{{"Dataset", "digits.csv"}, {"Format", "csv"}, {"Digest", strings.Repeat("9b3fe0c2", 8)}},
			Splits: []Split{
				{"train", 1257, []int64{125, 128, 124, 129, 126, 127, 127, 125, 121, 125}},
				{"validation", 270, []int64{27, 27, 26, 28, 27, 27, 27, 27, 27, 27}},
				{"test", 270, []int64{26, 27, 27, 26, 28, 28, 27, 27, 26, 28}},
			},
		},
		Placement: []Shard{{0, "session 4711", 629, 3, 41210, 0.0153}, {1, "session 4712", 628, 3, 40688, 0.0154}}, Skew: 1.003,
		Origin:     []Fact{{"Code digest", strings.Repeat("51c0ffee", 8)}, {"Job", strings.Repeat("ab12", 16)}, {"git", "4f6c1d2"}},
		Parameters: []Fact{{"epochs", "10"}, {"learning_rate", "0.02"}, {"seed", "0"}},
		Libraries:  []Fact{{"python", "3.11.2"}, {"numpy", "1.24.2"}},
	}
	r.Decision = evaluation.Decide(r.Candidate, r.Champion, evaluation.Thresholds{MinAccuracy: 0.95, MinF1: 0.95, Tolerance: 0.01})
	for i := range 11 {
		e := float64(i)
		r.Curve = append(r.Curve, Epoch{i, 2.2*math.Exp(-e/2) + .04, 2.1*math.Exp(-e/2) + .09 + .002*e, 1 - .88*math.Exp(-e/1.5), 1 - .89*math.Exp(-e/1.5) - .02})
	}
	r.Curve[0].TrainLoss, r.Curve[0].TrainScore = math.NaN(), math.NaN()
	layout, _ := LayoutOf([]int{8, 8}, "uint8")
	var raw [][]byte
	for _, m := range r.Candidate.Worst {
		raw = append(raw, disc(m.Row, layout))
	}
	pictures, err := Pictures(layout, raw)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range r.Candidate.Worst {
		r.Mistakes = append(r.Mistakes, Mistake{Mistake: m, Picture: pictures[i]})
	}
	return r
}

// failing is a first, tabular, model that fails, with names that try to break the page.
func failing(t *testing.T) Report {
	t.Helper()
	const evil = `</style><script>alert(1)</script>"'&`
	r := Report{
		Model: "iris" + evil, Version: "1", Alias: "staging", BestEpoch: 1,
		Sweep:     &Sweep{Parameters: []string{evil}, Contenders: []Contender{{Version: "1", Values: []string{evil}, Loss: 0.95, Accuracy: math.NaN(), Chosen: true}}},
		Candidate: scored(t, []string{"setosa", "versicolor", evil}, 23, 0.7, 6).Metrics(),
		Curve:     []Epoch{{1, 0.9, 0.95, 0.6, math.NaN()}},
		Features:  append([]string{"sepal length", evil}, names(30, "f%d")...),
		Dataset:   Dataset{Facts: []Fact{{evil, evil}}, Splits: []Split{{evil, 23, nil}}},
		Origin:    []Fact{{"Code digest", evil}}, Notes: []string{evil},
	}
	r.Decision = evaluation.Decide(r.Candidate, nil, evaluation.Thresholds{MinAccuracy: 0.9})
	for _, m := range r.Candidate.Worst {
		r.Mistakes = append(r.Mistakes, Mistake{Mistake: m, Features: []float64{5.1, 3.5, math.NaN(), 1e-7}})
	}
	return r
}

func regression(t *testing.T) Report {
	t.Helper()
	s, err := evaluation.New(evaluation.Regression, nil, 4)
	if err != nil {
		t.Fatal(err)
	}
	labels, _ := binary.Append(nil, binary.LittleEndian, []float32{1, 2, 3, 4.5})
	estimates, _ := binary.Append(nil, binary.LittleEndian, []float32{1.1, 1.7, 3.2, 4.4})
	if err := s.Add(evaluation.Pack{ID: 1, N: 4, Labels: labels, Predictions: estimates}); err != nil {
		t.Fatal(err)
	}
	r := Report{Model: "price", Version: "2", Alias: "staging", Candidate: s.Metrics(), Features: []string{"area"},
		Champion: &evaluation.Champion{Version: "1", Incomparable: "its input is 3 features"}}
	r.Decision = evaluation.Decide(r.Candidate, r.Champion, evaluation.Thresholds{MinAccuracy: 0.5})
	for _, m := range r.Candidate.Worst {
		r.Mistakes = append(r.Mistakes, Mistake{Mistake: m, Features: []float64{42}})
	}
	return r
}

var update = flag.Bool("update", false, "rewrite the golden files")

func TestPagesAreAsReviewed(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]Report{"passed": sample(t), "failed": failing(t), "regression": regression(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := r.HTML()
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".html")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("run with -update and look at the page in a browser (-want +got):\n%s", d)
			}
		})
	}
}

// Argo serves artifacts with default-src 'none'; img-src 'self'; style-src 'unsafe-inline' and without scripts.
func TestPagesNeedNothingThatStrictPoliciesBlock(t *testing.T) {
	t.Parallel()
	void := map[string]bool{"meta": true, "br": true}
	for name, r := range map[string]Report{"passed": sample(t), "failed": failing(t), "regression": regression(t)} {
		page, err := r.HTML()
		if err != nil {
			t.Fatal(err)
		}
		var open []string
		for z := html.NewTokenizer(strings.NewReader(string(page))); ; {
			kind := z.Next()
			if kind == html.ErrorToken {
				if z.Err() != io.EOF {
					t.Errorf("%s: %v", name, z.Err())
				}
				break
			}
			token := z.Token()
			switch kind {
			case html.StartTagToken:
				if !void[token.Data] {
					open = append(open, token.Data)
				}
			case html.EndTagToken:
				if len(open) == 0 || open[len(open)-1] != token.Data {
					t.Fatalf("%s: </%s> closes %v", name, token.Data, open)
				}
				open = open[:len(open)-1]
			}
			if kind != html.StartTagToken && kind != html.SelfClosingTagToken {
				continue
			}
			switch token.Data {
			case "script", "link", "img", "iframe", "object", "embed", "image", "use", "form", "base":
				t.Errorf("%s: has a <%s>", name, token.Data)
			}
			for _, a := range token.Attr {
				if strings.HasPrefix(a.Key, "on") || a.Key == "src" || a.Key == "href" || strings.Contains(a.Val, "ZgotmplZ") {
					t.Errorf("%s: <%s %s=%q>", name, token.Data, a.Key, a.Val)
				}
			}
		}
		if len(open) > 0 {
			t.Errorf("%s: not closed: %v", name, open)
		}
		for _, bad := range []string{"url(", "@import", "NaN", "ZgotmplZ", "http:", "https:"} {
			if strings.Contains(string(page), bad) && !(bad == "NaN" && name == "failed") {
				t.Errorf("%s: contains %q", name, bad)
			}
		}
	}
}

func TestTheSameReportGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	a, err := sample(t).HTML()
	if err != nil {
		t.Fatal(err)
	}
	b, err := sample(t).HTML()
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Error("two renderings differ")
	}
}

func TestManyClassesAreCutToTheWorst(t *testing.T) {
	t.Parallel()
	r := Report{Model: "many", Version: "1", Candidate: scored(t, names(200, "class %d"), 3000, 0.8, 0).Metrics()}
	page, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	if len(page) > 60_000 || strings.Contains(string(page), `<table class="matrix`) {
		t.Errorf("%d bytes, want a short page without a matrix of 40,000 cells", len(page))
	}
	if !strings.Contains(string(page), "The 40 classes with the lowest F1, of 200") {
		t.Error("does not say that classes are left out")
	}
}

func TestPicturesReproducePixels(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		shape []int
		dtype string
		data  []byte
		want  []ColourPath
	}{
		"rows, columns, channels": {[]int{4, 4, 3}, "uint8", append([]byte{255, 0, 0}, make([]byte, 45)...),
			[]ColourPath{{"#000000", "M1 0.5h3M0 1.5h4M0 2.5h4M0 3.5h4"}, {"#ff0000", "M0 0.5h1"}}},
		"channels first": {[]int{3, 4, 4}, "uint8", append(append(make([]byte, 16), 0, 0, 255), make([]byte, 29)...),
			[]ColourPath{{"#000000", "M0 0.5h2M3 0.5h1M0 1.5h4M0 2.5h4M0 3.5h4"}, {"#00ff00", "M2 0.5h1"}}},
		"bytes that stay small are brightened": {[]int{4, 4}, "uint8", append(make([]byte, 15), 16),
			[]ColourPath{{"#000000", "M0 0.5h4M0 1.5h4M0 2.5h4M0 3.5h3"}, {"#ffffff", "M3 3.5h1"}}},
		"floats are scaled from the smallest": {[]int{4, 4}, "float32", floats(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, float32(math.NaN()), 1),
			[]ColourPath{{"#000000", "M0 0.5h4M0 1.5h4M0 2.5h4M0 3.5h3"}, {"#ffffff", "M3 3.5h1"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, ok := LayoutOf(test.shape, test.dtype)
			if !ok {
				t.Fatal("not a picture")
			}
			got, err := Pictures(l, [][]byte{test.data})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&Picture{4, 4, test.want}, got[0]); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestLargePicturesAreThinnedOut(t *testing.T) {
	t.Parallel()
	l, ok := LayoutOf([]int{1000, 300, 1}, "uint8")
	if !ok {
		t.Fatal("not a picture")
	}
	got, err := Pictures(l, [][]byte{make([]byte, l.Size())})
	if err != nil || got[0].Height > maxSide || got[0].Width != 15 {
		t.Errorf("%d x %d, %v", got[0].Width, got[0].Height, err)
	}
	if _, err := Pictures(l, [][]byte{make([]byte, 5)}); err == nil {
		t.Error("5 bytes became a picture of 1000 x 300")
	}
}

func TestShapesThatAreNoPictures(t *testing.T) {
	t.Parallel()
	for _, shape := range [][]int{nil, {64}, {2, 3}, {32, 32, 4}, {1, 3, 32, 32}, {1 << 20, 4}, {-8, 8}} {
		if l, ok := LayoutOf(shape, "uint8"); ok {
			t.Errorf("shape %v is the picture %+v", shape, l)
		}
	}
	if _, ok := LayoutOf([]int{8, 8}, "float64"); ok {
		t.Error("float64 is a picture")
	}
}

func floats(v ...float32) []byte {
	b, _ := binary.Append(nil, binary.LittleEndian, v)
	return b
}

func TestTicksAreRoundAndEnclose(t *testing.T) {
	t.Parallel()
	tests := []struct {
		low, high float64
		want      string
	}{
		{0.04, 2.2, "0.0 0.5 1.0 1.5 2.0 2.5"},
		{0.1, 0.98, "0.0 0.2 0.4 0.6 0.8 1.0"},
		{-3, 12, "-5 0 5 10 15"},
		{0.5, 0.5, "0.40 0.45 0.50 0.55 0.60"},
		{0, 0, "-0.10 -0.05 0.00 0.05 0.10"},
		{1e-5, 9e-5, "0.00000 0.00002 0.00004 0.00006 0.00008 0.00010"},
	}
	for _, test := range tests {
		all := ticks(test.low, test.high, 5)
		var got []string
		for _, v := range all {
			got = append(got, tickText(v, all))
		}
		if s := strings.Join(got, " "); s != test.want {
			t.Errorf("ticks(%g, %g) = %q, want %q", test.low, test.high, s, test.want)
		}
	}
}

func TestNumbersReadWell(t *testing.T) {
	t.Parallel()
	got := map[string]string{
		"thousands(1797)": thousands(1797), "thousands(-12)": thousands(-12), "thousands(1234567)": thousands(1234567), "thousands(-123)": thousands(-123),
		"signed(0.0001)": signed(0.0001), "signed(-0.02)": signed(-0.02), "signed(0.5)": signed(0.5),
		"decimals(0.00123)": decimals(0.00123), "decimals(0.98123)": decimals(0.98123), "decimals(NaN)": decimals(math.NaN()), "decimals(0)": decimals(0),
		"pValue(0.00001)": pValue(0.00001), "pValue(0.5)": pValue(0.5),
	}
	want := map[string]string{
		"thousands(1797)": "1,797", "thousands(-12)": "-12", "thousands(1234567)": "1,234,567", "thousands(-123)": "-123",
		"signed(0.0001)": "±0", "signed(-0.02)": "−0.020", "signed(0.5)": "+0.500",
		"decimals(0.00123)": "0.00123", "decimals(0.98123)": "0.981", "decimals(NaN)": "–", "decimals(0)": "0.000",
		"pValue(0.00001)": "< 0.001", "pValue(0.5)": "= 0.500",
	}
	if d := cmp.Diff(want, got); d != "" {
		b, _ := json.Marshal(got)
		t.Errorf("%s\n(-want +got):\n%s", b, d)
	}
}
