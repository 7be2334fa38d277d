// Package images_test compares the bake file and the Dockerfiles with the steps, the version and each other.
// It builds nothing: `make images` does.
package images_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/insitu-ml/insitu/internal/steps"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile("../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func stepNames() []string {
	var names []string
	for _, s := range steps.All() {
		names = append(names, s.Name)
	}
	return names
}

// matches returns the first group of every match.
func matches(pattern, text string) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

func TestEveryStepHasAStageThatStartsIt(t *testing.T) {
	t.Parallel()
	stages := matches(`(?m)^FROM \w+ AS ([a-z-]+)\nCOPY --from=programs /programs/[a-z-]+ /usr/local/bin/\nENTRYPOINT `, read(t, "images/steps/Dockerfile"))
	if want := append(stepNames(), "insitu"); !slices.Equal(stages, want) {
		t.Errorf("stages of images/steps/Dockerfile: %q, expected %q", stages, want)
	}
	for _, m := range regexp.MustCompile(`AS (\S+)\nCOPY --from=programs /programs/(\S+) \S+\nENTRYPOINT \["(\S+)"\]`).FindAllStringSubmatch(read(t, "images/steps/Dockerfile"), -1) {
		if m[1] != m[2] || m[1] != m[3] {
			t.Errorf("stage %q copies %q and starts %q", m[1], m[2], m[3])
		}
	}
}

func TestBasesArePinnedByDigest(t *testing.T) {
	t.Parallel()
	bake := read(t, "docker-bake.hcl")
	bases := matches(`(?s)variable "(\w+_BASE)"`, bake)
	pinned := matches(`variable "(\w+_BASE)" \{\n[^}]*default += "[a-z0-9./-]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}"\n\}`, bake)
	if len(bases) != 4 || !slices.Equal(bases, pinned) {
		t.Errorf("bases %q, of which pinned %q", bases, pinned)
	}
	for _, dir := range []string{"steps", "postgres", "dev-mlflow", "dev-s3"} {
		if base := matches(`(?m)^FROM (?:--platform=\S+ )?([^\s$]*[:/]\S*)`, read(t, "images/"+dir+"/Dockerfile")); base != nil {
			t.Errorf("images/%s/Dockerfile names bases itself: %q; docker-bake.hcl pins them", dir, base)
		}
	}
}

func TestOneS3ServerForImagesAndLocalRuns(t *testing.T) {
	t.Parallel()
	image := matches(`variable "VERSITYGW" \{\n[^}]*default += "(\S+)"`, read(t, "docker-bake.hcl"))
	local := matches(`(?m)^versitygw_version=(\S+)$`, read(t, "scripts/install.sh"))
	if len(image) != 1 || !slices.Equal(image, local) {
		t.Errorf("docker-bake.hcl has %q, scripts/install.sh %q", image, local)
	}
}

// target is what `docker buildx bake --print` says of one.
type target struct {
	Target    string
	Tags      []string
	Labels    map[string]string
	Platforms []string
	Attest    []map[string]string
}

func bake(t *testing.T, env ...string) (map[string]target, error) {
	t.Helper()
	if err := exec.CommandContext(t.Context(), "docker", "buildx", "version").Run(); err != nil {
		t.Skipf("docker buildx: %v; scripts/install.sh images installs it", err)
	}
	cmd := exec.CommandContext(t.Context(), "docker", "buildx", "bake", "--print", "default", "dev")
	cmd.Dir = ".."
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, env...)
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var plan struct{ Target map[string]target }
	if err := json.Unmarshal(out, &plan); err != nil {
		t.Fatal(err)
	}
	return plan.Target, nil
}

func TestTheBakeFileBuildsEveryImageOfThisVersion(t *testing.T) {
	t.Parallel()
	version := strings.TrimSpace(read(t, "VERSION"))
	targets, err := bake(t, "REVISION=0123abc")
	if err != nil {
		t.Fatal(err)
	}
	want := append(stepNames(), "insitu", "postgres-training", "postgres-inference", "pgadmin", "dev-mlflow", "dev-s3")
	if len(targets) != len(want) {
		t.Errorf("%d targets, expected %d", len(targets), len(want))
	}
	for _, name := range want {
		got, found := targets[name]
		if !found {
			t.Errorf("no target %q", name)
			continue
		}
		if tags := []string{"insitu/" + name + ":" + version}; !slices.Equal(got.Tags, tags) {
			t.Errorf("tags of %q: %q, expected %q", name, got.Tags, tags)
		}
		if !slices.Equal(got.Platforms, []string{"linux/amd64", "linux/arm64"}) {
			t.Errorf("platforms of %q: %q", name, got.Platforms)
		}
		if len(got.Attest) != 2 {
			t.Errorf("attestations of %q: %v, expected an SBOM and provenance", name, got.Attest)
		}
		for _, label := range []string{"title", "description", "source", "revision", "version", "licenses"} {
			if got.Labels["org.opencontainers.image."+label] == "" {
				t.Errorf("label %q of %q is empty", label, name)
			}
		}
	}
}

func TestARegistryGoesInFrontOfEveryName(t *testing.T) {
	t.Parallel()
	targets, err := bake(t, "REGISTRY=registry.example.com:5000", "PREFIX=team/ml", "VERSION=1.2.3-rc.1")
	if err != nil {
		t.Fatal(err)
	}
	if got := targets["train-model"].Tags; !slices.Equal(got, []string{"registry.example.com:5000/team/ml/train-model:1.2.3-rc.1"}) {
		t.Errorf("tags: %q", got)
	}
}

func TestWrongVariablesAreRefused(t *testing.T) {
	t.Parallel()
	for _, wrong := range []string{"REGISTRY=https://registry.example.com", "PREFIX=Team", "VERSION=v1.0.0", "REVISION=main", "PLATFORMS=linux/s390x", "BINARIES=bin"} {
		if _, err := bake(t, wrong); err == nil {
			t.Errorf("%s is accepted", wrong)
		}
	}
}
