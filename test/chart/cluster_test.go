package chart

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The images are not needed: this is about what the API server and Argo's definitions accept, and about what an upgrade changes.
func TestInARestrictedNamespaceEverythingIsAcceptedAndASecondUpgradeChangesNothing(t *testing.T) {
	t.Parallel()
	if os.Getenv("INSITU_E2E") != "1" {
		t.Skip("needs a cluster: INSITU_E2E is not 1 (make e2e sets it)")
	}
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	namespace := "insitu-chart-" + hex.EncodeToString(b)
	run := func(program string, args ...string) string {
		t.Helper()
		cmd := exec.Command(program, args...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out.String(), errs.String())
		}
		return out.String()
	}
	run("kubectl", "create", "namespace", namespace)
	t.Cleanup(func() { run("kubectl", "delete", "namespace", namespace, "--wait=false") })
	run("kubectl", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")

	args := []string{
		"--namespace", namespace, "--set", "dev.enabled=true", "--set", "api.enabled=true",
		"--set", "pgadmin.enabled=true", "--set", "pgadmin.credentialsSecret=pgadmin-login",
		"--set", "api.podDisruptionBudget.enabled=true", "--set", "api.autoscaling.enabled=true", "--set", "api.autoscaling.minReplicas=1", // else the autoscaler adds a pod
		"--set", "retraining[0].name=nightly", "--set", "retraining[0].schedules[0]=0 3 * * *",
	}
	run(tool(t, "helm"), append([]string{"install", "insitu", chartDir}, args...)...)

	// versions are the objects' states by kind and name, without their status.
	versions := func() map[string]string {
		t.Helper()
		var list struct{ Items []object }
		out := run("kubectl", "-n", namespace, "get", "-o", "json", "-l", "app.kubernetes.io/managed-by=Helm",
			"serviceaccounts,secrets,configmaps,roles,rolebindings,services,networkpolicies,workflowtemplates,cronworkflows,deployments,poddisruptionbudgets,horizontalpodautoscalers")
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, o := range list.Items {
			metadata := at(o, "metadata").(map[string]any)
			delete(metadata, "managedFields")
			// Controllers write to these too: the status, and what counts its changes.
			switch o.kind() {
			case "CronWorkflow":
				delete(metadata, "annotations")
				delete(metadata, "generation")
				delete(metadata, "resourceVersion")
			case "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service":
				delete(metadata, "resourceVersion")
			}
			delete(o, "status")
			text, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			found[o.kind()+"/"+o.name()] = string(text)
		}
		return found
	}
	// A pod that violates the namespace's policy is not made at all; the Deployment then has the condition ReplicaFailure.
	waitFor(t, "a pod for each of the six Deployments and for the Job", func() bool {
		return len(strings.Fields(run("kubectl", "-n", namespace, "get", "pods", "-o", "name"))) == 7
	})
	before := versions()
	for range 2 {
		run(tool(t, "helm"), append([]string{"upgrade", "insitu", chartDir}, args...)...)
		if diff := cmp.Diff(before, versions()); diff != "" {
			t.Errorf("an upgrade with the same values changed something (-before +after):\n%s", diff)
		}
	}
	if len(before) < 30 {
		t.Errorf("compared %d objects only", len(before))
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(500 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
