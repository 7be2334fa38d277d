package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/insitu-ml/insitu/internal/localrun"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/summary"
)

// runJSON is run.json: what a run did, for programs.
type runJSON struct {
	Workflow  string             `json:"workflow"`
	GitSHA    string             `json:"git_sha"` // "" if the ML app's folder is no clean commit
	ExitCode  int                `json:"exit_code"`
	Seconds   float64            `json:"seconds"`
	Steps     []stepSummary      `json:"steps"`
	Metrics   map[string]float64 `json:"metrics"`
	Model     modelSummary       `json:"model"`
	Training  databaseSummary    `json:"training"`
	Inference databaseSummary    `json:"inference"`
	Report    string             `json:"report"`
	MLflowURL string             `json:"mlflow_url"`
	S3        string             `json:"s3_endpoint"`
}

type stepSummary struct {
	Name    string            `json:"name"`
	Status  string            `json:"status"` // Argo's words: Succeeded, Failed, Error, Skipped, Omitted
	Seconds float64           `json:"seconds"`
	Outputs map[string]string `json:"outputs"`
	Message string            `json:"message,omitempty"`
}

type modelSummary struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Alias   string `json:"alias"` // "" if the version was not promoted
	RunID   string `json:"run_id"`
}

type databaseSummary struct {
	DSN    string `json:"dsn_without_password"`
	Schema string `json:"schema"`
}

// summarise collects what a run did. Facts that a workflow of the user's own does not produce stay empty.
func (r *pipelineRun) summarise(result *localrun.Result, took time.Duration) *runJSON {
	s := &runJSON{Workflow: result.Name, ExitCode: result.ExitCode, Seconds: took.Seconds(), Metrics: map[string]float64{}, Report: result.Artifacts["report"]}
	outputs := map[string]map[string]string{}
	for _, step := range result.Steps {
		s.Steps = append(s.Steps, stepSummary{step.Name, string(step.Status), step.Seconds, step.Outputs, step.Message})
		outputs[step.Name] = step.Outputs
	}
	metric := func(name, text string) {
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			s.Metrics[name] = value
		}
	}
	metric("accuracy", outputs["evaluate-model"]["accuracy"])
	metric("f1", outputs["evaluate-model"]["f1"])
	training, _ := trained(result.Steps)
	metric("validation_accuracy", training.Outputs["validation-accuracy"])
	s.Model = modelSummary{Name: training.Outputs["model-name"], Version: training.Outputs["model-version"], RunID: training.Outputs["run-id"]}
	for _, step := range result.Steps {
		if step.Name == "promote-model-to-staging" && step.Status == localrun.Succeeded && step.Outputs["promoted"] == "true" {
			s.Model.Alias = r.workflow.Value("model-stage")
		}
	}
	if r.has("git-sha") {
		s.GitSHA = r.workflow.Value("git-sha")
	}
	s.Training.Schema, s.Inference.Schema = r.workflow.Value("schema"), r.workflow.Value("inference-schema")
	if c, err := databaseConfig(r.bindings, r.workflow.Value("training-binding")); err == nil {
		s.Training.DSN = c.URL()
	}
	if c, err := databaseConfig(r.bindings, r.workflow.Value("inference-binding")); err == nil {
		s.Inference.DSN = c.URL()
	}
	s.MLflowURL, s.S3 = address(r.bindings, "mlflow", "uri"), address(r.bindings, "s3", "endpoint")
	return s
}

// trained is the training that went on, of as many candidates as there were: the one whose version evaluate-model chose.
func trained(steps []localrun.Step) (found localrun.Step, candidates int) {
	const name = "train-model"
	chosen := ""
	for _, step := range steps {
		if step.Name == "evaluate-model" {
			chosen = step.Outputs["model-version"]
		}
	}
	for _, step := range steps {
		if step.Of != name && (step.Name != name || step.Items > 0) {
			continue
		}
		if candidates++; candidates == 1 || step.Outputs["model-version"] == chosen {
			found = step
		}
	}
	if candidates > 1 && found.Outputs["model-version"] != chosen { // no choice was made
		found = localrun.Step{}
	}
	return found, candidates
}

