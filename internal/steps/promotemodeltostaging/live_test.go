package promotemodeltostaging_test

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/postgres"
)

func TestLiveCallsDecideAboutAPromotion(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Server(t)
	schema := changelogtest.Schema(t, cfg, "Live")
	conn, err := postgres.Connect(t.Context(), cfg, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%.200s: %v", sql, err)
		}
	}
	exec("create schema " + postgres.Ident(schema) + "; set search_path to " + postgres.Ident(schema) + ", public")
	sets, err := changelog.Load(database.Inference, conn.Dialect)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range sets {
		exec(set.SQL)
	}
	// log enters calls 1 to n, of which the first so many get another label by the challenger.
	log := func(champion, challenger, n, others int) {
		exec(fmt.Sprintf(`insert into prediction_log (mode, input_hash, bucket, champion_name, champion_version, champion_label, champion_probability,
			challenger_name, challenger_version, challenger_label, challenger_probability, answered_by)
			select 'shadow', i::text, 0, 'm', %d, 'cat', 0.9, 'm', %d, case when i <= %d then 'dog' else 'cat' end, 0.8, 'champion' from generate_series(1, %d) i`, champion, challenger, others, n))
	}
	live := map[string]string{"live-evidence": "20", "inference-schema": schema, "inference-host": cfg.Host, "inference-port": strconv.Itoa(cfg.Port),
		"inference-database": cfg.Database, "inference-username": cfg.Username, "inference-password": cfg.Password}
	s := shelf(t)
	try := func(what, version string, promoted bool, holder, says string) {
		t.Helper()
		flags := maps.Clone(live)
		flags["model-version"] = version
		r := promote(t, s, flags)
		n, _ := strconv.Atoi(version)
		tag := s.Versions()[n-1].Tags["insitu.live-evidence"]
		if r.Code != 0 || r.Outputs["promoted"] != strconv.FormatBool(promoted) || r.Outputs["accepted"] != strconv.FormatBool(promoted) || r.Outputs["model-version"] != holder || !strings.Contains(tag, says) || !strings.Contains(r.Stderr, says) {
			t.Errorf("%s: exit code %d, %v, tag %q, want %q\n%s", what, r.Code, r.Outputs, tag, says, r.Stderr)
		}
	}
	try("nobody holds the alias", "1", false, "", "no version holds the alias")
	if r := promote(t, s, map[string]string{"model-version": "1"}); r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	try("no calls", "2", false, "1", "0 live calls")
	log(1, 2, 19, 0)
	try("too few calls", "2", false, "1", "19 live calls were sent to both champion version 1 and version 2, expected at least 20")
	log(1, 2, 1, 0)
	log(3, 2, 100, 100) // with another champion
	try("enough calls", "2", true, "2", "the two agree on 1.000 of them")
	if because := s.Versions()[1].Tags["insitu.promoted-because.staging"]; !strings.Contains(because, "accuracy 0.98; live evidence: passed: 20 live calls") {
		t.Errorf("promoted because %q", because)
	}
	try("again", "2", true, "2", "")
	log(2, 3, 50, 30)
	exec("insert into feedback (input_hash, label) select i::text, 'cat' from generate_series(1, 50) i")
	try("worse where the truth is known", "3", false, "2", "accuracy 0.400 on 50 of them with known truth, the champion's is 1.000, which is beyond the tolerance 0.010")
	exec("update feedback set label = 'dog'")
	try("better where the truth is known", "3", true, "3", "accuracy 0.600 on 50 of them with known truth, the champion's is 0.000")

	for name, c := range map[string]struct {
		change map[string]string
		code   int
		says   string
	}{
		"no schema":                   {map[string]string{"inference-schema": ""}, 2, "--inference-schema is required"},
		"no database":                 {map[string]string{"inference-host": ""}, 2, "--inference-host"},
		"a schema without the ledger": {map[string]string{"inference-schema": "nobody's"}, 2, "deploy-inference-db"},
		"a database that is away":     {map[string]string{"inference-port": "1"}, 75, "refused"},
		"a number that is not enough": {map[string]string{"live-evidence": "0"}, 2, "--live-evidence"},
	} {
		flags := maps.Clone(live)
		maps.Copy(flags, c.change)
		flags["model-version"] = "1"
		if r := promote(t, s, flags); r.Code != c.code || !strings.Contains(r.Message, c.says) {
			t.Errorf("%s: exit code %d, want %d and %q: %s", name, r.Code, c.code, c.says, r.Message)
		}
	}
}

func TestAChallengerIsAcceptedAndNotPromoted(t *testing.T) {
	t.Parallel()
	s := shelf(t)
	if r := promote(t, s, map[string]string{"model-version": "1"}); r.Code != 0 || r.Outputs["accepted"] != "true" {
		t.Fatal(r.Outputs, r.Stderr)
	}
	for _, tt := range []struct {
		passed, approval, accepted string
	}{{"true", "", "true"}, {"true", "approve", "true"}, {"true", "reject", "false"}, {"false", "", "false"}} {
		flags := map[string]string{"activate": "false", "passed": tt.passed}
		if tt.approval != "" {
			flags["approval"], flags["approver"] = tt.approval, "Jane"
		}
		r := promote(t, s, flags)
		if r.Code != 0 || r.Outputs["accepted"] != tt.accepted || r.Outputs["promoted"] != "false" || s.Alias("m", "staging") != 1 || s.Versions()[1].Tags["insitu.approval.staging"] != tt.approval && tt.passed == "true" {
			t.Errorf("%+v: exit code %d, %v, alias at %d, tags %v", tt, r.Code, r.Outputs, s.Alias("m", "staging"), s.Versions()[1].Tags)
		}
	}
}
