package gitops

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/workflow/templateresolution"
	"github.com/argoproj/argo-workflows/v3/workflow/validate"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	workflows = "../../workflows"
	shipped   = workflows + "/app"
	sha       = "0123456789abcdef0123456789abcdef01234567"
	url       = "https://git.example.com/team/digits"
)

// ytt returns what ytt prints, or what it complains of.
func ytt(t *testing.T, args ...string) (string, error) {
	t.Helper()
	program, err := exec.LookPath("ytt")
	if err != nil {
		t.Skip("ytt is not on PATH: scripts/install.sh test puts it there")
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), nil
}

// render renders the shipped files with further values, name=value, where the value is YAML.
func render(t *testing.T, values ...string) (string, error) {
	t.Helper()
	args := []string{"-f", shipped + "/pipeline.yaml", "-f", shipped + "/values.yaml"}
	for _, v := range values {
		flag := "--data-value-yaml"
		if strings.HasPrefix(v, "git_sha=") { // digits only would be a number
			flag = "--data-value"
		}
		args = append(args, flag, v)
	}
	return ytt(t, args...)
}

func mustRender(t *testing.T, values ...string) string {
	t.Helper()
	out, err := render(t, append([]string{"git_sha=" + sha, "git_repo_url=" + url}, values...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// workflow is the one Workflow of what was rendered.
func workflow(t *testing.T, rendered string) *wfv1.Workflow {
	t.Helper()
	var found *wfv1.Workflow
	for document := range strings.SplitSeq(rendered, "\n---\n") {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			t.Fatal(err)
		}
		if kind.Kind != "Workflow" {
			continue
		}
		if found != nil {
			t.Fatal("there are two Workflows")
		}
		found = new(wfv1.Workflow)
		if err := yaml.UnmarshalStrict([]byte(document), found); err != nil {
			t.Fatal(err)
		}
	}
	if found == nil {
		t.Fatalf("there is no Workflow:\n%s", rendered)
	}
	return found
}

// everything sets each value there is but the name, the pipeline and the commit, each to something else than its default.
var everything = []string{
	"num_versions=3", "git_repo_path=ml/digits", "git_repo_secret=ml-app-repository",
	"experiment_name=spring", "model_name=digits_team", "model_stage=production", "training_db_schema=team", "inference_db_schema=serving",
	"training_binding=postgres", "inference_binding=postgres", "dataset=s3://data/digits.csv", "format=csv", "label=digit",
	`split="0.8,0.1,0.1"`, "split_seed=1", "pack_size=64", "epochs=3", `parameters={"hidden": 64, "kind": "relu"}`, `sweep={"learning_rate": [0.01, 0.003]}`, "seed=7", "shards=4", `warm_start="1"`,
	"min_accuracy=0.5", "min_f1=0", "tolerance=0.02", "live_evidence=500", "approval=required", "activate=false", "parity_rows=16", "api_url=http://insitu-api", "log_level=debug",
}

func TestWhatIsRenderedIsAsExpected(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"defaults":   nil,
		"everything": everything,
		"ssh":        {"git_repo_url=git@git.example.com:team/digits.git", "git_repo_secret=ml-app-repository"},
		"express":    {"pipeline=in-database-pipeline-express", "shards=4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := mustRender(t, values...)
			golden := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-golden +rendered; -update writes it):\n%s", golden, diff)
			}
		})
	}
}

