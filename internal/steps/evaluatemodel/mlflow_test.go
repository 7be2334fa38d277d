package evaluatemodel

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/step/steptest"
)

func TestTheStepOnRealServers(t *testing.T) {
	t.Parallel()
	uri := mlflow(t)
	db, done := load(t)
	defer done()
	ctx, name := context.Background(), fmt.Sprintf("toy-%d", time.Now().UnixNano())
	client, err := registry.New(registry.Config{URI: uri})
	if err != nil {
		t.Fatal(err)
	}
	experiment, err := client.EnsureExperiment(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	models := newRegistry()
	models.add(1, constant, toyDigest)
	models.add(2, identity, toyDigest)
	var runs []registry.Run
	for version := 1; version <= 2; version++ {
		tags := models.versions[version].Tags
		run, err := client.EnsureRun(ctx, experiment, name, tags, "insitu.job")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"model/model.onnx", "model/insitu.json"} {
			if err := client.UploadArtifact(ctx, run, path, models.artifacts[fmt.Sprintf("run%d/%s", version, path)]); err != nil {
				t.Fatal(err)
			}
		}
		if v, _, err := client.EnsureModelVersion(ctx, name, run, "model", "insitu.job", tags); err != nil || v.Version != version {
			t.Fatalf("version %d: %+v, %v", version, v, err)
		}
		runs = append(runs, run)
	}
	if err := client.SetAlias(ctx, name, "staging", 1); err != nil {
		t.Fatal(err)
	}

	cfg := db.Config()
	flags := map[string]string{
		"schema": db.schema, "model-name": name, "model-version": "2", "min-f1": "0.5", "mlflow-uri": uri,
		"training-host": cfg.Host, "training-port": strconv.Itoa(int(cfg.Port)), "training-database": cfg.Database, "training-username": cfg.User,
	}
	if cfg.Password != "" {
		flags["training-password"] = cfg.Password
	}
	first := steptest.Run(t, Spec(), flags)
	want := map[string]string{
		"model-name": name, "model-version": "2", "passed": "true", "accuracy": "0.8", "f1": "0.8", "champion-version": "1",
		"reason": "passed: accuracy 0.800 >= 0.750, macro-F1 0.800 >= 0.500; champion version 1 has 0.500 on the same 80 rows (difference +0.300, McNemar p = 0.00011)",
	}
	if d := cmp.Diff(want, first.Outputs); first.Code != 0 || d != "" {
		t.Fatalf("exit code %d, outputs (-want +got):\n%s\n%s", first.Code, d, first.Stderr)
	}
	second := steptest.Run(t, Spec(), flags)
	if d := cmp.Diff(first.Outputs, second.Outputs); d != "" || !bytes.Equal(first.Files["report"], second.Files["report"]) {
		t.Errorf("a second run differs:\n%s", d)
	}

	stored, err := client.DownloadArtifact(ctx, runs[1], "evaluation/report.html", 1<<20)
	if err != nil || !bytes.Equal(stored, first.Files["report"]) {
		t.Errorf("the stored report is not the step's (%v)", err)
	}
	run, err := client.GetRun(ctx, runs[1].ID)
	if err != nil || run.Metrics["test_accuracy"] != 0.8 || run.Metrics["f1_score"] != 0.8 || run.Metrics["testing_loss"] == 0 {
		t.Errorf("metrics %v, %v", run.Metrics, err)
	}
	version, err := client.ModelVersion(ctx, name, 2)
	if err != nil || version.Tags["insitu.passed"] != "true" || version.Tags["insitu.reason"] != want["reason"] || version.Tags["insitu.champion-version"] != "1" {
		t.Errorf("tags %v, %v", version.Tags, err)
	}

	flags["min-accuracy"] = "0.9"
	if r := steptest.Run(t, Spec(), flags); r.Code != 0 || r.Outputs["passed"] != "false" || !strings.HasPrefix(r.Outputs["reason"], "not passed: accuracy 0.800 < 0.900,") {
		t.Errorf("below the gate: exit code %d, outputs %v", r.Code, r.Outputs)
	}
	flags["model-version"] = "7"
	if r := steptest.Run(t, Spec(), flags); r.Code != 1 || len(r.Outputs) != 0 || !strings.Contains(r.Message, "version 7") {
		t.Errorf("no such version: exit code %d, %q, outputs %v", r.Code, r.Message, r.Outputs)
	}
}

func TestSettingsAreCheckedBeforeAnythingIsTouched(t *testing.T) {
	t.Parallel()
	r := steptest.Run(t, Spec(), map[string]string{
		"schema": "no;schema", "model-version": "0", "min-accuracy": "95", "tolerance": "x", "mlflow-uri": "sqlite:///m.db", "training-host": "h", "training-database": "d", "training-username": "u",
	})
	for _, want := range []string{`schema "no;schema"`, "--model-name is required", "--model-version", "--min-accuracy", "--tolerance", "--mlflow-uri"} {
		if !strings.Contains(r.Message, want) {
			t.Errorf("the message lacks %q:\n%s", want, r.Message)
		}
	}
	if r.Code != 2 || len(r.Outputs) != 0 {
		t.Errorf("exit code %d, outputs %v", r.Code, r.Outputs)
	}
}
