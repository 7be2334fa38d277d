package fault

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	// lanes are pipelines side by side: they share the servers, and together they load two cores.
	lanes = 2
	// late lets some kills come after the end, where the outputs are written.
	late = 1.1
)

func number(t *testing.T, variable string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s is %q, expected a number", variable, text)
	}
	return n
}

// INSITU_FAULT_ROUNDS is the number of rounds, 20 unless set; INSITU_FAULT_SEED repeats the moments of an earlier run.
func TestAPipelineKilledAnywhereEndsAsAnUndisturbedOne(t *testing.T) {
	t.Parallel()
	rounds := int(number(t, "INSITU_FAULT_ROUNDS", 20))
	seed := number(t, "INSITU_FAULT_SEED", uint64(time.Now().UnixNano()))
	t.Logf("INSITU_FAULT_SEED=%d, %d rounds", seed, rounds)
	for i := range lanes {
		t.Run(fmt.Sprintf("lane %d", i+1), func(t *testing.T) {
			t.Parallel()
			killRounds(t, newLane(t), rand.New(rand.NewPCG(seed, uint64(i))), (rounds+lanes-1-i)/lanes)
		})
	}
}

func killRounds(t *testing.T, l *lane, rng *rand.Rand, rounds int) {
	want, durations := undisturbed(t, l)
	sent, hit := 0, 0
	for round := range rounds {
		t.Run(fmt.Sprintf("round %d", round+1), func(t *testing.T) {
			p := l.newTenant(t)
			var story []string
			for _, step := range order() {
				first := true
				for kills := 1 + rng.IntN(4)/3; kills > 0; kills-- { // a second kill in one of four
					k := kill{after: time.Duration(rng.Float64() * late * float64(durations[step])), tree: rng.IntN(2) == 0}
					a := p.run(t, step, &k)
					sent++
					if a.killed {
						hit++
					} else if a.code == 0 && first {
						durations[step] = a.seconds // the machine is faster now: aim better
					} else if a.code != 0 {
						t.Fatalf("%s, before it was killed, ended with %d: %s\n%s\n%s", step, a.code, a.message, a.stderr, strings.Join(story, "\n"))
					}
					for _, name := range a.leftover {
						// A killed process cannot clear away its files; in a container they go with it.
						// What it leaves must be small: Liquibase's changelog, and no data.
						if !strings.HasPrefix(name, "insitu-liquibase-") {
							t.Errorf("%s, killed after %s, left the temporary file %q", step, k.after, name)
						}
					}
					first = false
					story = append(story, fmt.Sprintf("%s after %s of %s, tree %t: killed %t", step, k.after.Round(time.Millisecond), durations[step].Round(time.Millisecond), k.tree, a.killed))
				}
				p.must(t, step)
			}
			l.checkIdle(t)
			if diff := cmp.Diff(want, p.state(t)); diff != "" {
				t.Errorf("the state differs from an undisturbed run's (-undisturbed +killed):\n%s", diff)
			}
			if t.Failed() {
				t.Log(strings.Join(story, "\n"))
			}
		})
	}
	t.Logf("%d kills were sent, %d hit a running step", sent, hit)
}

// undisturbed runs the pipeline as it is meant to be run and returns what it leaves and how long each step took.
func undisturbed(t *testing.T, l *lane) (want state, durations map[string]time.Duration) {
	t.Helper()
	durations = map[string]time.Duration{}
	t.Run("undisturbed", func(t *testing.T) {
		p := l.newTenant(t)
		for _, step := range order() {
			started := time.Now()
			p.must(t, step)
			durations[step] = time.Since(started)
		}
		want = p.state(t)
		checkComplete(t, want)
		t.Log(durations)
	})
	if t.Failed() {
		t.FailNow()
	}
	return want, durations
}

// checkComplete makes sure that what states are compared with is not empty.
func checkComplete(t *testing.T, s state) {
	t.Helper()
	for section, atLeast := range map[string]int{
		"training datasets": 1, "training packs": 4, "training releases": 1, "training changelog": 3, "training jobs": 1, "training checkpoints": 5,
		"training models": 1, "inference model_blobs": 1, "inference models": 1, "inference activations": 1, "inference deployments": 3, "inference model_versions": 1,
		"inference changelog": 3, "versions": 1, "version tags": 5, "runs": 1, "run facts": 5, "curves": 13, "artifacts": 5, "objects": 2,
	} {
		if lines := s[section]; len(lines) < atLeast || lines[0] == "none" {
			t.Errorf("%s: %q, expected %d lines or more", section, lines, atLeast)
		}
	}
	if len(s["versions"]) != 1 || !slices.Equal(s["alias"], []string{"1"}) {
		t.Errorf("versions: %q, alias at %q, expected one version with the alias", s["versions"], s["alias"])
	}
	if len(s["inference model_versions"]) != 1 {
		t.Errorf("active models: %q, expected one", s["inference model_versions"])
	}
}