func TestWrongValuesAreRefusedByName(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		values []string
		want   string
	}{
		"a typo":                          {[]string{"epoch=3"}, "there is no value epoch; there are activate, api_url, approval, dataset, epochs, experiment_name,"},
		"text for a whole number":         {[]string{"epochs=ten"}, `epochs is "ten": expected a whole number`},
		"a fraction for a whole number":   {[]string{"shards=1.5"}, "shards is 1.5: expected a whole number"},
		"text for a number":               {[]string{"min_f1=high"}, `min_f1 is "high": expected a number`},
		"a number for text":               {[]string{"label=7"}, "label is 7: expected text: put it in quotes"},
		"a truth value for text":          {[]string{"experiment_name=yes"}, "experiment_name is true: expected text: put it in quotes"},
		"a list for a mapping":            {[]string{"parameters=[1]"}, "parameters is [1]: expected a mapping"},
		"a number for a sweep":            {[]string{"sweep=3"}, "sweep is 3: expected a mapping"},
		"a sweep in two pods":             {[]string{"pipeline=in-database-pipeline-express", `sweep={"epochs": [1, 2]}`}, "in-database-pipeline-express has no sweep: set pipeline to in-database-pipeline"},
		"another pipeline":                {[]string{"pipeline=mine"}, `pipeline is "mine": expected one of in-database-pipeline, in-database-pipeline-express`},
		"a choice that is none":           {[]string{"approval=maybe"}, `approval is "maybe": expected one of none, required`},
		"a name of an older pipeline":     {[]string{"mlflow_tracking_uri=http://mlflow"}, "mlflow_tracking_uri is no value any more: the Secret insitu-mlflow says where MLflow is"},
		"two mistakes, the second one":    {[]string{"epoch=3", "shards=x"}, `shards is "x": expected a whole number`},
		"a short commit":                  {[]string{"git_sha=0123456"}, `the commit is "0123456": expected its 40 hexadecimal digits`},
		"a branch for a commit":           {[]string{"git_sha=main"}, `the commit is "main"`},
		"no commit":                       {[]string{"git_sha="}, "which commit is this? Add .git/logs/HEAD to the files, or set git_sha"},
		"no repository":                   {[]string{`git_repo_url=""`}, "which repository is this? Add .git/config to the files, or set git_repo_url"},
		"a repository on this machine":    {[]string{"git_repo_url=/home/me/digits"}, `git_repo_url is "/home/me/digits": expected https://, ssh:// or user@host:path, which pods can reach`},
		"a password in the URL":           {[]string{"git_repo_url=https://me:secret@git.example.com/digits"}, "git_repo_url holds a password: put it in a Secret"},
		"a Secret that would not be used": {[]string{"git_repo_url=git://git.example.com/digits", "git_repo_secret=x"}, "git_repo_secret is of no use for git://"},
		"a folder outside":                {[]string{"git_repo_path=../other"}, `git_repo_path is "../other": expected a folder of the repository`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := render(t, append([]string{"git_sha=" + sha, "git_repo_url=" + url}, test.values...)...)
			if err == nil {
				t.Fatalf("rendered:\n%s", out)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v\nexpected %q", err, test.want)
			}
			if strings.Contains(err.Error(), "secret@") {
				t.Errorf("the password is shown: %v", err)
			}
		})
	}
}

// app is what these tests know of kapp-controller's App: the fields of the CustomResourceDefinition
// apps.kappctrl.k14s.io that pipeline_app.yaml uses. Reading it strictly refuses every other.
// Source: the types under pkg/apis/kappctrl/v1alpha1 of github.com/carvel-dev/kapp-controller, the same in v0.51 and later.
type app struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		ServiceAccountName string `json:"serviceAccountName"`
		SyncPeriod         string `json:"syncPeriod"`
		Fetch              []struct {
			Git struct {
				URL       string                `json:"url"`
				Ref       string                `json:"ref"`
				SecretRef struct{ Name string } `json:"secretRef"`
			} `json:"git"`
		} `json:"fetch"`
		Template []struct {
			Ytt struct {
				Paths      []string `json:"paths"`
				ValuesFrom []struct {
					DownwardAPI struct {
						Items []struct {
							Name      string `json:"name"`
							FieldPath string `json:"fieldPath"`
						} `json:"items"`
					} `json:"downwardAPI"`
				} `json:"valuesFrom"`
			} `json:"ytt"`
		} `json:"template"`
		Deploy []struct {
			Kapp struct {
				RawOptions []string `json:"rawOptions"`
			} `json:"kapp"`
		} `json:"deploy"`
	} `json:"spec"`
}

