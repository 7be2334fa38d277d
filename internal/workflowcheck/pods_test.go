package workflowcheck_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/util/expr/argoexpr"
	exprenv "github.com/argoproj/argo-workflows/v3/util/expr/env"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// pods calls check for every template that makes a pod, with the containers in it.
func pods(t *testing.T, check func(t *testing.T, tmpl *wfv1.Template, containers []corev1.Container)) {
	t.Helper()
	count := 0
	for name, w := range load(t) {
		for i := range w.Spec.Templates {
			tmpl := &w.Spec.Templates[i]
			var containers []corev1.Container
			switch {
			case tmpl.Container != nil:
				containers = []corev1.Container{*tmpl.Container}
			case tmpl.ContainerSet != nil:
				for _, c := range tmpl.ContainerSet.GetContainers() {
					c.VolumeMounts = append(c.VolumeMounts, tmpl.ContainerSet.VolumeMounts...)
					containers = append(containers, c)
				}
			case tmpl.DAG != nil || tmpl.Suspend != nil || tmpl.Resource != nil: // the last has Argo's own containers, see monitoring_test.go
				continue
			default:
				t.Errorf("%s: template %q is of a kind these workflows do not use", name, tmpl.Name)
				continue
			}
			count++
			t.Run(name+"/"+tmpl.Name, func(t *testing.T) {
				t.Parallel()
				check(t, tmpl, containers)
			})
		}
	}
	if want := len(tasks()) + 1 + 3; count != want { // the steps, the smoke test and the monitor; the summary; learn, release and the summary
		t.Errorf("found %d templates that make pods, expected %d", count, want)
	}
}

func TestEveryPodMayRunInARestrictedNamespace(t *testing.T) {
	t.Parallel()
	uid, yes, no := int64(65532), true, false
	pods(t, func(t *testing.T, tmpl *wfv1.Template, containers []corev1.Container) {
		seccomp := &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
		pod := &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &uid, RunAsGroup: &uid, FSGroup: &uid, SeccompProfile: seccomp}
		if diff := cmp.Diff(pod, tmpl.SecurityContext); diff != "" {
			t.Errorf("securityContext (-want +template):\n%s", diff)
		}
		dropped := &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
		own := dropped.DeepCopy()
		own.ReadOnlyRootFilesystem = &yes
		for _, c := range containers {
			if diff := cmp.Diff(own, c.SecurityContext); diff != "" {
				t.Errorf("%s: securityContext (-want +container):\n%s", c.Name, diff)
			}
		}
		// Argo's own two containers have none unless the controller's configuration says so; the patch gives them one.
		patched := patch(t, corev1.PodSpec{InitContainers: []corev1.Container{{Name: "init"}}, Containers: []corev1.Container{{Name: "wait"}, {Name: "main"}}}, tmpl.PodSpecPatch)
		want := corev1.PodSpec{InitContainers: []corev1.Container{{Name: "init", SecurityContext: dropped}}, Containers: []corev1.Container{{Name: "wait", SecurityContext: dropped}, {Name: "main"}}}
		if diff := cmp.Diff(want, patched); diff != "" {
			t.Errorf("podSpecPatch (-want +got):\n%s", diff)
		}
	})
}

