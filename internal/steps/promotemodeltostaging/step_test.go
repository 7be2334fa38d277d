package promotemodeltostaging_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/registry/registrytest"
	"github.com/insitu-ml/insitu/internal/step/steptest"
	"github.com/insitu-ml/insitu/internal/steps/promotemodeltostaging"
)

// shelf is a registry with three versions of the model m.
func shelf(t *testing.T) *registrytest.Server {
	s := registrytest.New(t)
	for _, sha := range []string{"aaa", "bbb", "ccc"} {
		s.AddVersion("m", map[string]string{"git_sha": sha})
	}
	return s
}

func promote(t *testing.T, s *registrytest.Server, flags map[string]string) steptest.Result {
	t.Helper()
	all := map[string]string{"mlflow-uri": s.URL, "model-name": "m", "model-version": "2", "passed": "true", "reason": "accuracy 0.98"}
	for k, v := range flags {
		all[k] = v
	}
	return steptest.Run(t, promotemodeltostaging.Spec(), all)
}

func TestAPassedVersionGetsTheAliasAndTellsWhoHeldIt(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	for _, test := range []struct{ version, previous, stages string }{
		{"3", "", "None None Staging"}, // not the newest, not base + 1: the one that was evaluated
		{"1", "3", "Staging None Archived"},
		{"2", "1", "Archived Staging Archived"},
	} {
		r := promote(t, s, map[string]string{"model-version": test.version})
		want := map[string]string{"accepted": "true", "promoted": "true", "model-version": test.version, "previous-version": test.previous}
		if diff := cmp.Diff(want, r.Outputs); r.Code != 0 || diff != "" {
			t.Fatalf("version %s: exit %d, %s\n%s", test.version, r.Code, diff, r.Stderr)
		}
		var stages []string
		for _, v := range s.Versions() {
			stages = append(stages, v.Stage)
		}
		if got := strings.Join(stages, " "); got != test.stages {
			t.Errorf("version %s: stages %s, want %s", test.version, got, test.stages)
		}
	}
	tags := s.Versions()[1].Tags
	if _, err := time.Parse(time.RFC3339, tags["insitu.promoted-at.staging"]); err != nil {
		t.Error(err)
	}
	delete(tags, "insitu.promoted-at.staging")
	want := map[string]string{"git_sha": "bbb", "insitu.previous-version.staging": "1", "insitu.promoted-because.staging": "accuracy 0.98"}
	if diff := cmp.Diff(want, tags); diff != "" {
		t.Error(diff)
	}
}

func TestRunningTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	promote(t, s, map[string]string{"model-version": "1"})
	first := promote(t, s, nil)
	before, writes := s.Versions(), 0
	s.Before = func(_ int, method, _ string) int {
		if method != http.MethodGet {
			writes++
		}
		return 0
	}
	second := promote(t, s, nil)
	if diff := cmp.Diff(first.Outputs, second.Outputs); second.Code != 0 || diff != "" || writes != 0 {
		t.Errorf("exit %d, %d writes, %s", second.Code, writes, diff)
	}
	if diff := cmp.Diff(before, s.Versions()); diff != "" || s.Alias("m", "staging") != 2 {
		t.Error(diff)
	}
}

func TestAVersionThatDidNotPassIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	promote(t, s, map[string]string{"model-version": "1"})
	before := s.Versions()
	r := promote(t, s, map[string]string{"passed": "false", "reason": "accuracy 0.41 is less than 0.9"})
	want := map[string]string{"accepted": "false", "promoted": "false", "model-version": "1", "previous-version": ""}
	if diff := cmp.Diff(want, r.Outputs); r.Code != 0 || diff != "" {
		t.Errorf("exit %d, %s", r.Code, diff)
	}
	if !strings.Contains(r.Stderr, "accuracy 0.41 is less than 0.9") {
		t.Errorf("the log does not say why: %s", r.Stderr)
	}
	if diff := cmp.Diff(before, s.Versions()); diff != "" || s.Alias("m", "staging") != 1 {
		t.Errorf("something changed: %s", diff)
	}
}

