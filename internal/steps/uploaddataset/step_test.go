package uploaddataset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/step/steptest"
)

func TestTheSpecIsValid(t *testing.T) {
	t.Parallel()
	if err := Spec().Check(); err != nil {
		t.Error(err)
	}
}

// table is a CSV of n rows in two classes.
func table(n int) string {
	var b strings.Builder
	b.WriteString("u,class,v\n")
	for i := range n {
		fmt.Fprintf(&b, "%d,%s,%d\n", i%200, []string{"no", "yes"}[i%2], i%7)
	}
	return b.String()
}

// appOf makes an ML app whose data lies beside its manifest.
func appOf(t *testing.T, data string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"insitu.yaml": "name: t\nmodel: t\ntask: classification\ninput: {shape: [2], dtype: uint8}\ndataset: {source: t.csv, label: class}\n",
		"learner.py":  "class Learner:\n    pass\n",
		"t.csv":       data,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// run runs the step in this world with an empty work directory, which must be empty again afterwards.
func (w *world) run(t *testing.T, flags map[string]string) steptest.Result {
	t.Helper()
	all := maps.Clone(w.flags)
	work := t.TempDir()
	all["work-dir"] = work
	maps.Copy(all, flags)
	r := steptest.Run(t, Spec(), all)
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Errorf("the work directory holds %v (%v)", left, err)
	}
	if secret := w.flags["s3-secret-access-key"]; strings.Contains(r.Stderr+r.Message, secret) {
		t.Error("the secret shows in the log")
	}
	if r.Stdout != "" {
		t.Errorf("standard output: %q", r.Stdout)
	}
	return r
}

// empty fails the test if anything is in the world.
func (w *world) empty(t *testing.T) {
	t.Helper()
	var n int
	if err := w.db.QueryRow(context.Background(), "select count(*) from pg_namespace where nspname = $1", w.flags["schema"]).Scan(&n); err != nil || n != 0 {
		t.Errorf("the schema is there (%v)", err)
	}
	if there, err := w.store.Exists(context.Background()); err != nil || there {
		t.Errorf("the bucket is there: %v (%v)", there, err)
	}
}

func TestADatasetIsUploadedOnceFromEverywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	data := table(1000)
	app := appOf(t, data)
	packed, err := mlapp.Pack(app)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/app.tar.gz":
			_, _ = rw.Write(packed)
		case "/t.csv":
			_, _ = rw.Write([]byte(data))
		}
	}))
	t.Cleanup(server.Close)

	first := w.run(t, map[string]string{"app": app})
	if first.Code != 0 {
		t.Fatal(first.Message)
	}
	digest := first.Outputs["dataset-digest"]
	text, size, err := w.store.Open(context.Background(), "", dataset.ManifestObject(digest))
	if err != nil {
		t.Fatal(err)
	}
	_ = text.Close()
	want := map[string]string{
		"dataset-digest": digest, "dataset-table": "packs_" + digest[:16], "rows": "1000", "train-rows": "705", "validation-rows": "145", "test-rows": "150",
		"classes": "2", "bytes-uploaded": fmt.Sprint(int64(len(data)) + size), "rows-loaded": "1000",
	}
	if d := cmp.Diff(want, first.Outputs); d != "" {
		t.Error(d)
	}

	m, err := dataset.Find(context.Background(), w.db, w.flags["schema"], digest)
	if err != nil || m == nil {
		t.Fatal(m, err)
	}
	want["bytes-uploaded"], want["rows-loaded"] = "0", "0"
	for name, flags := range map[string]map[string]string{
		"again": {"app": app},
		"the app as an archive that holds the data":  {"app": server.URL + "/app.tar.gz"},
		"the data from a web server":                 {"app": app, "dataset": server.URL + "/t.csv"},
		"the data from a file":                       {"app": app, "dataset": "file:" + filepath.Join(app, "t.csv")},
		"the data from the object store, raw":        {"app": app, "dataset": "s3://" + w.flags["s3-bucket"] + "/" + m.Raw.Object},
		"a limit that suffices, and the same format": {"app": app, "max-bytes": "100000", "label": "class"},
	} {
		r := w.run(t, flags)
		if d := cmp.Diff(want, r.Outputs); d != "" || r.Code != 0 {
			t.Errorf("%s: exit code %d, %s\n%s", name, r.Code, r.Message, d)
		}
	}

	// As after a death between the commit and the manifest's upload.
	if err := w.store.Remove(context.Background(), dataset.ManifestObject(digest)); err != nil {
		t.Fatal(err)
	}
	want["bytes-uploaded"] = fmt.Sprint(size)
	if d := cmp.Diff(want, w.run(t, map[string]string{"app": app}).Outputs); d != "" {
		t.Error(d)
	}

	other := w.run(t, map[string]string{"app": app, "shards": "3"})
	if other.Code != 0 || other.Outputs["dataset-digest"] == digest || other.Outputs["rows-loaded"] != "1000" {
		t.Errorf("other shards: %d %s %v", other.Code, other.Message, other.Outputs)
	}
}

func TestALearnersMostShardsCapThoseAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	app := appOf(t, table(1000))
	one := w.run(t, map[string]string{"app": app, "shards": "1"})
	manifest := filepath.Join(app, "insitu.yaml")
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, append(text, "max_shards: 1\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	capped := w.run(t, map[string]string{"app": app, "shards": "3"})
	if one.Code != 0 || capped.Code != 0 || capped.Outputs["dataset-digest"] != one.Outputs["dataset-digest"] {
		t.Errorf("digest %q, expected that of one shard, %q\n%s%s", capped.Outputs["dataset-digest"], one.Outputs["dataset-digest"], one.Message, capped.Message)
	}
	if !strings.Contains(capped.Stderr, `"asked":3`) {
		t.Errorf("the log does not say that 3 shards were asked for:\n%s", capped.Stderr)
	}
}

