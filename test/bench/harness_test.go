package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTheMedianIsTheMiddleAndTheOrderStays(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 2, 100}, 3},
	} {
		before := append([]float64(nil), test.values...)
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.values, got, test.want)
		}
		if diff := cmp.Diff(before, test.values); diff != "" {
			t.Errorf("the values were moved: %s", diff)
		}
	}
}

func TestRatiosArePairedRoundByRound(t *testing.T) {
	t.Parallel()
	// The machine was twice as slow in the second round: the ratio does not see it.
	got := paired([]float64{2, 4, 3}, []float64{1, 2, 1})
	if diff := cmp.Diff(sample{2, 2, 3, 3}, got, cmp.AllowUnexported(sample{})); diff != "" {
		t.Error(diff)
	}
	if got := paired([]float64{1, 2, 9}, []float64{1, 1}).rounds; got != 2 {
		t.Errorf("%d rounds, want those that have both sides", got)
	}
}

func TestTheTableSaysWhatIsMetAndHidesNothing(t *testing.T) {
	t.Parallel()
	got := table([]row{
		{group: "load", what: "a | b", goal: atLeast(0.95), unit: ratio, sample: sample{0.97, 0.9, 1.1, 5}},
		{group: "load", what: "slow", goal: atLeast(3.5), unit: times, sample: sample{3.49, 3.49, 3.49, 1}},
		{group: "start", what: "late", goal: atMost(1.1), unit: times, sample: sample{1.2, 1.1, 1.3, 20}},
		{group: "resume", what: "equal", goal: atLeast(1), unit: yes, sample: sample{0, 0, 0, 1}},
		{group: "train", what: "memory", unit: mebibytes, sample: sample{3 << 20, 2 << 20, 4 << 20, 2}},
		{group: "madlib", what: "peer", goal: atLeast(20), unit: times, missing: "X is not set"},
	})
	want := `| group | what | goal | measured: median (least .. most) | rounds | verdict |
|---|---|---|---|---|---|
| load | a \| b | ≥ 0.95 | 0.97 (0.90 .. 1.10) | 5 | met |
| load | slow | ≥ 3.5x | 3.49x | 1 | **not met** |
| start | late | ≤ 1.1x | 1.2x (1.1x .. 1.3x) | 20 | **not met** |
| resume | equal | yes | no | 1 | **not met** |
| train | memory |  | 3 MiB (2 MiB .. 4 MiB) | 2 |  |
| madlib | peer | ≥ 20x | X is not set |  | not measured |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheBlockBetweenTheMarksIsReplaced(t *testing.T) {
	t.Parallel()
	page := "prose\n" + beginMark + "\nold\n" + endMark + "\nmore prose\n"
	got, err := replaceBlock(page, "new\n\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "prose\n" + beginMark + "\nnew\n" + endMark + "\nmore prose\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if again, err := replaceBlock(got, "new"); err != nil || again != got {
		t.Errorf("a second time it changes: %v", err)
	}
	for name, broken := range map[string]string{
		"no marks":        "prose\n",
		"no end":          beginMark + "\nold\n",
		"the wrong order": endMark + "\n" + beginMark + "\n",
		"two blocks":      page + page,
	} {
		if _, err := replaceBlock(broken, "new"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestGroupsAreChosenByName(t *testing.T) {
	t.Parallel()
	all := []group{{name: "load"}, {name: "read"}, {name: "train"}}
	names := func(groups []group) (out []string) {
		for _, g := range groups {
			out = append(out, g.name)
		}
		return out
	}
	for only, want := range map[string]string{"": "load read train", "train,load": "load train"} {
		got, err := chosen(all, only)
		if err != nil || strings.Join(names(got), " ") != want {
			t.Errorf("-only=%q: %v, %v; want %s", only, names(got), err, want)
		}
	}
	if _, err := chosen(all, "load,laod"); err == nil || !strings.Contains(err.Error(), `"laod"`) {
		t.Errorf("a wrong name: error %v", err)
	}
}

func TestAQuantileIsTheLeastThatAShareDoesNotExceed(t *testing.T) {
	t.Parallel()
	values := []float64{5, 1, 4, 2, 3, 10, 9, 8, 7, 6}
	for share, want := range map[float64]float64{0.5: 5, 0.9: 9, 0.99: 10, 1: 10, 0: 1} {
		if got := quantile(values, share); got != want {
			t.Errorf("quantile %g is %g, want %g", share, got, want)
		}
	}
}

func TestClientsCountLabelsAndNothingElse(t *testing.T) {
	t.Parallel()
	status, seen := http.StatusOK, map[string]bool{}
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, header, err := r.FormFile("file")
		if err != nil {
			t.Error(err)
			return
		}
		_ = f.Close()
		mu.Lock()
		defer mu.Unlock()
		seen[header.Filename] = true
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`"cat"`))
	}))
	defer server.Close()
	p, err := pictures()
	if err != nil {
		t.Fatal(err)
	}
	bodies, kind, err := forms(p[:5])
	if err != nil {
		t.Fatal(err)
	}
	m, err := ask(t.Context(), server.URL, 3, 100*time.Millisecond, bodies, kind)
	if err != nil || m.requests < 5 || m.p50 <= 0 || m.p99 < m.p50 || m.rate < float64(m.requests)/10 || len(seen) != 5 {
		t.Errorf("%+v, %v, %d pictures seen, expected all five", m, err, len(seen))
	}
	mu.Lock()
	status = http.StatusServiceUnavailable
	mu.Unlock()
	if _, err := ask(t.Context(), server.URL, 3, 100*time.Millisecond, bodies, kind); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a server that turns requests away: %v", err)
	}
}
