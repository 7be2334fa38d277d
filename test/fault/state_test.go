package fault

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

// state is everything a run leaves that has to be the same each time: section to lines.
// Times, run ids and measured durations are left out; the tenant's own names are replaced.
type state map[string][]string

func (p *tenant) state(t *testing.T) state {
	t.Helper()
	out := state{}
	p.databaseState(t, out, "training", p.training, map[string]string{
		"datasets":    "select digest, pack_table, md5(manifest::text) manifest from {datasets} order by digest",
		"releases":    "select ordinal, app, digest, git_sha, md5(manifest::text) manifest, md5(bundle) bundle from {releases} order by ordinal",
		"jobs":        "select id, release, dataset, spec from {jobs} order by id",
		"checkpoints": "select job, epoch, encode(sha256(state), 'hex') state from {checkpoints} order by job, epoch",
		"models":      "select job, epoch, encode(sha256(state), 'hex') state, encode(sha256(onnx), 'hex') onnx, onnx_digest from {models} order by job",
	})
	p.packs(t, out)
	p.databaseState(t, out, "inference", p.inference, map[string]string{
		"model_blobs":    "select digest, encode(sha256(onnx), 'hex') onnx from {model_blobs} order by digest",
		"models":         "select name, version, digest, md5(manifest::text) manifest, " + measuredSQL + " metrics from {models} order by name, version",
		"activations":    "select ordinal, name, version from {activations} order by ordinal",
		"deployments":    "select ordinal, action, name, version, reason from {deployments} order by ordinal",
		"model_versions": "select name, version from {model_versions} where active",
	})
	p.registryState(t, out)
	p.objectState(t, out)
	for section, lines := range out {
		for i, line := range lines {
			out[section][i] = strings.NewReplacer(p.schema, "<schema>", p.experiment, "<experiment>").Replace(line)
		}
	}
	return out
}

const (
	// measuredSQL is a model's metrics without those that a clock decides.
	measuredSQL = `(select string_agg(key || '=' || value, ' ' order by key) from json_each_text(metrics)
		where key not in ('rows_per_second', 'epoch_seconds', 'shard_skew'))`
	// A model's changeset holds its metrics, so its checksum is the clock's too.
	// A kill between Liquibase's two transactions, tables made and not yet recorded, is told as MARK_RAN
	// (docs/databases.md); what was made is compared by the relations below.
	changelogSQL = "select orderexecuted, id, author, filename, case exectype when 'MARK_RAN' then 'EXECUTED' else exectype end as exectype, case when id not like 'model-%' then md5sum end, tag, comments from {databasechangelog} order by orderexecuted"
	lockSQL      = "select id, locked, lockedby from {databasechangeloglock}"
	relationsSQL = `select relkind::text, relname from pg_class where relnamespace = $1::regnamespace
		union all select 'function', proname from pg_proc where pronamespace = $1::regnamespace order by 1, 2`
)

// databaseState adds what the tenant's schema holds. A table that is not there is a line of its own.
func (p *tenant) databaseState(t *testing.T, out state, database string, c postgres.Config, queries map[string]string) {
	t.Helper()
	conn := connect(t, c)
	defer conn.Close()
	queries["changelog"], queries["changelog lock"] = changelogSQL, lockSQL
	for name, sql := range queries {
		before, rest, _ := strings.Cut(sql, "{")
		table, after, _ := strings.Cut(rest, "}")
		out[database+" "+name] = lines(t, conn, before+postgres.Ident(p.schema, table)+after, nil)
	}
	out[database+" relations"] = lines(t, conn, relationsSQL, []any{postgres.Ident(p.schema)})
}

func (p *tenant) packs(t *testing.T, out state) {
	t.Helper()
	conn := connect(t, p.training)
	defer conn.Close()
	for _, table := range lines(t, conn, "select pack_table from "+postgres.Ident(p.schema, "datasets"), nil) {
		table = strings.TrimSuffix(strings.TrimPrefix(table, `{"pack_table":"`), `"}`)
		out["training packs"] = lines(t, conn, "select split, shard, count(*) packs, sum(n) rows, "+
			"encode(sha256(string_agg(int8send(id) || int4send(n) || sha256(labels) || sha256(data), '' order by id)), 'hex') content from "+
			postgres.Ident(p.schema, table)+" group by split, shard order by split, shard", nil)
	}
}

func lines(t *testing.T, conn *postgres.Conn, sql string, args []any) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), "select row_to_json(q)::text from ("+sql+") q", args...)
	if err == nil {
		var out []string
		if out, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
			return out
		}
	}
	if s := postgres.State(err); s == "42P01" || s == "3F000" { // no such table, no such schema
		return []string{"none"}
	}
	t.Fatalf("%s: %v", sql, err)
	return nil
}

