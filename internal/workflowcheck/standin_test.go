package workflowcheck_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/localrun"
)

// nowhere is a store that keeps nothing.
type nowhere struct{}

func (nowhere) Put(context.Context, string, string) error { return nil }
func (nowhere) Get(context.Context, string, string) error { return nil }

// standIn is a program in a step's place: it says what it was given by the steps before it and leaves every output.
const standIn = `#!/bin/sh
set -eu
if [ "$(basename "$0")" = insitu ]; then
  case "$*" in
    summary) test "$INSITU_WORKFLOW,$INSITU_STATUS" = run-1,Succeeded ;;
    smoke) test -d "$SERVICE_BINDING_ROOT"; test "$INSITU_SCHEMA,$INSITU_INFERENCE_SCHEMA,$INSITU_MODEL_NAME,$INSITU_MODEL_VERSION" = insitu,serving,digits,4 ;;
    *) exit 1 ;;
  esac
  exit
fi
test -d "$SERVICE_BINDING_ROOT"
mkdir -p "$INSITU_OUTPUT_DIR"
case "$(basename "$0")" in
  upload-dataset) echo data-1 > "$INSITU_OUTPUT_DIR/dataset-digest" ;;
  deploy-training-code)
    test "$INSITU_SWEEP" = '{"rate": [0.1, 0.2]}'
    echo '[{"epochs":3,"kind":"a \"b\" c","rate":0.1},{"epochs":3,"kind":"a \"b\" c","rate":0.2}]' > "$INSITU_OUTPUT_DIR/candidates"
    echo code-1 > "$INSITU_OUTPUT_DIR/code-digest"; echo "-- changes" > "$INSITU_OUTPUT_DIR/changelog.sql" ;;
  train-model)
    test "$INSITU_DATASET_DIGEST,$INSITU_CODE_DIGEST" = data-1,code-1
    case "$INSITU_PARAMETERS" in
      '{"epochs":3,"kind":"a \"b\" c","rate":0.1}') echo 3 > "$INSITU_OUTPUT_DIR/model-version" ;;
      '{"epochs":3,"kind":"a \"b\" c","rate":0.2}') echo 4 > "$INSITU_OUTPUT_DIR/model-version" ;;
      *) exit 1 ;;
    esac
    echo digits > "$INSITU_OUTPUT_DIR/model-name" ;;
  evaluate-model)
    test "$INSITU_MODEL_NAME,$INSITU_MODEL_VERSION" = 'digits,["3","4"]'
    echo digits > "$INSITU_OUTPUT_DIR/model-name"; echo 4 > "$INSITU_OUTPUT_DIR/model-version"
    echo %v > "$INSITU_OUTPUT_DIR/passed"; echo 2 > "$INSITU_OUTPUT_DIR/champion-version"; echo 0.97 > "$INSITU_OUTPUT_DIR/accuracy"
    echo "<p>report</p>" > "$INSITU_OUTPUT_DIR/report.html" ;;
  promote-model-to-staging) 
    test "$INSITU_MODEL_NAME,$INSITU_MODEL_VERSION,$INSITU_PASSED,$INSITU_ALIAS,$INSITU_CHAMPION_VERSION,$INSITU_APPROVAL" = digits,4,true,production,2,
    echo true > "$INSITU_OUTPUT_DIR/promoted"; echo true > "$INSITU_OUTPUT_DIR/accepted" ;;
  deploy-inference-db)
    test "$INSITU_SCHEMA,$INSITU_INFERENCE_SCHEMA,$INSITU_MODEL_VERSION" = insitu,serving,4
    echo 4 > "$INSITU_OUTPUT_DIR/active-version"; echo "-- changes" > "$INSITU_OUTPUT_DIR/changelog.sql" ;;
esac
`

func TestThePipelinePassesValuesAlongAndStopsAtTheGate(t *testing.T) {
	t.Parallel()
	for passed, want := range map[bool][]string{
		true: {"upload-dataset Succeeded", "deploy-training-code Succeeded", "train-model Succeeded", `train-model(0:epochs:3,kind:a \"b\" c,rate:0.1) Succeeded`, `train-model(1:epochs:3,kind:a \"b\" c,rate:0.2) Succeeded`, "evaluate-model Succeeded",
			"approve Skipped", "promote-model-to-staging Succeeded", "deploy-inference-db Succeeded", "smoke Succeeded", "onExit Succeeded", "active 4"},
		false: {"upload-dataset Succeeded", "deploy-training-code Succeeded", "train-model Succeeded", `train-model(0:epochs:3,kind:a \"b\" c,rate:0.1) Succeeded`, `train-model(1:epochs:3,kind:a \"b\" c,rate:0.2) Succeeded`, "evaluate-model Succeeded",
			"approve Skipped", "promote-model-to-staging Skipped", "deploy-inference-db Omitted", "smoke Omitted", "onExit Succeeded", "active "},
	} {
		t.Run(fmt.Sprintf("passed=%v", passed), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name := range load(t) {
				if slices.Contains(pipelines(), name) {
					name = "insitu" // of the summary and the smoke test
				}
				if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, standIn, passed), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			w, err := localrun.Load(filepath.Join(folder, "in-database-pipeline.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range map[string]string{"app": "s3://b/app.tar.gz", "sweep": `{"rate": [0.1, 0.2]}`, "model-stage": "production", "inference-schema": "serving"} {
				if err := w.Set(name, value); err != nil {
					t.Fatal(err)
				}
			}
			res, err := w.Run(t.Context(), localrun.Options{
				Name: "run-1", Bin: dir, Dir: filepath.Join(dir, "run"), Mounts: map[string]string{"/bindings": t.TempDir()},
				Env: []string{"PATH=" + os.Getenv("PATH")}, Artifacts: nowhere{},
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range res.Steps {
				got = append(got, fmt.Sprintf("%s %s", s.Name, s.Status))
			}
			got = append(got, "active "+res.Outputs["active-version"])
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("steps (-want +got):\n%s\n%+v", diff, res.Steps)
			}
			if content, err := os.ReadFile(res.Artifacts["report"]); err != nil || string(content) != "<p>report</p>\n" {
				t.Errorf("report %q: %q, %v", res.Artifacts["report"], content, err)
			}
		})
	}
}