func TestAVersionIsNotPromotedOverOneItWasNotComparedWith(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	promote(t, s, map[string]string{"model-version": "3"}) // another pipeline, between evaluation and promotion
	before := s.Versions()
	r := promote(t, s, map[string]string{"champion-version": "1"})
	if r.Code != 1 || !strings.Contains(r.Message, `compared with version 1, but version 3 holds the alias "staging"`) {
		t.Errorf("exit %d, %s", r.Code, r.Message)
	}
	if diff := cmp.Diff(before, s.Versions()); diff != "" || s.Alias("m", "staging") != 3 {
		t.Errorf("something changed: %s", diff)
	}
	for range 2 {
		if r := promote(t, s, map[string]string{"champion-version": "3"}); r.Code != 0 || s.Alias("m", "staging") != 2 {
			t.Errorf("exit %d, %s", r.Code, r.Message)
		}
	}
}

func TestPromotionFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		flags map[string]string
		fail  string // path that answers 500
		code  int
		text  string
	}{
		{"a version that is not there is an error", map[string]string{"model-version": "9"}, "", 1, `get model "m" version 9`},
		{"a model that is not there is an error", map[string]string{"model-name": "other"}, "", 1, `get model "other" version 2`},
		{"passed is not guessed when it is empty", map[string]string{"passed": ""}, "", 2, "passed"},
		{"an alias that looks like a version is refused", map[string]string{"alias": "v2"}, "", 2, "--alias"},
		{"a registry that cannot move the alias is temporary", nil, "registered-models/alias", 75, "MLflow answered 500"},
		{"a registry that cannot tag is temporary, before the alias moves", nil, "model-versions/set-tag", 75, "MLflow answered 500"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := shelf(t)
			s.Before = func(_ int, _, path string) int {
				if test.fail != "" && strings.HasSuffix(path, test.fail) {
					return http.StatusInternalServerError
				}
				return 0
			}
			r := promote(t, s, test.flags)
			if r.Code != test.code || !strings.Contains(r.Message, test.text) || len(r.Outputs) != 0 || s.Alias("m", "staging") != 0 {
				t.Errorf("exit %d, outputs %v, alias %d, message %s", r.Code, r.Outputs, s.Alias("m", "staging"), r.Message)
			}
		})
	}
}

func TestAServerWithoutStagesIsFine(t *testing.T) {
	t.Parallel()
	s := shelf(t).WithoutStages()
	if r := promote(t, s, nil); r.Code != 0 || s.Alias("m", "staging") != 2 {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
}

func TestAnotherAliasSetsNoStage(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	if r := promote(t, s, map[string]string{"alias": "canary"}); r.Code != 0 || s.Alias("m", "canary") != 2 || s.Versions()[1].Stage != "None" {
		t.Errorf("exit %d, versions %+v", r.Code, s.Versions())
	}
}

// A step that dies is one whose calls all fail from some call on, whether that one was carried out or not.
func TestAPromotionThatDiedAnywhereIsCompletedByTheNext(t *testing.T) {
	t.Parallel()
	for _, handled := range []bool{false, true} {
		for n := 1; ; n++ {
			s := shelf(t)
			promote(t, s, map[string]string{"model-version": "1"})
			start := s.Requests()
			die := func(i int, _, _ string) int {
				if i >= start+n {
					return http.StatusForbidden // not retried
				}
				return 0
			}
			if handled {
				s.After = die
			} else {
				s.Before = die
			}
			died := promote(t, s, nil)
			s.Before, s.After = nil, nil
			r := promote(t, s, nil)
			versions := s.Versions()
			if r.Code != 0 || r.Outputs["previous-version"] != "1" || s.Alias("m", "staging") != 2 || versions[0].Stage != "Archived" || versions[1].Stage != "Staging" {
				t.Errorf("died at call %d (carried out: %t): exit %d, outputs %v, versions %+v", n, handled, r.Code, r.Outputs, versions)
			}
			if died.Code == 0 {
				break
			}
		}
	}
}