// write replaces run.json in one move, so that a reader never sees half of it.
func (s *runJSON) write(file string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.WriteFile(file+".tmp", append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(file+".tmp", file)
}

// printFailure says which steps failed, why, and what to do.
func printFailure(out io.Writer, result *localrun.Result, took time.Duration, dir string) error {
	run := summary.Run{Workflow: result.Name, Status: string(localrun.Failed), Took: took}
	for _, step := range result.Steps {
		if (step.Status == localrun.Failed || step.Status == localrun.Errored) && step.Items == 0 { // else an item says why
			run.Failures = append(run.Failures, summary.Failure{
				Step: step.Name, ExitCode: step.ExitCode, Message: step.Message, Attempts: step.Attempts, Log: filepath.Join(dir, step.Dir, "log.jsonl"),
			})
		}
	}
	fmt.Fprintln(out)
	return run.Write(out)
}

// printSummary ends a successful run with what the user wants to know.
func (r *pipelineRun) printSummary(ctx context.Context, s *runJSON, result *localrun.Result, file string) {
	out := r.stdout
	outputs := map[string]map[string]string{}
	for _, step := range s.Steps {
		outputs[step.Name] = step.Outputs
	}
	fmt.Fprintf(out, "\n%s\n\n", summary.Run{Workflow: s.Workflow, Status: string(localrun.Succeeded), Took: time.Duration(s.Seconds * float64(time.Second))}.Headline())
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	accuracy, evaluated := s.Metrics["accuracy"]
	switch f1, classes := s.Metrics["f1"]; {
	case classes:
		row("Accuracy on held-out data", "%.4f", accuracy)
		row("Macro-F1 on held-out data", "%.4f", f1)
	case evaluated:
		row("R2 on held-out data", "%.4f", accuracy)
	}
	if s.Model.Name != "" {
		row("Model", "%s version %s, %s", s.Model.Name, s.Model.Version, orText(aliasText(s.Model.Alias), "not promoted"))
		training, candidates := trained(result.Steps)
		row("Training", "%s", orText(training.Outputs["reason"], trainedText(training.Outputs)))
		if candidates > 1 {
			row("Sweep", "%s has the lowest validation loss of %d candidates", training.Name, candidates)
		}
	}
	if reason := outputs["evaluate-model"]["reason"]; reason != "" {
		row("Gate", "%s", reason)
	}
	if u := outputs["upload-dataset"]; len(u) > 0 {
		row("Dataset", "%s rows in %s.%s; %s bytes uploaded, %s rows loaded by this run", u["rows"], s.Training.Schema, u["dataset-table"], u["bytes-uploaded"], u["rows-loaded"])
	}
	if s.Report != "" {
		row("Report", "%s", s.Report)
	}
	_ = table.Flush()
	r.printChangelog(ctx, "training", "training-binding", s.Training.Schema)
	r.printChangelog(ctx, "inference", "inference-binding", s.Inference.Schema)
	if s.Model.Alias != "" {
		r.printPrediction(ctx, s, outputs["upload-dataset"]["dataset-digest"])
	}
	fmt.Fprintln(out)
	table = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row = func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	row("Training database", "%s", s.Training.DSN)
	row("Inference database", "%s", s.Inference.DSN)
	row("MLflow", "%s", s.MLflowURL)
	row("Object storage", "%s", s.S3)
	row("Service bindings", "%s (passwords are here)", r.bindings)
	row("This summary", "%s", file)
	if r.services != nil {
		row("Stop the services", "make stop (or insitu stop)")
		row("Clean up", "make clean (or insitu stop --purge, and remove %s)", r.c.String("output"))
	}
	_ = table.Flush()
}

func aliasText(alias string) string {
	if alias == "" {
		return ""
	}
	return "alias " + alias
}

func trainedText(outputs map[string]string) string {
	if outputs["trained"] == "false" {
		return "reused: same data, code and parameters"
	}
	return outputs["epochs-trained"] + " epochs"
}

// maxChangelog is how many of the newest rows of a changelog the summary shows.
const maxChangelog = 8

// printChangelog shows what Liquibase recorded in a database.
func (r *pipelineRun) printChangelog(ctx context.Context, name, selector, schema string) {
	fmt.Fprintf(r.stdout, "\nChangelog of the %s database (select * from %q.databasechangelog)\n", name, schema)
	if err := r.changelog(ctx, r.workflow.Value(selector), schema); err != nil {
		fmt.Fprintf(r.stdout, "  not readable: %v\n", err)
	}
}

func (r *pipelineRun) changelog(ctx context.Context, selector, schema string) error {
	conn, err := r.connect(ctx, selector)
	if err != nil {
		return err
	}
	defer conn.Close()
	changelog := postgres.Ident(schema, "databasechangelog")
	var exists bool
	if err := conn.QueryRow(ctx, "select exists (select 1 from pg_tables where schemaname = $1 and tablename = 'databasechangelog')", schema).Scan(&exists); err != nil {
		return postgres.Wrap(err, "look for the changelog")
	}
	if !exists {
		fmt.Fprintln(r.stdout, "  nothing was deployed yet")
		return nil
	}
	var count int
	if err := conn.QueryRow(ctx, "select count(*) from "+changelog).Scan(&count); err != nil {
		return postgres.Wrap(err, "count changelog rows")
	}
	rows, err := conn.Query(ctx, "select orderexecuted, id, exectype, to_char(dateexecuted, 'YYYY-MM-DD HH24:MI:SS'), coalesce(tag, '') from "+
		changelog+" order by dateexecuted desc, orderexecuted desc limit $1", maxChangelog)
	if err != nil {
		return postgres.Wrap(err, "read changelog")
	}
	defer rows.Close()
	table := tabwriter.NewWriter(r.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  #\tid\ttype\texecuted\ttag")
	for rows.Next() {
		var order int
		var id, kind, when, tag string
		if err := rows.Scan(&order, &id, &kind, &when, &tag); err != nil {
			return postgres.Wrap(err, "read changelog")
		}
		fmt.Fprintf(table, "  %d\t%s\t%s\t%s\t%s\n", order, shorten(id, 48), kind, when, shorten(tag, 20))
	}
	_ = table.Flush()
	if count > maxChangelog {
		fmt.Fprintf(r.stdout, "  ... and %d earlier rows\n", count-maxChangelog)
	}
	return postgres.Wrap(rows.Err(), "read changelog")
}

// shorten cuts a text to a number of letters.
func shorten(text string, length int) string {
	letters := []rune(text)
	if len(letters) <= length {
		return text
	}
	return string(letters[:length-3]) + "..."
}

// connect opens a session with the database of the selected service binding.
func (r *pipelineRun) connect(ctx context.Context, selector string) (*postgres.Conn, error) {
	c, err := databaseConfig(r.bindings, selector)
	if err != nil {
		return nil, err
	}
	c.ApplicationName = "insitu run"
	return postgres.Connect(ctx, c, postgres.Options{})
}
