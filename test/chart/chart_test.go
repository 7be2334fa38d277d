package chart

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/insitu-ml/insitu/internal/localservices"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	chartDir     = "../../charts/insitu"
	workflowsDir = "../../workflows"
)

// object is one rendered manifest.
type object map[string]any

func (o object) kind() string { return str(o, "kind") }
func (o object) name() string { return str(at(o, "metadata"), "name") }

// at follows keys through maps; nil where there is none.
func at(v any, keys ...string) any {
	for _, key := range keys {
		switch m := v.(type) {
		case map[string]any:
			v = m[key]
		case object:
			v = m[key]
		default:
			return nil
		}
	}
	return v
}

func str(v any, keys ...string) string {
	s, _ := at(v, keys...).(string)
	return s
}

func items(v any) []any {
	list, _ := v.([]any)
	return list
}

func valueSets(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.values.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("value sets: %v, %v", paths, err)
	}
	var names []string
	for _, path := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".values.yaml"))
	}
	return names
}

func values(set string) string { return filepath.Join("testdata", set+".values.yaml") }

// tool returns a program that scripts/install.sh chart installs.
func tool(t *testing.T, name string) string {
	t.Helper()
	if path := filepath.Join(tools(), "bin", name); executable(path) {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: run scripts/install.sh chart", name)
	}
	return path
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&0o111 != 0
}

func tools() string {
	if dir := os.Getenv("INSITU_TOOLS"); dir != "" {
		return dir
	}
	return localservices.DefaultTools()
}

// helm runs helm without a cluster and without the user's settings.
func helm(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command(tool(t, "helm"), args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "KUBECONFIG=/nonexistent", "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func render(t *testing.T, args ...string) (string, []object) {
	t.Helper()
	args = append([]string{"template", "insitu", chartDir, "--namespace", "ml"}, args...)
	out, errs, err := helm(t, args...)
	if err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, errs)
	}
	var objects []object
	for _, text := range regexp.MustCompile(`(?m)^---\n`).Split(out, -1) {
		var o object
		if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
			t.Fatalf("parse what helm rendered: %v\n%s", err, text)
		}
		if o != nil {
			objects = append(objects, o)
		}
	}
	return out, objects
}

// The WorkflowTemplates are left out: another test compares them with workflows/.
func TestTheChartRendersAsTheGoldenFilesSay(t *testing.T) {
	t.Parallel()
	for _, set := range valueSets(t) {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			_, objects := render(t, "-f", values(set))
			var got strings.Builder
			got.WriteString("# What helm renders for " + set + ".values.yaml; written by go test ./test/chart -update.\n")
			for _, o := range objects {
				if o.kind() == "WorkflowTemplate" {
					continue
				}
				text, err := yaml.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				got.WriteString("---\n" + string(text))
			}
			golden := filepath.Join("testdata", set+".golden.yaml")
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v; run go test ./test/chart -update", err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("run go test ./test/chart -update if this is meant (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHelmFindsNothingToComplainAbout(t *testing.T) {
	t.Parallel()
	for _, set := range valueSets(t) {
		if out, errs, err := helm(t, "lint", "--strict", chartDir, "-f", values(set)); err != nil {
			t.Errorf("helm lint --strict -f %s: %v\n%s%s", values(set), err, out, errs)
		}
	}
}

func TestTheAPIServersSchemasAcceptEverything(t *testing.T) {
	t.Parallel()
	kubeconform := tool(t, "kubeconform")
	dir := schemas(t)
	for _, set := range valueSets(t) {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			out, objects := render(t, "-f", values(set))
			cmd := exec.Command(kubeconform, "-strict", "-summary", "-schema-location", filepath.Join(dir, "{{.ResourceKind}}.json"), "-")
			cmd.Stdin = strings.NewReader(out)
			report, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("kubeconform: %v\n%s", err, report)
			}
			// A resource that is skipped is not checked.
			if want := "Skipped: 0"; !strings.Contains(string(report), want) || len(objects) < 10 {
				t.Errorf("expected %q and at least 10 resources, have %d:\n%s", want, len(objects), report)
			}
		})
	}
}

