package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/localrun"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/step"
)

const pipeline = "../../workflows/in-database-pipeline.yaml"

func load(t *testing.T) *localrun.Workflow {
	t.Helper()
	w, err := localrun.Load(pipeline)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestFlagsMayFollowTheWorkflowFile(t *testing.T) {
	t.Parallel()
	app := &cli.App{Commands: []*cli.Command{runCommand(nil), servicesCommand()}}
	app.Setup()
	tests := map[string]struct{ in, want string }{
		"flags after the file":            {"insitu run w.yaml --app d -p a=1 -p b=2", "insitu run --app d -p a=1 -p b=2 w.yaml"},
		"flags without a value":           {"insitu run w.yaml --plain --app=d", "insitu run --plain --app=d w.yaml"},
		"flags first":                     {"insitu run --app d w.yaml", "insitu run --app d w.yaml"},
		"commands with subcommands":       {"insitu services start --state d", "insitu services start --state d"},
		"everything after -- stays":       {"insitu run w.yaml -- --app", "insitu run -- w.yaml --app"},
		"an unknown command":              {"insitu rnu --app d", "insitu rnu --app d"},
		"a value that looks like a flag":  {"insitu run w.yaml -p -x=1", "insitu run -p -x=1 w.yaml"},
		"a flag without its value at end": {"insitu run w.yaml --app", "insitu run --app w.yaml"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(strings.Fields(tt.want), flagsFirst(app, strings.Fields(tt.in))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParameters(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		given []string
		want  []string // parts of the error; none for no error
	}{
		"known names are taken":                    {given: []string{"epochs=3", "split=0.8,0.1,0.1", `parameters={"a": 1}`}},
		"a value may hold an equals sign":          {given: []string{"dataset=https://h/x?a=b"}},
		"an unknown name comes with the nearest":   {given: []string{"epcohs=3"}, want: []string{`no parameter "epcohs"; did you mean "epochs"?`}},
		"a name like no other points to the help":  {given: []string{"zzzzzz=3"}, want: []string{"insitu run --help lists them"}},
		"a missing equals sign":                    {given: []string{"epochs"}, want: []string{`-p "epochs": expected name=value`}},
		"a value that is not allowed":              {given: []string{"log-level=loud"}, want: []string{`"loud"`, `"debug"`}},
		"everything wrong is reported at one time": {given: []string{"a", "log-level=loud"}, want: []string{`-p "a"`, `"loud"`}},
		"the same name twice":                      {given: []string{"epochs=1", "epochs=2"}, want: []string{"given twice"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := setParameters(load(t), tt.given)
			checkError(t, err, tt.want)
		})
	}
}

func checkError(t *testing.T, err error, want []string) {
	t.Helper()
	if len(want) == 0 && err != nil {
		t.Fatal(err)
	}
	for _, text := range want {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error %v, want it to say %q", err, text)
		}
	}
	if err != nil && fault.Of(err) != fault.Configuration {
		t.Errorf("error %v is no configuration fault", err)
	}
}

func TestValuesAreCheckedAgainstTheStepsThatGetThem(t *testing.T) {
	t.Parallel()
	one := 1.0
	specs := []step.Spec{
		{Name: "upload-dataset", Flags: []step.Flag{{Name: "schema", Required: true, Usage: "schema"}, {Name: "shards", Kind: step.Int, Min: &one}, {Name: "parameters", Kind: step.JSON}}},
		{Name: "train-model", Flags: []step.Flag{{Name: "epochs", Kind: step.Int, Min: &one}}},
	}
	tests := map[string]struct {
		given []string
		want  []string
	}{
		"good values":                   {given: []string{"epochs=3"}},
		"no number":                     {given: []string{"epochs=abc"}, want: []string{`parameter "epochs"`, `"abc"`}},
		"out of bounds":                 {given: []string{"epochs=0"}, want: []string{`parameter "epochs"`}},
		"no JSON":                       {given: []string{"parameters=x"}, want: []string{`parameter "parameters"`}},
		"a required value made empty":   {given: []string{"schema="}, want: []string{`parameter "schema": needs a value`}},
		"several mistakes are told all": {given: []string{"epochs=abc", "shards=0"}, want: []string{`"epochs"`, `"shards"`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := load(t)
			if _, err := setParameters(w, tt.given); err != nil {
				t.Fatal(err)
			}
			checkError(t, checkParameters(w, specs), tt.want)
		})
	}
}

func TestHyperParametersAreCheckedAgainstTheApp(t *testing.T) {
	t.Parallel()
	app, err := mlapp.Load("../../examples/digits")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		given []string
		want  []string
	}{
		"nothing":                   {},
		"a sweep":                   {given: []string{`sweep={"learning_rate": [0.01, 0.003], "epochs": [5, 10]}`, `parameters={"hidden": 8}`}},
		"epochs twice":              {given: []string{"epochs=3", `sweep={"epochs": [5, 10]}`}, want: []string{`parameter "epochs" has a value and a sweep`}},
		"all mistakes at once":      {given: []string{`parameters={"depth": 3}`, `sweep={"width": [1], "learning_rate": 0.1}`}, want: []string{`"depth" is not declared`, `"width" is not declared`, "expected a list of values"}},
		"text that is no JSON, two": {given: []string{"parameters=x", "sweep=[1]"}, want: []string{`parameter "parameters"`, `parameter "sweep"`}},
	} {
		w := load(t)
		if _, err := setParameters(w, tt.given); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkError(t, checkHyperParameters(w, &app.Manifest), tt.want)
		})
	}
}

