package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/fault"
)

// answer is what the fake server replies with; it repeats the last one.
type answer struct {
	status int
	body   string
}

// fake records requests as "METHOD path body" and gives the answers of the first path that matches.
type fake struct {
	mu      sync.Mutex
	seen    []string
	auth    []string
	answers map[string][]answer // by "METHOD path"
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	f.seen = append(f.seen, strings.TrimSpace(r.Method+" "+strings.TrimPrefix(r.URL.Path, "/api/2.0/mlflow/")+" "+string(body)))
	f.auth = append(f.auth, r.Header.Get("Authorization"))
	key := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/2.0/mlflow/")
	list := f.answers[key]
	if len(list) == 0 {
		http.Error(w, `{"error_code":"ENDPOINT_NOT_FOUND","message":"no such endpoint"}`, http.StatusNotFound)
		return
	}
	if len(list) > 1 {
		f.answers[key] = list[1:]
	}
	w.WriteHeader(list[0].status)
	_, _ = io.WriteString(w, list[0].body)
}

func start(t *testing.T, c Config, answers map[string][]answer) (*Client, *fake) {
	t.Helper()
	f := &fake{answers: answers}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	c.URI, c.RetryDelay = server.URL, time.Millisecond
	client, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return client, f
}

const notFound = `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"no such thing"}`