func TestTenantsThatUploadTheSameFileAtOnceSendItOnce(t *testing.T) {
	t.Parallel()
	a, b := newWorld(t), newWorld(t)
	b.flags["s3-bucket"] = a.flags["s3-bucket"]
	app := appOf(t, table(200_000))
	raw, err := os.Stat(filepath.Join(app, "t.csv"))
	if err != nil {
		t.Fatal(err)
	}
	results := make([]steptest.Result, 2)
	var both sync.WaitGroup
	for i, w := range []*world{a, b} {
		both.Go(func() { results[i] = w.run(t, map[string]string{"app": app}) })
	}
	both.Wait()
	var sent int64
	for _, r := range results {
		if r.Code != 0 {
			t.Fatal(r.Message)
		}
		n, err := strconv.ParseInt(r.Outputs["bytes-uploaded"], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	if sent >= 2*raw.Size() {
		t.Errorf("%d bytes sent, expected the file of %d bytes once", sent, raw.Size())
	}
}

func TestBadInputEndsTheStepAndLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := table(100)
	for name, c := range map[string]struct{ data, want string }{
		"a ragged row":    {good + "1,yes\n", `dataset "t.csv": line 102: 2 fields`},
		"an unknown cell": {good + "x,yes,1\n", `line 102: column "u"`},
		"an empty file":   {"", "the file is empty"},
		"one class":       {"u,class,v\n1,a,2\n1,a,2\n1,a,2\n", `all rows have the label "a"`},
	} {
		r := w.run(t, map[string]string{"app": appOf(t, c.data)})
		if r.Code != 1 || !strings.Contains(r.Message, c.want) || len(r.Outputs) != 0 {
			t.Errorf("%s: exit code %d, %q, outputs %v; want %q", name, r.Code, r.Message, r.Outputs, c.want)
		}
		w.empty(t)
	}
}

func TestFaultsAroundTheStepHaveTheirExitCodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	app := appOf(t, table(100))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	_, port, _ := net.SplitHostPort(closed.Addr().String())
	for name, c := range map[string]struct {
		flags map[string]string
		code  int
		want  string
	}{
		"a web server that is not there": {map[string]string{"dataset": "http://" + closed.Addr().String() + "/t.csv"}, 75, "connection refused"},
		"an S3 server that is not there": {map[string]string{"s3-endpoint": "http://" + closed.Addr().String()}, 75, "connection refused"},
		"a database that is not there":   {map[string]string{"training-port": port}, 75, "connection refused"},
		"a database of another name":     {map[string]string{"training-database": "nosuch"}, 2, "nosuch"},
		"a wrong S3 secret":              {map[string]string{"s3-secret-access-key": "wrong-secret"}, 2, "HTTP 403"},
		"a file that is not there":       {map[string]string{"dataset": "/no/such/file"}, 2, "/no/such/file"},
		"settings that are not valid":    {map[string]string{"split": "0.7,0.3", "csv-delimiter": "ab", "schema": "a b"}, 2, "3 settings are not valid"},
		"a split of more than all":       {map[string]string{"split": "0.7,0.3,0.3"}, 2, "add up to"},
		"epochs that are no number":      {map[string]string{"epochs": "abc"}, 2, "--epochs"},
		"a parameter the app has not":    {map[string]string{"parameters": `{"rate": 1}`}, 2, `parameter "rate" is not declared`},
		"two numbers of epochs":          {map[string]string{"epochs": "2", "parameters": `{"epochs": 3}`}, 2, "--epochs is 2 and --parameters says 3"},
		"a sweep of no list":             {map[string]string{"sweep": `{"epochs": 3}`}, 2, `sweep: parameter "epochs": expected a list of values`},
		"a sweep of what is set":         {map[string]string{"epochs": "2", "sweep": `{"epochs": [3, 4], "rate": [1]}`}, 2, `parameter "epochs" has a value and a sweep`},
		"an app that is not there":       {map[string]string{"app": "/no/such/app"}, 2, "/no/such/app"},
	} {
		flags := map[string]string{"app": app}
		maps.Copy(flags, c.flags)
		r := w.run(t, flags)
		if r.Code != c.code || !strings.Contains(r.Message, c.want) {
			t.Errorf("%s: exit code %d, %q; want %d, %q", name, r.Code, r.Message, c.code, c.want)
		}
		w.empty(t)
	}
}

func TestSplitsAndDelimitersAreParsed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]rune{",": 0, "tab": '\t', ";": ';', "|": '|', "€": '€'} {
		if got, err := parseDelimiter(text); err != nil || got != want {
			t.Errorf("%q: %q (%v)", text, got, err)
		}
	}
	for _, text := range []string{"", ";;", "\xff"} {
		if _, err := parseDelimiter(text); err == nil {
			t.Errorf("delimiter %q was accepted", text)
		}
	}
	if got, err := parseSplit(" 0.5, 0.25,0.25"); err != nil || got != [3]float64{0.5, 0.25, 0.25} {
		t.Error(got, err)
	}
	for _, text := range []string{"", "1", "a,b,c", "0.5,0.25,0.125,0.125"} {
		if _, err := parseSplit(text); err == nil || errors.Unwrap(err) != nil {
			t.Errorf("split %q: %v", text, err)
		}
	}
}