func TestTheSchemasRefuseAMisspeltField(t *testing.T) {
	t.Parallel()
	kubeconform := tool(t, "kubeconform")
	dir := schemas(t)
	out, _ := render(t, "-f", values("production"))
	for old, broken := range map[string]string{
		"readinessProbe:":         "readynessProbe:",
		"concurrencyPolicy:":      "concurencyPolicy:",
		"imagePullPolicy: Always": "imagePullPolice: Always",
	} {
		text := strings.ReplaceAll(out, old, broken)
		if text == out {
			t.Fatalf("nothing has %q", old)
		}
		cmd := exec.Command(kubeconform, "-strict", "-schema-location", filepath.Join(dir, "{{.ResourceKind}}.json"), "-")
		cmd.Stdin = strings.NewReader(text)
		if report, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("%s passes:\n%s", broken, report)
		}
	}
}

// sources are the WorkflowTemplates of workflows/ by name.
func sources(t *testing.T) map[string]object {
	t.Helper()
	found := map[string]object{}
	for _, pattern := range []string{"in-database-pipeline*.yaml", "monitoring.yaml", "steps/*.yaml"} {
		paths, err := filepath.Glob(filepath.Join(workflowsDir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var o object
			if err := yaml.UnmarshalStrict(text, &o); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			found[o.name()] = o
		}
	}
	return found
}

// containers are those of a template, whatever it is made of.
func containers(template any) []map[string]any {
	all := append(items(at(template, "containerSet", "containers")), items(at(template, "initContainers"))...)
	all = append(all, items(at(template, "sidecars"))...)
	all = append(all, at(template, "container"), at(template, "script"))
	var found []map[string]any
	for _, c := range all {
		if m, ok := c.(map[string]any); ok {
			found = append(found, m)
		}
	}
	return found
}

func TestTheWorkflowTemplatesAreThoseOfTheFolderWorkflows(t *testing.T) {
	t.Parallel()
	_, objects := render(t)
	want := sources(t)
	for _, got := range objects {
		if got.kind() != "WorkflowTemplate" {
			continue
		}
		source, ok := want[got.name()]
		if !ok {
			t.Errorf("the chart has a WorkflowTemplate %s, workflows/ has not: run make generate", got.name())
			continue
		}
		delete(want, got.name())
		// What the chart adds: labels, and the pull policy it can set.
		for _, o := range []object{got, source} {
			delete(at(o, "metadata").(map[string]any), "labels")
			for _, template := range items(at(o, "spec", "templates")) {
				m := template.(map[string]any)
				delete(m, "metadata")
				for _, c := range containers(m) {
					delete(c, "imagePullPolicy")
				}
			}
		}
		if diff := cmp.Diff(source, got); diff != "" {
			t.Errorf("%s differs, run make generate (-workflows +chart):\n%s", got.name(), diff)
		}
	}
	for name := range want {
		t.Errorf("workflows/ has %s, the chart has not: run make generate", name)
	}
}

func TestValuesReachEveryWorkflowTemplate(t *testing.T) {
	t.Parallel()
	_, objects := render(t, "-f", values("production"))
	secrets := []string{"greenplum", "postgres", "bucket", "tracking"}
	parameters := map[string]string{"epochs": "20", "min-accuracy": "0.9", "training-binding": "postgresql/cnpg", "pack-size": "1000000"}
	trained, pipelines := 0, 0
	for _, o := range objects {
		if o.kind() != "WorkflowTemplate" {
			continue
		}
		if str(o, "spec", "entrypoint") != "" {
			pipelines++
			if got := str(o, "spec", "serviceAccountName"); got != "ml-pipeline" {
				t.Errorf("%s: serviceAccountName %q", o.name(), got)
			}
			if got := str(o, "spec", "nodeSelector", "pool"); got != "batch" {
				t.Errorf("%s: nodeSelector %q", o.name(), got)
			}
			for _, p := range items(at(o, "spec", "arguments", "parameters")) {
				if want, ok := parameters[str(p, "name")]; ok && str(p, "value") != want {
					t.Errorf("%s: parameter %s is %v, want %q", o.name(), str(p, "name"), at(p, "value"), want)
				}
			}
		}
		for _, template := range append(items(at(o, "spec", "templates")), at(o, "spec")) {
			for _, v := range items(at(template, "volumes")) {
				if name := str(v, "secret", "secretName"); name != "" && !slices.Contains(secrets, name) {
					t.Errorf("%s: mounts Secret %s", o.name(), name)
				}
			}
			for _, c := range containers(template) {
				if image := str(c, "image"); !regexp.MustCompile(`^registry\.example\.com:5000/platform/insitu/[a-z-]+:1\.2\.3$`).MatchString(image) || str(c, "imagePullPolicy") != "Always" {
					t.Errorf("%s: image %s, %s", o.name(), image, str(c, "imagePullPolicy"))
				}
				for _, from := range items(at(c, "envFrom")) {
					if name := str(from, "secretRef", "name"); name != "catalogs" || at(from, "secretRef", "optional") != true {
						t.Errorf("%s: variables come from the Secret %s, expected catalogs, which need not be there", o.name(), name)
					}
				}
				if strings.Contains(str(c, "image"), "/train-model:") {
					trained++
					if got := str(c, "resources", "limits", "memory"); got != "2Gi" {
						t.Errorf("%s: memory limit %q", o.name(), got)
					}
				}
				if got := str(template, "metadata", "labels", "app.kubernetes.io/component"); got != "pipeline" {
					t.Errorf("%s: template %s: its pods have component %q", o.name(), str(template, "name"), got)
				}
			}
		}
	}
	if trained == 0 || pipelines == 0 {
		t.Errorf("%d containers of train-model, %d pipelines", trained, pipelines)
	}
}

func TestThePipelinesMayReportResultsAndNothingElse(t *testing.T) {
	t.Parallel()
	_, objects := render(t, "-f", values("dev"))
	var roles []any
	for _, o := range objects {
		switch o.kind() {
		case "Role":
			roles = append(roles, at(o, "rules"))
		case "ClusterRole", "ClusterRoleBinding":
			t.Errorf("the chart has a %s", o.kind())
		case "ServiceAccount":
			if got, want := at(o, "automountServiceAccountToken"), o.name() == "insitu-pipeline"; got != want {
				t.Errorf("ServiceAccount %s: automountServiceAccountToken %v, want %v", o.name(), got, want)
			}
		}
	}
	want := []any{[]any{map[string]any{
		"apiGroups": []any{"argoproj.io"}, "resources": []any{"workflowtaskresults"}, "verbs": []any{"create", "patch"},
	}}}
	if diff := cmp.Diff(want, roles); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPasswordsAreInSecretsOnly(t *testing.T) {
	t.Parallel()
	for set, passwords := range map[string][]string{"dev": {"first-try"}, "bindings": {"first-try", "secret-1", "secret-2", "secret-3", "secret-4"}} {
		_, objects := render(t, "-f", values(set))
		seen := map[string]bool{}
		for _, o := range objects {
			text, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if o.kind() == "Secret" {
				for _, v := range at(o, "data").(map[string]any) {
					plain, err := base64.StdEncoding.DecodeString(v.(string))
					if err != nil {
						t.Fatalf("Secret %s: %v", o.name(), err)
					}
					for _, p := range passwords {
						seen[p] = seen[p] || strings.Contains(string(plain), p)
					}
				}
				continue
			}
			for _, p := range passwords {
				if strings.Contains(string(text), p) || strings.Contains(string(text), base64.StdEncoding.EncodeToString([]byte(p))) {
					t.Errorf("%s: %s %s holds the password %q", set, o.kind(), o.name(), p)
				}
			}
		}
		for _, p := range passwords {
			if !seen[p] {
				t.Errorf("%s: no Secret holds %q", set, p)
			}
		}
	}
}

func TestTheBindingSecretsHoldTheFilesOfTheContract(t *testing.T) {
	t.Parallel()
	_, objects := render(t, "-f", values("bindings"))
	got := map[string]map[string]string{}
	for _, o := range objects {
		if o.kind() != "Secret" {
			continue
		}
		files := map[string]string{}
		for file, v := range at(o, "data").(map[string]any) {
			plain, err := base64.StdEncoding.DecodeString(v.(string))
			if err != nil {
				t.Fatal(err)
			}
			files[file] = string(plain)
		}
		got[o.name()] = files
	}
	want := map[string]map[string]string{
		"insitu-training": {
			"type": "greenplum", "provider": "vmware", "host": "gp.example.com", "port": "5432", "database": "ml", "username": "insitu",
			"password": "secret-1", "sslmode": "verify-full", "sslrootcert": "-----BEGIN CERTIFICATE-----\n",
		},
		"insitu-inference": {"type": "postgres", "provider": "vmware", "uri": "postgresql://insitu:secret-2@pg.example.com:5433/serving?sslmode=require"},
		"insitu-s3": {
			"type": "s3", "endpoint": "http://insitu-dev-s3.ml.svc:7070", "bucket": "insitu", "region": "us-east-1",
			"access-key-id": "insitu", "secret-access-key": "first-try",
		},
		"insitu-mlflow": {"type": "mlflow", "uri": "http://insitu-dev-mlflow.ml.svc:5000"},
		// No binding: the environment of the steps.
		"insitu-catalog": {"OPENLINEAGE_URL": "https://lineage.example.com", "OPENLINEAGE_API_KEY": "secret-3", "DATAHUB_GMS_URL": "http://datahub-gms:8080", "DATAHUB_GMS_TOKEN": "secret-4"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The API server enforces this in the cluster; here it is told earlier, and of every pod the chart can make.
func TestEveryPodIsRestricted(t *testing.T) {
	t.Parallel()
	for set, pods := range map[string]int{"dev": 4, "production": 3} { // at the least: the four dev services; the API, pgAdmin, its import
		_, objects := render(t, "-f", values(set))
		found := 0
		for _, o := range objects {
			pod := at(o, "spec", "template", "spec")
			if pod == nil {
				continue
			}
			found++
			if at(pod, "securityContext", "runAsNonRoot") != true || str(pod, "securityContext", "seccompProfile", "type") != "RuntimeDefault" || at(pod, "automountServiceAccountToken") != false {
				t.Errorf("%s: %v", o.name(), at(pod, "securityContext"))
			}
			for _, c := range items(at(pod, "containers")) {
				got := at(c, "securityContext")
				want := map[string]any{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": map[string]any{"drop": []any{"ALL"}}}
				if diff := cmp.Diff(any(want), got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", o.name(), diff)
				}
				if at(c, "resources", "limits", "memory") == nil || at(c, "resources", "requests", "cpu") == nil ||
					o.kind() != "Job" && (at(c, "readinessProbe") == nil || at(c, "livenessProbe") == nil) {
					t.Errorf("%s: a container without limits or probes", o.name())
				}
			}
		}
		if found < pods {
			t.Errorf("%s: looked at %d pods, expected at least %d", set, found, pods)
		}
	}
}

func TestWrongValuesAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ set, want string }{
		"a misspelt key":                         {"dev.enable=true", "additional properties 'enable' not allowed"},
		"a misspelt file of a binding":           {"bindings.training.files.hostname=x", "additional properties 'hostname' not allowed"},
		"a word where true or false belongs":     {"api.enabled=yes", "got string, want boolean"},
		"a registry with a scheme":               {"image.registry=https://r.example.com", "/image/registry"},
		"a parameter the pipelines do not have":  {"pipeline.parameters.epoch=3", "pipeline.parameters.epoch: in-database-pipeline has no such parameter; it has activate, api-url, app, "},
		"a value that is no choice":              {"pipeline.parameters.approval=yes", `pipeline.parameters.approval: "yes" is no choice; expected one of ["none","required"]`},
		"a schedule's parameter that is none":    {"retraining[0].name=a,retraining[0].schedules[0]=@daily,retraining[0].parameters.epoch=3", "retraining: a: parameters.epoch: in-database-pipeline has no such parameter"},
		"a sweep in two pods":                    {"retraining[0].name=a,retraining[0].schedules[0]=@daily,retraining[0].pipeline=in-database-pipeline-express,retraining[0].parameters.sweep=x", "retraining: a: parameters.sweep: in-database-pipeline-express has no such parameter"},
		"resources of no step":                   {"pipeline.resources.train.limits.memory=1Gi", "pipeline.resources.train: no container of the pipelines has that name; expected one of deploy-inference-db, "},
		"a binding that lacks files":             {"bindings.training.files.host=h", "bindings.training.files: missing database, username (or uri)"},
		"an object store that lacks files":       {"bindings.s3.files.endpoint=https://s3", "bindings.s3.files: missing access-key-id, secret-access-key, bucket"},
		"a binding given twice":                  {"bindings.mlflow.existingSecret=a,bindings.mlflow.files.uri=http://m", "bindings.mlflow: existingSecret and files are both set, expected one of them"},
		"catalogs given twice":                   {"catalog.existingSecret=a,catalog.env.DATAHUB_GMS_URL=http://d", "catalog: existingSecret and env are both set, expected one of them"},
		"a variable that is no catalog's":        {"catalog.env.DATAHUB_URL=http://d", "DATAHUB_URL"},
		"reports to keep without an address":     {"artifactRepository.create=true", "artifactRepository.s3: missing endpoint (host:port) or bucket"},
		"a pgAdmin that nobody can log in to":    {"pgadmin.enabled=true", "pgadmin.credentialsSecret: expected the name of a Secret with the keys email and password"},
		"a schedule without its name":            {"retraining[0].schedules[0]=@daily", "missing property 'name'"},
		"a schedule of four fields":              {"retraining[0].name=a,retraining[0].schedules[0]=0 3 * *", "/retraining/0/schedules/0"},
		"two schedules of one name":              {"retraining[0].name=a,retraining[0].schedules[0]=@daily,retraining[1].name=a,retraining[1].schedules[0]=@daily", `two entries are named "a"`},
		"a check's parameter that is none":       {"monitoring[0].name=a,monitoring[0].schedules[0]=@daily,monitoring[0].parameters.psi=3", "monitoring: a: parameters.psi: monitoring has no such parameter"},
		"a retraining's parameter that is none":  {"monitoring[0].name=a,monitoring[0].schedules[0]=@daily,monitoring[0].arguments.epoch=3", "monitoring: a: arguments.epoch: in-database-pipeline has no such parameter"},
		"a retraining with a reason":             {"monitoring[0].name=a,monitoring[0].schedules[0]=@daily,monitoring[0].arguments.reason=x", "monitoring: a: arguments.reason: the check sets it itself"},
		"a check and a schedule of one name":     {"retraining[0].name=a,retraining[0].schedules[0]=@daily,monitoring[0].name=a,monitoring[0].schedules[0]=@daily", `two entries of monitoring and retraining are named "a"`},
		"a schedule for a pipeline that is none": {"retraining[0].name=a,retraining[0].schedules[0]=@daily,retraining[0].pipeline=train-model", "in-database-pipeline"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, errs, err := helm(t, "template", "insitu", chartDir, "--set", test.set)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || !strings.Contains(errs, test.want) {
				t.Errorf("--set %s: %v, expected %q in:\n%s", test.set, err, test.want, errs)
			}
		})
	}
}

func TestAReleaseIsOfTheVersionInTheFileVERSION(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("../../VERSION")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(chartDir, "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var chart object
	if err := yaml.Unmarshal(text, &chart); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"version", "appVersion"} {
		if got := str(chart, key); got != strings.TrimSpace(string(want)) {
			t.Errorf("Chart.yaml: %s %q, VERSION says %q: run make generate", key, got, strings.TrimSpace(string(want)))
		}
	}
}

func TestTheRolesAreThoseOfThePlainManifests(t *testing.T) {
	t.Parallel()
	var text []byte
	for _, file := range []string{"rbac.yaml", "cron/monitoring.yaml"} {
		part, err := os.ReadFile(filepath.Join(workflowsDir, file))
		if err != nil {
			t.Fatal(err)
		}
		text = append(append(text, "\n---\n"...), part...)
	}
	rules := func(objects []object) (out []any) {
		for _, o := range objects {
			if o.kind() == "Role" {
				out = append(out, []any{o.name(), o["rules"]})
			}
		}
		slices.SortFunc(out, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		return out
	}
	var plain []object
	for _, part := range strings.Split(string(text), "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(part), &o); err != nil {
			t.Fatal(err)
		}
		plain = append(plain, o)
	}
	_, objects := render(t, "--set", "monitoring[0].name=a,monitoring[0].schedules[0]=@daily")
	want := rules(plain)
	if diff := cmp.Diff(want, rules(objects)); diff != "" || len(want) != 2 {
		t.Errorf("%d roles in workflows/, rules (-workflows +chart):\n%s", len(want), diff)
	}
}

func TestTheValuesInTheDocumentationWork(t *testing.T) {
	t.Parallel()
	var text []byte
	for _, page := range []string{"deploy-helm.md", "monitoring.md"} {
		part, err := os.ReadFile(filepath.Join("../../docs", page))
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, part...)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	tried := 0
	for _, block := range blocks {
		if strings.HasPrefix(block[1], "apiVersion:") {
			continue
		}
		tried++
		path := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(path, []byte(block[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, errs, err := helm(t, "template", "insitu", chartDir, "-f", path); err != nil {
			t.Errorf("%v\n%s\n%s", err, errs, block[1])
		}
	}
	if tried < 5 {
		t.Errorf("found %d examples of values", tried)
	}
}