func TestRepliesAreClassified(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		answers  []answer
		class    fault.Class
		calls    int
		text     string
		notFound bool
	}{
		{"a server error that lasts is temporary after four attempts", []answer{{500, `{"error_code":"INTERNAL_ERROR","message":"disk full"}`}}, fault.Temporary, 4, "MLflow answered 500 INTERNAL_ERROR: disk full", false},
		{"a gateway's HTML page is cut to one line", []answer{{502, "<html>\n bad\n gateway</html>"}}, fault.Temporary, 4, "MLflow answered 502: <html> bad gateway</html>", false},
		{"too many requests is temporary", []answer{{429, ""}}, fault.Temporary, 4, "429", false},
		{"wrong credentials are a configuration fault at once", []answer{{401, "who are you"}}, fault.Configuration, 1, "check the MLflow user", false},
		{"missing grants are a configuration fault at once", []answer{{403, `{"error_code":"PERMISSION_DENIED"}`}}, fault.Configuration, 1, "PERMISSION_DENIED", false},
		{"a refused value is permanent at once", []answer{{400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"bad id"}`}}, fault.Permanent, 1, "bad id", false},
		{"a missing run is ErrNotFound", []answer{{404, notFound}}, fault.Permanent, 1, "no such thing", true},
		{"a page that is not JSON is a configuration fault", []answer{{200, "<html>hello</html>"}}, fault.Configuration, 1, "is not MLflow's", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			client, f := start(t, Config{}, map[string][]answer{"GET runs/get": test.answers})
			_, err := client.GetRun(t.Context(), "r1")
			if err == nil {
				t.Fatal("no error")
			}
			if got := fault.Of(err); got != test.class {
				t.Errorf("class %v, want %v", got, test.class)
			}
			if len(f.seen) != test.calls {
				t.Errorf("%d calls, want %d", len(f.seen), test.calls)
			}
			if !strings.Contains(err.Error(), test.text) || !strings.HasPrefix(err.Error(), `get run "r1": `) {
				t.Errorf("text %q", err)
			}
			if errors.Is(err, ErrNotFound) != test.notFound {
				t.Errorf("ErrNotFound is %t", !test.notFound)
			}
		})
	}
}

func TestAServerErrorThatGoesAwayIsNotSeen(t *testing.T) {
	t.Parallel()
	client, _ := start(t, Config{}, map[string][]answer{"GET runs/get": {{503, ""}, {500, ""}, {200, `{"run":{"info":{"run_id":"r1"}}}`}}})
	run, err := client.GetRun(t.Context(), "r1")
	if err != nil || run.ID != "r1" {
		t.Errorf("run %+v, error %v", run, err)
	}
}

func TestAServerThatIsDownIsTemporary(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	client, err := New(Config{URI: server.URL, RetryDelay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = client.EnsureExperiment(t.Context(), "e"); fault.Of(err) != fault.Temporary {
		t.Errorf("error %v, want a temporary one", err)
	}
}

func TestACancelledCallReturnsAtOnce(t *testing.T) {
	t.Parallel()
	client, _ := start(t, Config{}, map[string][]answer{"GET runs/get": {{500, ""}}})
	client.config.RetryDelay = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.GetRun(ctx, "r1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestURIsAreChecked(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, uri, text string }{
		{"a URI with a password is refused and not repeated", "http://bob:hunter2@host", "holds credentials"},
		{"a broken URI with a password is not repeated", "http://bob:hunter2@ho st", "cannot be parsed"},
		{"a file store is not a server", "sqlite:///mlflow.db", `"sqlite:///mlflow.db" is not a tracking server`},
		{"an empty URI is not a server", "", "expected http"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := New(Config{URI: test.uri})
			if err == nil || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "hunter2") || fault.Of(err) != fault.Configuration {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestCredentialsAreSent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		config Config
		want   string
	}{
		{"none", Config{}, ""},
		{"a user and a password", Config{Username: "u", Password: "p"}, "Basic dTpw"},
		{"a token wins", Config{Username: "u", Password: "p", Token: "t"}, "Bearer t"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			client, f := start(t, test.config, map[string][]answer{"GET runs/get": {{200, "{}"}}})
			if _, err := client.GetRun(t.Context(), "r"); err != nil || f.auth[0] != test.want {
				t.Errorf("sent %q, error %v", f.auth, err)
			}
		})
	}
}

func TestALostReplyMakesNoSecondVersion(t *testing.T) {
	t.Parallel()
	version := `{"model_versions":[{"name":"m","version":"3","run_id":"r1","tags":[{"key":"insitu.job","value":"j"}]}]}`
	client, f := start(t, Config{}, map[string][]answer{
		"GET registered-models/get":  {{200, "{}"}},
		"GET model-versions/search":  {{200, "{}"}, {200, version}},
		"POST model-versions/create": {{502, "the version was made, the reply was lost"}},
	})
	got, created, err := client.EnsureModelVersion(t.Context(), "m", Run{ID: "r1", ArtifactURI: "mlflow-artifacts:/1/r1/artifacts"}, "model", "insitu.job", map[string]string{"insitu.job": "j"})
	if err != nil || got.Version != 3 || !created {
		t.Errorf("version %+v, created %t, error %v", got, created, err)
	}
	creates := 0
	for _, s := range f.seen {
		if strings.HasPrefix(s, "POST model-versions/create") {
			creates++
			want := `POST model-versions/create {"name":"m","run_id":"r1","source":"mlflow-artifacts:/1/r1/artifacts/model","tags":[{"key":"insitu.job","value":"j"}]}`
			if s != want {
				t.Errorf("sent %s", s)
			}
		}
	}
	if creates != 1 {
		t.Errorf("%d creates, want 1", creates)
	}
}

func TestTwoCreatorsOfAnExperimentAgree(t *testing.T) {
	t.Parallel()
	client, _ := start(t, Config{}, map[string][]answer{
		"GET experiments/get-by-name": {{404, notFound}, {200, `{"experiment":{"experiment_id":"7","lifecycle_stage":"active"}}`}},
		"POST experiments/create":     {{400, `{"error_code":"RESOURCE_ALREADY_EXISTS"}`}},
	})
	id, err := client.EnsureExperiment(t.Context(), "e")
	if err != nil || id != "7" {
		t.Errorf("id %q, error %v", id, err)
	}
}

func TestADeletedExperimentIsNamed(t *testing.T) {
	t.Parallel()
	client, _ := start(t, Config{}, map[string][]answer{"GET experiments/get-by-name": {{200, `{"experiment":{"experiment_id":"7","lifecycle_stage":"deleted"}}`}}})
	if _, err := client.EnsureExperiment(t.Context(), "e"); fault.Of(err) != fault.Configuration || !strings.Contains(err.Error(), `"e" is deleted`) {
		t.Errorf("error %v", err)
	}
}

func TestStagesMayBeMissing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		answer    answer
		supported bool
		fails     bool
	}{
		{"a server with stages moves the version", answer{200, "{}"}, true, false},
		{"a server without the endpoint is tolerated", answer{404, "<html>not found</html>"}, false, false},
		{"a server that names the missing endpoint is tolerated", answer{404, `{"error_code":"ENDPOINT_NOT_FOUND"}`}, false, false},
		{"a missing version is an error", answer{404, notFound}, false, true},
		{"a broken server is an error", answer{500, ""}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			client, _ := start(t, Config{}, map[string][]answer{"POST model-versions/transition-stage": {test.answer}})
			supported, err := client.TransitionStage(t.Context(), "m", 1, "Staging")
			if supported != test.supported || (err != nil) != test.fails {
				t.Errorf("supported %t, error %v", supported, err)
			}
		})
	}
}

func TestAnAliasNobodyHoldsIsNotFound(t *testing.T) {
	t.Parallel()
	client, _ := start(t, Config{}, map[string][]answer{"GET registered-models/alias": {{400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"Registered model alias staging not found."}`}}})
	if _, err := client.Alias(t.Context(), "m", "staging"); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestMetricsAreSentInBatchesWithoutNaN(t *testing.T) {
	t.Parallel()
	client, f := start(t, Config{}, map[string][]answer{"POST runs/log-batch": {{200, "{}"}}})
	at := time.UnixMilli(5)
	metrics := []Metric{{"nan", nan(), 1, at}, {"loss", 0.5, 1, at}}
	for range maxBatchMetrics {
		metrics = append(metrics, Metric{"loss", 0.25, 2, at})
	}
	if err := client.LogMetrics(t.Context(), "r1", metrics); err != nil {
		t.Fatal(err)
	}
	if len(f.seen) != 2 || f.seen[1] != `POST runs/log-batch {"metrics":[{"key":"loss","value":0.25,"timestamp":5,"step":2}],"run_id":"r1"}` {
		t.Errorf("%d calls, the last %.200s", len(f.seen), f.seen[len(f.seen)-1])
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

func TestRunsAreRead(t *testing.T) {
	t.Parallel()
	first := `{"runs":[{"info":{"run_id":"a","experiment_id":"1","status":"RUNNING","artifact_uri":"mlflow-artifacts:/1/a/artifacts","start_time":1000},
		"data":{"tags":[{"key":"k","value":"v"}],"params":[{"key":"p","value":"1"}],"metrics":[{"key":"m","value":0.5},{"key":"n","value":"NaN"}]}}],"next_page_token":"t"}`
	client, f := start(t, Config{}, map[string][]answer{"POST runs/search": {{200, first}, {200, `{"runs":[{"info":{"run_id":"b"}}]}`}}})
	runs, err := client.SearchRuns(t.Context(), "1", map[string]string{"insitu.job": "j"})
	if err != nil {
		t.Fatal(err)
	}
	want := []Run{
		{ID: "a", ExperimentID: "1", Status: Running, ArtifactURI: "mlflow-artifacts:/1/a/artifacts", Started: time.UnixMilli(1000).UTC(),
			Tags: map[string]string{"k": "v"}, Params: map[string]string{"p": "1"}, Metrics: map[string]float64{"m": 0.5}},
		{ID: "b", Started: time.UnixMilli(0).UTC(), Tags: map[string]string{}, Params: map[string]string{}, Metrics: map[string]float64{}},
	}
	if diff := cmp.Diff(want, runs); diff != "" {
		t.Error(diff)
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(strings.TrimPrefix(f.seen[1], "POST runs/search ")), &body); err != nil || body["page_token"] != "t" || body["filter"] != "tags.`insitu.job` = 'j'" {
		t.Errorf("second request %s", f.seen[1])
	}
}

func TestArtifactPaths(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, uri, file, want, text string }{
		{"a proxied run is found by its path", "mlflow-artifacts:/1/abc/artifacts", "model/MLmodel", "/api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/model/MLmodel", ""},
		{"a proxied run with a host is found by its path", "mlflow-artifacts://host:5000/1/abc/artifacts", "a b.txt", "/api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/a%20b.txt", ""},
		{"an unproxied store is refused with the remedy", "s3://bucket/1/abc/artifacts", "x", "", "--serve-artifacts"},
		{"a path may not climb", "mlflow-artifacts:/1/abc/artifacts", "../x", "", "plain relative path"},
		{"a path may not be absolute", "mlflow-artifacts:/1/abc/artifacts", "/x", "", "plain relative path"},
		{"a path may not be empty", "mlflow-artifacts:/1/abc/artifacts", "", "", "plain relative path"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := artifactPath(test.uri, test.file)
			if got != test.want || (err == nil) != (test.text == "") || err != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("%q, error %v", got, err)
			}
		})
	}
}

func TestAnArtifactLargerThanTheLimitIsRefused(t *testing.T) {
	t.Parallel()
	client, _ := start(t, Config{}, map[string][]answer{"GET /api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/f": {{200, "12345"}}})
	run := Run{ID: "r", ArtifactURI: "mlflow-artifacts:/1/r/artifacts"}
	if got, err := client.DownloadArtifact(t.Context(), run, "f", 5); err != nil || string(got) != "12345" {
		t.Errorf("%q, error %v", got, err)
	}
	if _, err := client.DownloadArtifact(t.Context(), run, "f", 4); err == nil || !strings.Contains(err.Error(), "larger than 4 bytes") {
		t.Errorf("error %v", err)
	}
}