// patch does what Argo does with a podSpecPatch.
func patch(t *testing.T, pod corev1.PodSpec, text string) corev1.PodSpec {
	t.Helper()
	before, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	if before, err = yaml.YAMLToJSON(before); err != nil {
		t.Fatal(err)
	}
	change, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	after, err := strategicpatch.StrategicMergePatch(before, change, corev1.PodSpec{})
	if err != nil {
		t.Fatal(err)
	}
	var out corev1.PodSpec
	if err := yaml.UnmarshalStrict(after, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEveryContainerIsOfThisVersionAndHasItsLimits(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../VERSION")
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimSpace(string(text))
	pods(t, func(t *testing.T, tmpl *wfv1.Template, containers []corev1.Container) {
		for _, c := range containers {
			if len(c.Command) != 1 {
				t.Errorf("%s: command %q", c.Name, c.Command)
				continue
			}
			if want := fmt.Sprintf("insitu/%s:%s", c.Command[0], version); c.Image != want || c.ImagePullPolicy != corev1.PullIfNotPresent {
				t.Errorf("%s: image %s %s, expected %s IfNotPresent", c.Name, c.Image, c.ImagePullPolicy, want)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: resources %v: expected requests of processor and memory, and a limit of memory", c.Name, c.Resources)
			}
			for _, e := range c.Env {
				if e.ValueFrom != nil {
					t.Errorf("%s: %s has a valueFrom: secrets are files below /bindings", c.Name, e.Name)
				}
			}
			mounts := map[string]string{}
			for _, m := range c.VolumeMounts {
				mounts[m.MountPath] = m.Name
			}
			if mounts["/tmp"] != "tmp" {
				t.Errorf("%s: mounts %v: /tmp is not the volume tmp", c.Name, mounts)
			}
		}
		for _, v := range tmpl.Volumes {
			if (v.Name == "tmp") != (v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil) || (v.Name == "tmp") == (v.Secret != nil) {
				t.Errorf("volume %+v: expected tmp as an emptyDir with a sizeLimit, and else secrets", v)
			}
		}
		labels := map[string]string{"app.kubernetes.io/name": tmpl.Name, "app.kubernetes.io/part-of": "insitu"}
		if diff := cmp.Diff(labels, tmpl.Metadata.Labels); diff != "" {
			t.Errorf("labels (-want +template):\n%s", diff)
		}
		if tmpl.ServiceAccountName != "" || tmpl.AutomountServiceAccountToken != nil {
			t.Error("the service account is the workflow's")
		}
		if tmpl.ActiveDeadlineSeconds == nil || tmpl.ActiveDeadlineSeconds.IntValue() < 300 || tmpl.ActiveDeadlineSeconds.IntValue() > 2*24*3600 {
			t.Errorf("activeDeadlineSeconds is %v", tmpl.ActiveDeadlineSeconds)
		}
	})
}

// TestWhatIsTriedAgain has what Argo 3.7 says of an attempt's end on a real cluster.
func TestWhatIsTriedAgain(t *testing.T) {
	t.Parallel()
	ends := []struct {
		what, code, message string
		again               bool
	}{
		{"temporary failure", "75", "main: Error (exit code 75): connect to database: connection refused", true},
		{"temporary failure that tells of a deadline", "75", "main: Error (exit code 75): context deadline exceeded", true},
		{"failure", "1", "main: Error (exit code 1): no such table", false},
		{"wrong settings", "2", "main: Error (exit code 2): --epochs is \"x\"", false},
		{"out of memory", "137", "main: OOMKilled (exit code 137)", false},
		{"stopped", "130", "main: Error (exit code 130): stopped by SIGINT", false},
		{"pod deleted or evicted, the step's end was seen", "143", "main: Error (exit code 143): stopped by SIGTERM", true},
		{"pod deleted or evicted, its end was not seen", "-1", "pod deleted", true},
		{"the node ran out of something", "137", "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. ", true},
		{"over the template's deadline", "143", "Pod was active on the node longer than the specified deadline", false},
		{"over the template's deadline, without a code", "-1", "Pod was active on the node longer than the specified deadline", false},
		{"over the workflow's deadline", "143", "Step exceeded its deadline", false},
		{"no such artifact", "-1", "init: Error (exit code 64): artifact app failed to load: The specified key does not exist.", false},
		{"the namespace does not allow the pod", "-1", `pods "x" is forbidden: violates PodSecurity "restricted:latest"`, false},
		{"more in /tmp than allowed", "-1", `Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". `, false},
		{"container set: temporary failure of the one before last", "64", `main: Error (exit code 64): dependency "train-model" exited with non-zero code: 75`, true},
		{"container set: failure of the one before last", "64", `main: Error (exit code 64): dependency "train-model" exited with non-zero code: 1`, false},
		{"container set: temporary failure while another works", "143", "deploy-training-code: Error (exit code 75): deploy-training-code: database is starting", true},
		{"container set: wrong settings while another works", "143", "deploy-training-code: Error (exit code 2): deploy-training-code: --app is missing", false},
		{"container set: pod deleted or evicted", "143", "main: Error (exit code 143)", true},
	}
	pods(t, func(t *testing.T, tmpl *wfv1.Template, _ []corev1.Container) {
		r := tmpl.RetryStrategy
		if r == nil || r.Limit == nil || r.Backoff == nil || r.Backoff.Duration == "" || r.Backoff.Factor == nil || r.RetryPolicyActual() != wfv1.RetryPolicyAlways {
			t.Fatalf("retryStrategy is %+v, expected a limit, a backoff that grows, and an expression alone to decide", r)
		}
		for _, e := range ends {
			got, err := argoexpr.EvalBool(r.Expression, exprenv.GetFuncMap(map[string]any{"lastRetry.exitCode": e.code, "lastRetry.message": e.message, "lastRetry.status": "Failed", "lastRetry.duration": "1", "retries": "0"}))
			if err != nil || got != e.again {
				t.Errorf("%s: exit code %s, %q: tried again is %v, %v; expected %v", e.what, e.code, e.message, got, err, e.again)
			}
		}
	})
}

func TestNothingIsAScript(t *testing.T) {
	t.Parallel()
	pods(t, func(t *testing.T, tmpl *wfv1.Template, containers []corev1.Container) {
		for _, c := range containers {
			for _, text := range append(append([]string{}, c.Command...), c.Args...) {
				if !regexp.MustCompile(`^[a-z-]+$`).MatchString(text) {
					t.Errorf("%s: %q in the command: values pass by environment", c.Name, text)
				}
			}
		}
		if len(tmpl.Sidecars)+len(tmpl.InitContainers) > 0 {
			t.Error("there are sidecars or init containers")
		}
	})
}