func TestTenant(t *testing.T) {
	t.Parallel()
	for app, want := range map[string]string{
		"digits": "digits", "Team A-digits": "team_a_digits", "3d": "app_3d", "pg_x": "app_pg_x", "ü": "app_", strings.Repeat("a", 70): strings.Repeat("a", 63),
	} {
		if got := tenant(app); got != want {
			t.Errorf("tenant(%q) = %q, want %q", app, got, want)
		}
	}
}

func TestSourceURL(t *testing.T) {
	t.Parallel()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		"": "", "https://h/x": "https://h/x", "s3://b/k": "s3://b/k", "file:/a/b": "file:/a/b", "file:///a/b": "file:/a/b",
		"data.csv": "file:" + here + "/data.csv", "/a/b c.csv": "file:/a/b%20c.csv", "file:/a/b%20c.csv": "file:/a/b%20c.csv",
	} {
		if got, err := sourceURL(source); err != nil || got != want {
			t.Errorf("sourceURL(%q) = %q, %v, want %q", source, got, err, want)
		}
	}
}

func TestCommitIsThatOfACleanFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	git := func(args ...string) string {
		out, err := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@t"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := commit(t.Context(), dir); got != "" {
		t.Errorf("a folder without git has the commit %q", got)
	}
	git("init", "-q")
	if err := os.WriteFile(filepath.Join(dir, "learner.py"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	git("add", ".")
	git("commit", "-qm", "x")
	if got, want := commit(t.Context(), dir), git("rev-parse", "HEAD"); got != want {
		t.Errorf("commit %q, want %q", got, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "learner.py"), []byte("# changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := commit(t.Context(), dir); got != "" {
		t.Errorf("a folder with changes has the commit %q", got)
	}
}

// events are those of a short run: one task that trains, fails once and succeeds, one that fails, one that is skipped.
func events() []localrun.Event {
	changed := func(task string, s localrun.Step) localrun.Event {
		return localrun.Event{Task: task, Status: s.Status, Changed: true, Step: s}
	}
	return []localrun.Event{
		changed("train", localrun.Step{Status: localrun.Running, Attempts: 1}),
		{Task: "train", Status: localrun.Running, Log: map[string]any{"level": "info", "msg": "connected"}},
		{Task: "train", Status: localrun.Running, Log: map[string]any{"level": "info", "msg": "epoch", "epoch": 1.0, "epochs": 3.0, "loss": 0.51234, "validation_accuracy": 0.9, "rows": 12.0}},
		{Task: "train", Status: localrun.Running, Done: 1, Total: 3},
		{Task: "train", Status: localrun.Running, Log: map[string]any{"level": "warn", "msg": "slow"}},
		{Task: "train", Status: localrun.Running, Line: "exit code 75 (busy): trying again in 5s"},
		changed("train", localrun.Step{Status: localrun.Running, Attempts: 2}),
		changed("train", localrun.Step{Status: localrun.Succeeded, Seconds: 2.34, Outputs: map[string]string{"reason": "trained"}}),
		changed("evaluate", localrun.Step{Status: localrun.Failed, ExitCode: 1, Message: "no rows\nmore"}),
		changed("promote", localrun.Step{Status: localrun.Omitted}),
	}
}

// sweptEvents are those of a task with so many items, which are named a, b and so on; the last one fails.
func sweptEvents(items int) []localrun.Event {
	changed := func(task, of string, s localrun.Step) localrun.Event {
		return localrun.Event{Task: task, Of: of, Status: s.Status, Changed: true, Step: s}
	}
	list := []localrun.Event{changed("train", "", localrun.Step{Status: localrun.Running, Items: items})}
	end, word := localrun.Succeeded, "trained"
	for i := range items {
		name := fmt.Sprintf("train(%d:%c)", i, 'a'+i)
		if i == items-1 {
			end, word = localrun.Failed, ""
		}
		list = append(list,
			changed(name, "train", localrun.Step{Status: localrun.Running, Attempts: 1}),
			localrun.Event{Task: name, Of: "train", Status: localrun.Running, Log: map[string]any{"level": "info", "msg": "epoch", "epoch": 1.0, "epochs": 3.0}},
			localrun.Event{Task: name, Of: "train", Status: localrun.Running, Done: 1, Total: 3},
			localrun.Event{Task: name, Of: "train", Status: localrun.Running, Log: map[string]any{"level": "warn", "msg": "slow"}},
			changed(name, "train", localrun.Step{Status: end, Seconds: 2, Message: "no rows", Outputs: map[string]string{"reason": word}}))
	}
	return append(list, changed("train", "", localrun.Step{Status: localrun.Failed, Items: items, Outputs: map[string]string{"reason": `["trained"]`}}))
}

func TestPlainDisplayNamesTheItemsOfATask(t *testing.T) {
	t.Parallel()
	for items, want := range map[int]string{
		1: "train(0:a)  running\ntrain(0:a)  epoch 1/3\ntrain(0:a)  warning: slow\ntrain(0:a)  failed: no rows\n",
		2: "train  running, 2 in all\ntrain(0:a)  running\ntrain(0:a)  epoch 1/3\ntrain(0:a)  warning: slow\ntrain(0:a)  done in 2.0 s: trained\n" +
			"train(1:b)  running\ntrain(1:b)  epoch 1/3\ntrain(1:b)  warning: slow\ntrain(1:b)  failed: no rows\ntrain  failed, 2 in all\n",
	} {
		var out bytes.Buffer
		d := newPlain(&out, []string{"train"})
		for _, e := range sweptEvents(items) {
			d.observe(e)
		}
		if diff := cmp.Diff(want, regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d  `).ReplaceAllString(out.String(), "")); diff != "" {
			t.Errorf("%d items (-want +got):\n%s", items, diff)
		}
	}
}

func TestABarShowsTheItemsOfItsTask(t *testing.T) {
	t.Parallel()
	for items, want := range map[int][]string{
		1: {"", "", "epoch 1/3", "epoch 1/3", "epoch 1/3", "no rows", "no rows"},
		2: {"", "0 of 2", "0 of 2", "0 of 2", "0 of 2", "1 of 2", "1 of 2", "1 of 2", "1 of 2", "1 of 2", "2 of 2", "2 of 2"},
	} {
		var out bytes.Buffer
		d := newBars(&out, []string{"train"})
		var got []string
		for _, e := range sweptEvents(items) {
			d.observe(e)
			got = append(got, d.tasks["train"].text)
		}
		d.close()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d items (-want +got):\n%s", items, diff)
		}
		if d.tasks["train"].status != localrun.Failed {
			t.Errorf("%d items: the task is %q", items, d.tasks["train"].status)
		}
	}
}

func TestTheTrainingThatWentOnIsTheOneEvaluateModelChose(t *testing.T) {
	t.Parallel()
	step := func(name, of string, items int, version string) localrun.Step {
		return localrun.Step{Name: name, Of: of, Items: items, Outputs: map[string]string{"model-version": version}}
	}
	group := step("train-model", "", 2, `["3","4"]`)
	first, second := step("train-model(0:a)", "train-model", 0, "3"), step("train-model(1:b)", "train-model", 0, "4")
	for name, tt := range map[string]struct {
		steps []localrun.Step
		want  string
		count int
	}{
		"of two":                         {[]localrun.Step{group, first, second, step("evaluate-model", "", 0, "4")}, "train-model(1:b)", 2},
		"of two, the first":              {[]localrun.Step{group, first, second, step("evaluate-model", "", 0, "3")}, "train-model(0:a)", 2},
		"of two, before the choice":      {[]localrun.Step{group, first, second, step("evaluate-model", "", 0, "")}, "", 2},
		"the only one":                   {[]localrun.Step{step("train-model", "", 1, `["3"]`), first, step("evaluate-model", "", 0, "")}, "train-model(0:a)", 1},
		"a workflow that has no list":    {[]localrun.Step{step("train-model", "", 0, "3")}, "train-model", 1},
		"a workflow that does not train": {[]localrun.Step{step("evaluate-model", "", 0, "3")}, "", 0},
	} {
		got, count := trained(tt.steps)
		if got.Name != tt.want || count != tt.count {
			t.Errorf("%s: %q of %d, want %q of %d", name, got.Name, count, tt.want, tt.count)
		}
	}
}

func TestPlainDisplayWritesALineAnEvent(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := newPlain(&out, []string{"train", "evaluate", "promote"})
	for _, e := range events() {
		d.observe(e)
	}
	d.close()
	got := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d  `).ReplaceAllString(out.String(), "")
	want := `train     running
train     epoch 1/3, loss 0.5123, validation accuracy 0.9000
train     warning: slow
train     exit code 75 (busy): trying again in 5s
train     running (attempt 2)
train     done in 2.3 s: trained
evaluate  failed: no rows
promote   not run
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBarsEndWhateverHappened(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := newBars(&out, []string{"train", "evaluate", "promote", "never"})
	for _, e := range events() {
		d.observe(e)
	}
	ended := make(chan struct{})
	go func() { d.close(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the display does not end")
	}
}

func TestAddressesOfServicesAreShownWithoutPasswords(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	binding := filepath.Join(root, "registry")
	if err := os.Mkdir(binding, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"type": "mlflow", "uri": "https://user:secret@registry.example.com/mlflow"} {
		if err := os.WriteFile(filepath.Join(binding, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := address(root, "mlflow", "uri"); got != "https://registry.example.com/mlflow" {
		t.Errorf("got %q", got)
	}
	if got := address(root, "s3", "endpoint"); got != "" {
		t.Errorf("without a binding: %q", got)
	}
}

func TestRunJSONHasTheDocumentedKeys(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "a", "run.json")
	s := &runJSON{Workflow: "w", Steps: []stepSummary{{Name: "a", Status: "Succeeded", Outputs: map[string]string{}}}}
	if err := s.write(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	var keys []string
	var collect func(prefix string, v any)
	collect = func(prefix string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				keys = append(keys, prefix+k)
				collect(prefix+k+".", inner)
			}
		case []any:
			collect(prefix, v[0])
		}
	}
	collect("", got)
	slices.Sort(keys)
	want := strings.Fields(`exit_code git_sha inference inference.dsn_without_password inference.schema metrics mlflow_url model model.alias model.name
		model.run_id model.version report s3_endpoint seconds steps steps.name steps.outputs steps.seconds steps.status training
		training.dsn_without_password training.schema workflow`)
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCommandLineMistakesAreRefusedWithExitCode2(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args []string
		want string
	}{
		"an unknown command":   {[]string{"rnu"}, `no command "rnu"`},
		"an unknown flag":      {[]string{"run", pipeline, "--bogus"}, "bogus"},
		"an unknown parameter": {[]string{"run", pipeline, "-p", "epcohs=3"}, `did you mean "epochs"?`},
		"a missing workflow":   {[]string{"run", "nowhere.yaml"}, "nowhere.yaml"},
		"two workflows":        {[]string{"run", "a.yaml", "b.yaml"}, "expected one workflow file"},
		"a missing ML app":     {[]string{"run", pipeline, "--app", "nowhere"}, "nowhere"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			if code := execute(t.Context(), nil, append([]string{"insitu"}, tt.args...), &out, &errs); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			if !strings.Contains(errs.String(), tt.want) {
				t.Errorf("said %q, want %q", errs.String(), tt.want)
			}
		})
	}
}

func TestRunHelpListsEveryParameter(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if code := execute(t.Context(), nil, []string{"insitu", "run", pipeline, "--help"}, &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	for _, p := range load(t).Parameters() {
		if !strings.Contains(out.String(), "\n   "+p.Name+" ") || !strings.Contains(out.String(), p.Description) {
			t.Errorf("the help does not explain %q", p.Name)
		}
	}
	if !strings.Contains(out.String(), "Examples:") {
		t.Error("the help has no examples")
	}
}
