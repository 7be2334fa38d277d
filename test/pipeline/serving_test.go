package pipeline

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// stands compares which version is active, which one the alias names, and the end of the ledger.
func (p *project) stands(t *testing.T, what, active, holder, ledger string) {
	t.Helper()
	var now, told string
	if err := p.inference.QueryRow(t.Context(), "select version::text, (select string_agg(action || ' ' || version, ', ' order by ordinal) from "+postgres.Ident(p.name, "deployments")+") from "+
		postgres.Ident(p.name, "model_versions")+" where active").Scan(&now, &told); err != nil {
		t.Fatal(err)
	}
	r, err := http.Get(p.mlflow + "/api/2.0/mlflow/registered-models/alias?" + url.Values{"name": {p.name}, "alias": {"staging"}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if now != active || !strings.Contains(string(text), fmt.Sprintf(`"version": "%s"`, holder)) || !strings.HasSuffix(told, ledger) {
		t.Errorf("%s: version %s is active, want %s; the ledger tells %q, want %q; the alias names %s, want version %s", what, now, active, told, ledger, text, holder)
	}
}

func TestAFailedSmokeTestTakesTheDeploymentBack(t *testing.T) {
	t.Parallel()
	p := newProject(t, "digits")
	p.succeed(t, "-p", "epochs=2")
	p.stands(t, "the first version", "1", "1", "alias 1")

	// An API that was forgotten when the model was replaced: all its answers are of version 1.
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, `{"predictions":[%s],"model":{"name":%q,"version":1}}`, strings.Join(strings.Fields(strings.Repeat(`{"label":"4"} `, 16)), ","), p.name)
	}))
	t.Cleanup(old.Close)
	code, printed := p.run(t, "-p", "epochs=3", "-p", "api-url="+old.URL)
	for _, says := range []string{"predicted by model", `version 1 is active, and the alias "staging" went back to it`} {
		if code != 1 || !strings.Contains(printed, says) {
			t.Errorf("exit code %d, expected 1 and %q\n%s", code, says, printed)
		}
	}
	p.stands(t, "after the smoke test failed", "1", "1", "deploy 2, activate 2, alias 2, rollback 1, failed 2, alias 1")

	p.succeed(t, "-p", "epochs=3") // the API is mended
	p.stands(t, "the next run", "2", "2", "activate 2, alias 2")
}

func TestAChallengerIsPromotedWhenLiveCallsSpeakForIt(t *testing.T) {
	t.Parallel()
	p := newProject(t, "digits")
	p.succeed(t, "-p", "epochs=2")
	s := p.succeed(t, "-p", "epochs=3", "-p", "activate=false")
	if promote, deploy := s.outputs("promote-model-to-staging"), s.outputs("deploy-inference-db"); promote["accepted"] != "true" || promote["promoted"] != "false" || deploy["active-version"] != "1" {
		t.Errorf("a challenger: promotion %v, deployment %v", promote, deploy)
	}
	p.stands(t, "a challenger", "1", "1", "deploy 2, challenge 2")
	if code, printed := p.run(t, "-p", "epochs=3", "-p", "activate=perhaps"); code != 2 {
		t.Errorf("activate=perhaps: exit code %d\n%s", code, printed)
	}

	schema := postgres.Ident(p.name)
	calls := func(n int) {
		t.Helper()
		if _, err := p.inference.Exec(t.Context(), "select "+schema+".predict_batch((select array_agg(decode(lpad(to_hex(i % 16), 128, '0' || to_hex(i % 13)), 'hex')) from generate_series(1, $1::int) i))", n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.inference.Exec(t.Context(), "select "+schema+".set_route('shadow', 2, 1)"); err != nil {
		t.Fatal(err)
	}
	calls(19)
	s = p.succeed(t, "-p", "epochs=3", "-p", "live-evidence=20")
	evaluated := s.outputs("evaluate-model")
	if evaluated["passed"] != "false" || !strings.Contains(evaluated["reason"], "live evidence: 19 live calls were sent to both champion version 1 and version 2, expected at least 20") {
		t.Errorf("too few live calls: %v", evaluated)
	}
	p.stands(t, "too few live calls", "1", "1", "challenge 2")
	calls(5)
	s = p.succeed(t, "-p", "epochs=3", "-p", "live-evidence=20")
	if evaluated = s.outputs("evaluate-model"); evaluated["passed"] != "true" || !strings.Contains(evaluated["reason"], "live evidence: 24 live calls") || s.outputs("train-model")["trained"] != `["false"]` {
		t.Errorf("enough live calls: %v, trained %s", evaluated, s.outputs("train-model")["trained"])
	}
	p.stands(t, "enough live calls", "2", "2", "activate 2, alias 2")
}
