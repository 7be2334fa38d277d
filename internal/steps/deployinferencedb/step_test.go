package deployinferencedb

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/step/steptest"
)

// mlflow answers as MLflow does for a model with the given versions, in order of their numbers.
func mlflow(t *testing.T, versions ...[]byte) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/2.0/mlflow/model-versions/get", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("version"))
		if n < 1 || n > len(versions) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = fmt.Fprint(w, `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"no such version"}`)
			return
		}
		sum := sha256.Sum256(versions[n-1])
		_, _ = fmt.Fprintf(w, `{"model_version":{"name":"m","version":"%d","run_id":"run-%d","status":"READY","tags":[{"key":"insitu.job","value":"job-1"},{"key":"insitu.code-digest","value":"code-1"},
			{"key":"insitu.dataset-digest","value":"dataset-1"},{"key":"insitu.onnx-digest","value":"%s"},{"key":"git_sha","value":"sha-%d"}]}}`, n, n, hex.EncodeToString(sum[:]), n)
	})
	mux.HandleFunc("GET /api/2.0/mlflow/runs/get", func(w http.ResponseWriter, r *http.Request) {
		id := r.FormValue("run_id")
		_, _ = fmt.Fprintf(w, `{"run":{"info":{"run_id":"%s","artifact_uri":"mlflow-artifacts:/1/%s"},"data":{"metrics":[{"key":"accuracy","value":0.9}]}}}`, id, id)
	})
	mux.HandleFunc("GET /api/2.0/mlflow-artifacts/artifacts/1/{run}/model/{file}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("file") == "insitu.json" {
			_, _ = fmt.Fprint(w, `{"classes": ["cat", "dog"]}`)
			return
		}
		n, _ := strconv.Atoi(strings.TrimPrefix(r.PathValue("run"), "run-"))
		_, _ = w.Write(versions[n-1])
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func TestAModelIsSwitchedToOnlyWhenItPredictsWhatItPredictedInTraining(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	schema, training := changelogtest.Schema(t, cfg, "Inference"), changelogtest.Schema(t, cfg, "Training")
	read := func(name string) []byte {
		t.Helper()
		content, err := os.ReadFile("../../inference/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	conn, err := postgres.Connect(t.Context(), cfg, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// This training schema predicts (0.5, 0.25) for everything, as one.onnx does; two.onnx says (0.25, 0.5).
	if _, err := conn.Exec(t.Context(), "create schema "+postgres.Ident(training)+"; set search_path to "+postgres.Ident(training)+"; "+string(read("training.sql"))); err != nil {
		t.Fatal(err)
	}
	flags := map[string]string{
		"inference-schema": schema, "schema": training, "model-name": "m", "liquibase": changelogtest.Jars(t), "work-dir": t.TempDir(),
		"mlflow-uri": mlflow(t, read("one.onnx"), read("two.onnx"), read("one.onnx")),
	}
	for _, side := range []string{"training", "inference"} {
		maps.Copy(flags, map[string]string{side + "-host": cfg.Host, side + "-port": strconv.Itoa(cfg.Port), side + "-database": cfg.Database,
			side + "-username": cfg.Username, side + "-password": cfg.Password})
	}
	run := func(version string, change map[string]string) steptest.Result {
		t.Helper()
		all := maps.Clone(flags)
		all["model-version"] = version
		maps.Copy(all, change)
		return steptest.Run(t, Spec(), all)
	}
	check := func(version, previous, added string) {
		t.Helper()
		r := run(version, nil)
		want := map[string]string{"active-version": version, "previous-version": previous, "changesets-added": added, "parity-max-abs-diff": "0", "parity-disagreements": "0"}
		if diff := cmp.Diff(want, r.Outputs); r.Code != 0 || diff != "" {
			t.Fatalf("version %s: exit code %d: %s\n%s", version, r.Code, diff, r.Stderr)
		}
		if !strings.Contains(string(r.Files["changelog"]), "--changeset insitu:model-m-"+version+"-") {
			t.Errorf("version %s is not in the changelog", version)
		}
	}
	check("1", "", "5")
	check("1", "", "0")

	apart := run("2", nil)
	if apart.Code != 1 || !strings.Contains(apart.Message, "was not activated: parity over 12 test rows") || len(apart.Outputs) != 0 {
		t.Errorf("a model that predicts something else: exit code %d, %q, outputs %v", apart.Code, apart.Message, apart.Outputs)
	}
	var active []int
	if err := conn.QueryRow(t.Context(), "select array_agg(version) from "+postgres.Ident(schema, "model_versions")+" where active").Scan(&active); err != nil || !cmp.Equal(active, []int{1}) {
		t.Errorf("active: %v, %v", active, err)
	}
	check("3", "1", "1")
	check("3", "1", "0")
	if tolerated := run("2", map[string]string{"parity-tolerance": "0.3", "parity-max-disagreements": "12"}); tolerated.Code != 0 || tolerated.Outputs["parity-max-abs-diff"] != "0.25" {
		t.Errorf("exit code %d: %s", tolerated.Code, tolerated.Stderr)
	}
	for name, c := range map[string]struct {
		version string
		change  map[string]string
		code    int
	}{
		"a version nobody registered": {"9", nil, 1},
		"a registry that is away":     {"1", map[string]string{"mlflow-uri": "http://127.0.0.1:1"}, 75},
		"a wrong password":            {"1", map[string]string{"inference-password": "wrong-one"}, 2},
		"no training database":        {"1", map[string]string{"training-port": "1"}, 75},
		"one schema for both":         {"1", map[string]string{"inference-schema": training}, 2},
		"no rows to compare":          {"1", map[string]string{"parity-rows": "0"}, 2},
	} {
		if r := run(c.version, c.change); r.Code != c.code || len(r.Outputs) != 0 {
			t.Errorf("%s: exit code %d, want %d: %s", name, r.Code, c.code, r.Message)
		}
	}
}