// registryState adds versions, alias, runs, curves and artifacts.
func (p *tenant) registryState(t *testing.T, out state) {
	t.Helper()
	models := p.registry(t)
	versions, err := models.ModelVersions(t.Context(), p.model, nil)
	if err != nil {
		t.Fatal(err)
	}
	out["versions"] = []string{}
	for _, v := range versions {
		out["versions"] = append(out["versions"], fmt.Sprintf("%s %d %s stage=%s", v.Name, v.Version, v.Status, v.Stage))
		for name, value := range v.Tags {
			if strings.HasPrefix(name, "insitu.promoted-at.") {
				value = "<time>"
			}
			out["version tags"] = append(out["version tags"], fmt.Sprintf("%d %s=%s", v.Version, name, value))
		}
	}
	slices.Sort(out["version tags"])
	holder, err := models.Alias(t.Context(), p.model, "staging")
	switch {
	case errors.Is(err, registry.ErrNotFound):
		out["alias"] = []string{"none"}
	case err != nil:
		t.Fatal(err)
	default:
		out["alias"] = []string{strconv.Itoa(holder.Version)}
	}
	experiment, err := models.EnsureExperiment(t.Context(), p.experiment)
	if err != nil {
		t.Fatal(err)
	}
	runs, err := models.SearchRuns(t.Context(), experiment, nil)
	if err != nil {
		t.Fatal(err)
	}
	out["runs"] = []string{}
	for _, r := range runs {
		out["runs"] = append(out["runs"], r.Name+" "+r.Status)
		for _, m := range [](map[string]string){r.Tags, r.Params} {
			for name, value := range m {
				if !strings.HasPrefix(name, "mlflow.") {
					out["run facts"] = append(out["run facts"], name+"="+value)
				}
			}
		}
		for _, key := range []string{"loss", "accuracy", "validation_loss", "test_accuracy"} {
			out["curves"] = append(out["curves"], curve(t, r.ID, key)...)
		}
		for _, folder := range []string{"model", "evaluation"} {
			out["artifacts"] = append(out["artifacts"], artifacts(t, r.ID, folder)...)
		}
	}
	slices.Sort(out["run facts"])
	slices.Sort(out["artifacts"])
}

// curve has one line for each point: a point that was sent twice and counts twice would be seen.
// A test metric is measured again by each evaluation, so of those the values count once.
func curve(t *testing.T, run, key string) (out []string) {
	t.Helper()
	reply := mlflow(t, http.MethodGet, "metrics/get-history", url.Values{"run_id": {run}, "metric_key": {key}}, nil)
	metrics, _ := reply["metrics"].([]any)
	for _, m := range metrics {
		point, _ := m.(map[string]any)
		out = append(out, fmt.Sprintf("%s step=%v value=%v", key, point["step"], point["value"]))
	}
	slices.Sort(out)
	if strings.HasPrefix(key, "test_") {
		out = slices.Compact(out)
	}
	return out
}

func artifacts(t *testing.T, run, folder string) (out []string) {
	t.Helper()
	reply := mlflow(t, http.MethodGet, "artifacts/list", url.Values{"run_id": {run}, "path": {folder}}, nil)
	list, _ := reply["files"].([]any)
	for _, f := range list {
		file, _ := f.(map[string]any)
		out = append(out, fmt.Sprint(file["path"]))
	}
	return out
}

func (p *tenant) objectState(t *testing.T, out state) {
	t.Helper()
	client := p.objects(t)
	out["objects"] = []string{}
	if there, err := client.BucketExists(t.Context(), p.bucket); err != nil || !there {
		return
	}
	for o := range client.ListObjects(t.Context(), p.bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		out["objects"] = append(out["objects"], fmt.Sprintf("%s %d bytes", o.Key, o.Size))
	}
	for o := range client.ListIncompleteUploads(t.Context(), p.bucket, "", true) {
		if o.Err == nil {
			out["objects"] = append(out["objects"], "unfinished upload of "+o.Key)
		}
	}
}

// idleLimit is how long a killed client's session may stay: the server looks for the client ten times a second.
const idleLimit = 10 * time.Second

// checkIdle waits until the role has no session and with it no lock in either database.
func (l *lane) checkIdle(t *testing.T) {
	t.Helper()
	for _, c := range []struct{ admin, own postgres.Config }{{l.adminTraining, l.training}, {l.adminInference, l.inference}} {
		conn := connect(t, c.admin)
		var left []string
		for deadline := time.Now().Add(idleLimit); ; time.Sleep(100 * time.Millisecond) {
			rows, err := conn.Query(t.Context(), `select format('%s %s %s, %s locks: %s', a.pid, a.application_name, a.state,
				(select count(*) from pg_locks l where l.pid = a.pid and l.locktype = 'advisory'), left(a.query, 80)) from pg_stat_activity a where usename = $1`, c.own.Username)
			if err != nil {
				t.Fatal(err)
			}
			if left, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
				t.Fatal(err)
			}
			if len(left) == 0 || time.Now().After(deadline) {
				break
			}
		}
		conn.Close()
		if len(left) > 0 {
			t.Errorf("sessions that nobody waits for are left in %s:\n%s", c.own.Address(), strings.Join(left, "\n"))
		}
	}
}