func readApp(t *testing.T) app {
	t.Helper()
	text, err := os.ReadFile(shipped + "/pipeline_app.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var a app
	if err := yaml.UnmarshalStrict(text, &a); err != nil {
		t.Fatalf("pipeline_app.yaml: %v", err)
	}
	return a
}

func TestTheAppIsOneThatKappControllerTakes(t *testing.T) {
	t.Parallel()
	a := readApp(t)
	if a.APIVersion != "kappctrl.k14s.io/v1alpha1" || a.Kind != "App" {
		t.Errorf("it is a %s of %s", a.Kind, a.APIVersion)
	}
	if len(a.Spec.Fetch) != 1 || len(a.Spec.Template) != 1 || len(a.Spec.Deploy) != 1 {
		t.Fatalf("%d fetch, %d template, %d deploy: expected one each", len(a.Spec.Fetch), len(a.Spec.Template), len(a.Spec.Deploy))
	}
	// kapp-controller passes these on and refuses others, such as --yes or --app.
	allowed := []string{"--wait-timeout", "--wait-check-interval", "--app-changes-max-to-keep", "--apply-timeout", "--diff-changes", "--logs"}
	for _, option := range a.Spec.Deploy[0].Kapp.RawOptions {
		if name, _, ok := strings.Cut(option, "="); !ok || !slices.Contains(allowed, name) {
			t.Errorf("kapp-controller does not pass on %q", option)
		}
	}
	account, err := os.ReadFile(shipped + "/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(account), "\n  name: "+a.Spec.ServiceAccountName+"\n") {
		t.Errorf("rbac.yaml has no ServiceAccount %q", a.Spec.ServiceAccountName)
	}
}

// git runs a command of Git in a directory, without this user's settings.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	home := t.TempDir()
	cmd.Env = []string{"PATH=" + filepath.Dir(must(exec.LookPath("git"))), "HOME=" + home, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// fetchings are the ways in which versions of kapp-controller (of vendir, which it calls) check a commit out.
// HEAD then holds the commit or the name of a branch; its log holds the commit in every case.
var fetchings = map[string][][]string{
	"a branch of the remote":        {{"fetch", "origin"}, {"checkout", "origin/main"}},
	"a branch made for it":          {{"fetch", "origin", "main", "--depth", "1"}, {"checkout", "main"}},
	"a tag":                         {{"fetch", "origin"}, {"checkout", "v1"}},
	"the head that was fetched":     {{"fetch", "origin", "main:refs/remotes/origin/main", "--depth", "1"}, {"checkout", "FETCH_HEAD"}},
	"an unborn branch of that name": {{"symbolic-ref", "HEAD", "refs/heads/main"}, {"fetch", "origin", "main"}, {"checkout", "main"}},
}

func TestTheRunIsThatOfTheCommitThatWasFetched(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not on PATH")
	}
	a := readApp(t)
	origin := t.TempDir()
	git(t, origin, "init", "-q", "-b", "main")
	for _, name := range []string{"pipeline.yaml", "values.yaml", "pipeline_app.yaml"} {
		if err := os.WriteFile(filepath.Join(origin, name), must(os.ReadFile(filepath.Join(shipped, name))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git(t, origin, "add", ".")
	git(t, origin, "commit", "-qm", "first")
	git(t, origin, "commit", "-qm", "second", "--allow-empty")
	git(t, origin, "tag", "v1")
	head := git(t, origin, "rev-parse", "HEAD")

	for name, commands := range fetchings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			git(t, dir, "init", "-q")
			git(t, dir, "config", "http.extraHeader", "Authorization: Basic c2VjcmV0") // as kapp-controller keeps a password
			git(t, dir, "remote", "add", "origin", "file://"+origin)
			for _, command := range commands {
				git(t, dir, append([]string{"-c", "advice.detachedHead=false"}, command...)...)
			}
			git(t, dir, "remote", "set-url", "origin", a.Spec.Fetch[0].Git.URL)

			var args []string
			for _, path := range a.Spec.Template[0].Ytt.Paths {
				args = append(args, "-f", filepath.Join(dir, path))
			}
			downward := filepath.Join(t.TempDir(), "downwardapi_0.yaml")
			item := a.Spec.Template[0].Ytt.ValuesFrom[0].DownwardAPI.Items[0]
			if item.FieldPath != "metadata.name" {
				t.Fatalf("the App passes on %+v", item)
			}
			if err := os.WriteFile(downward, fmt.Appendf(nil, "%s: spring-digits\n", item.Name), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := ytt(t, append(args, "--data-values-file", downward)...)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out, "c2VjcmV0") {
				t.Error("the password of the repository is rendered")
			}
			wf := workflow(t, out)
			source := wf.Spec.Arguments.Artifacts[0].Git
			got := []string{wf.Name, wf.Labels["insitu/git-sha"], wf.Spec.Arguments.GetParameterByName("git-sha").Value.String(), source.Revision, source.Repo}
			if diff := cmp.Diff([]string{"spring-digits", head, head, head, a.Spec.Fetch[0].Git.URL}, got); diff != "" {
				t.Errorf("(-expected +rendered):\n%s", diff)
			}
		})
	}
}

// templates are the shipped WorkflowTemplates by name. They serve Argo's validator as the cluster would.
type templates map[string]*wfv1.WorkflowTemplate

func (t templates) Get(name string) (*wfv1.WorkflowTemplate, error) {
	if found, ok := t[name]; ok {
		return found, nil
	}
	return nil, fmt.Errorf("no WorkflowTemplate %q in %s", name, workflows)
}

func load(t *testing.T) templates {
	t.Helper()
	out := templates{}
	for _, pattern := range []string{"*.yaml", "steps/*.yaml"} {
		for _, file := range must(filepath.Glob(filepath.Join(workflows, pattern))) {
			w := new(wfv1.WorkflowTemplate)
			if text := must(os.ReadFile(file)); yaml.Unmarshal(text, w) == nil && w.Kind == "WorkflowTemplate" {
				out[w.Name] = w
			}
		}
	}
	return out
}

func TestTheRunSetsNothingThatStrictReferencesForbid(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(workflow(t, mustRender(t, everything...)).Spec)
	if err != nil {
		t.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	// Of what Argo's ValidateUserOverrides lets through.
	if diff := cmp.Diff([]string{"arguments", "ttlStrategy", "workflowTemplateRef"}, slices.Sorted(maps.Keys(spec))); diff != "" {
		t.Errorf("fields of the spec (-expected +rendered):\n%s", diff)
	}
}

func TestArgoAcceptsTheRun(t *testing.T) {
	t.Parallel()
	all := load(t)
	for name, values := range map[string][]string{"defaults": nil, "everything": everything} {
		wf := workflow(t, mustRender(t, values...))
		wf.Name += "-ver-1"
		if err := validate.ValidateWorkflow(all, &templateresolution.NullClusterWorkflowTemplateGetter{}, wf, nil, validate.ValidateOpts{Submit: true}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryParameterOfThePipelinesCanBeSetAndNoOther(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"in-database-pipeline", "in-database-pipeline-express"} {
		pipeline, err := load(t).Get(name)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{}
		for _, p := range pipeline.Spec.Arguments.Parameters {
			want[p.Name] = true
		}
		delete(want, "reason") // what a retraining says of itself; the reason of these runs is their commit
		values := append(slices.Clone(everything), "pipeline="+name)
		if name == "in-database-pipeline-express" {
			values = slices.DeleteFunc(values, func(v string) bool { return strings.HasPrefix(v, "sweep=") })
		}
		got := map[string]bool{}
		for _, p := range workflow(t, mustRender(t, values...)).Spec.Arguments.Parameters {
			got[p.Name] = true
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("parameters (-%s +values):\n%s", name, diff)
		}
	}
}

func TestTheChoicesAreThoseOfThePipeline(t *testing.T) {
	t.Parallel()
	pipeline, err := load(t).Get("in-database-pipeline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pipeline.Spec.Arguments.Parameters {
		if len(p.Enum) == 0 {
			continue
		}
		var choices []string
		for _, c := range p.Enum {
			if c.String() != "" {
				choices = append(choices, c.String())
			}
		}
		_, err := render(t, "git_sha="+sha, "git_repo_url="+url, strings.ReplaceAll(p.Name, "-", "_")+"=none-of-these")
		if want := "expected one of " + strings.Join(choices, ", ") + "\n"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nexpected %q", p.Name, err, want)
		}
	}
}

func TestNothingOfTheTemplateEndsARunsLifeBeforeKapp(t *testing.T) {
	t.Parallel()
	const years = 60 * 365 * 24 * 3600
	ttl := workflow(t, mustRender(t)).Spec.TTLStrategy
	if ttl == nil {
		t.Fatal("there is no ttlStrategy: that of the WorkflowTemplate would delete the run, and kapp-controller would run it again")
	}
	for name, seconds := range map[string]*int32{"completion": ttl.SecondsAfterCompletion, "success": ttl.SecondsAfterSuccess, "failure": ttl.SecondsAfterFailure} {
		if seconds == nil || *seconds < years {
			t.Errorf("the run is deleted %v seconds after %s", seconds, name)
		}
	}
}

func TestEveryValueIsListedWithAComment(t *testing.T) {
	t.Parallel()
	text := string(must(os.ReadFile(shipped + "/values.yaml")))
	lines := strings.Split(text, "\n")
	listed := map[string]bool{}
	key := regexp.MustCompile(`^([a-z0-9_]+):`)
	for i, line := range lines {
		if m := key.FindStringSubmatch(line); m != nil {
			listed[m[1]] = true
			if !strings.HasPrefix(lines[i-1], "#! ") {
				t.Errorf("%s has no comment", m[1])
			}
		}
	}
	_, err := render(t, "git_sha="+sha, "git_repo_url="+url, "no_such_value=1")
	if err == nil {
		t.Fatal("an unknown value was rendered")
	}
	_, names, _ := strings.Cut(err.Error(), "there are ")
	names, _, _ = strings.Cut(names, "\n")
	known := map[string]bool{}
	for name := range strings.SplitSeq(names, ", ") {
		known[name] = true
	}
	delete(known, "name") // the App's name
	if diff := cmp.Diff(slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(listed))); diff != "" {
		t.Errorf("values (-known +listed in values.yaml):\n%s", diff)
	}
}
