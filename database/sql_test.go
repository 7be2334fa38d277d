package database_test

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// deployed runs the changesets of a folder in a schema of the test's own and gives the superuser's session,
// a session of a role without rights, and that role's name.
func deployed(t *testing.T, folder fs.FS) (owner, caller *postgres.Conn, role string) {
	t.Helper()
	cfg := changelogtest.Server(t)
	schema, user := changelogtest.Schema(t, cfg, "sql"), changelogtest.Role(t, cfg)
	session := func(c postgres.Config) *postgres.Conn {
		conn, err := postgres.Connect(t.Context(), c, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		return conn
	}
	owner = session(cfg)
	exec(t, owner, "create schema "+postgres.Ident(schema))
	exec(t, owner, "set search_path to "+postgres.Ident(schema)+", public")
	sets, err := changelog.Load(folder, owner.Dialect)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 2 { // what runs on change must run twice
		for _, c := range sets {
			if c.OnChange || round == 0 {
				exec(t, owner, c.SQL)
			}
		}
	}
	t.Cleanup(func() { // its rollbacks undo all of it
		for i := len(sets) - 1; i >= 0; i-- {
			if _, err := owner.Exec(context.Background(), sets[i].Rollback); err != nil {
				t.Errorf("rollback of %s: %v", sets[i].ID, err)
			}
		}
		var left []string
		err := owner.QueryRow(context.Background(), `select array(select proname::text from pg_proc where pronamespace = current_schema()::regnamespace
			union all select relname from pg_class where relnamespace = current_schema()::regnamespace)`).Scan(&left)
		if err != nil || len(left) > 0 {
			t.Errorf("after the rollbacks %q is left (%v)", left, err)
		}
	})
	caller = session(user)
	exec(t, caller, "set search_path to "+postgres.Ident(schema))
	return owner, caller, user.Username
}

func exec(t *testing.T, c *postgres.Conn, sql string, args ...any) {
	t.Helper()
	if len(args) == 0 {
		args = []any{pgx.QueryExecModeSimpleProtocol}
	}
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
}

func refused(t *testing.T, c *postgres.Conn, state, text, sql string, args ...any) {
	t.Helper()
	_, err := c.Exec(t.Context(), sql, args...)
	if err == nil || postgres.State(err) != state || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: got %v; want SQLSTATE %s and %q", sql, err, state, text)
	}
}

// storeModel deploys versions 1 and 2: bright examples of 2x2 pixels are the second class.
const storeModel = `do language plpython3u $python$
import hashlib
import numpy as np
from onnx import TensorProto, helper, numpy_helper
graph = helper.make_graph(
    [helper.make_node("Cast", ["input"], ["x"], to=TensorProto.FLOAT), helper.make_node("Flatten", ["x"], ["flat"]),
     helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]), helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1)], "g",
    [helper.make_tensor_value_info("input", TensorProto.UINT8, ["n", 2, 2])], [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2])],
    [numpy_helper.from_array(np.tile(np.float32([0, 0.01]), (4, 1)), "w"), numpy_helper.from_array(np.float32([0, -5]), "b")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
digest = hashlib.sha256(model).hexdigest()
plpy.execute(plpy.prepare("insert into model_blobs values ($1, $2)", ["text", "bytea"]), [digest, model])
plpy.execute(plpy.prepare("insert into models (name, version, digest, manifest, metrics) select 'm', v, $1, $2::json, '{}' from generate_series(1, 2) v", ["text", "text"]),
             [digest, '{"classes": ["dark", "bright"], "input": {"range": [0, 255]}}'])
$python$`

func TestARoleThatMayPredictCanDoNothingElse(t *testing.T) {
	t.Parallel()
	owner, caller, role := deployed(t, database.Inference)
	exec(t, owner, storeModel)
	bright := []byte{255, 255, 255, 255}
	refused(t, caller, "42501", "permission denied for schema", "select * from "+postgres.Ident(schemaOf(t, owner), "models"))

	exec(t, owner, "select grant_inference($1)", role)
	refused(t, caller, "IS003", "no model is active", "select run_inference_task($1)", bright)
	exec(t, owner, "insert into activations (ordinal, name, version) values (1, 'm', 1)")
	type prediction struct {
		Index              int
		Label, Name, Place string
		Version            int
	}
	batch := func() []prediction {
		t.Helper()
		rows, err := caller.Query(t.Context(), "select index, label, model_name, probabilities ->> 'bright', model_version from predict_batch($1)", [][]byte{bright, make([]byte, 4)})
		if err != nil {
			t.Fatal(err)
		}
		list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p prediction, err error) {
			return p, row.Scan(&p.Index, &p.Label, &p.Name, &p.Place, &p.Version)
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			list[i].Place = "" // digits of a float
		}
		return list
	}
	if diff := cmp.Diff([]prediction{{1, "bright", "m", "", 1}, {2, "dark", "m", "", 1}}, batch()); diff != "" {
		t.Error(diff)
	}
	exec(t, owner, "insert into activations (ordinal, name, version) values (2, 'm', 2)")
	if got := batch(); got[0].Version != 2 {
		t.Errorf("after a switch the session still predicts by version %d", got[0].Version)
	}

	// The functions run as their owner: a caller's tables must not stand in for the schema's.
	exec(t, caller, "create temp table activations (ordinal int, name text, version int)")
	exec(t, caller, "create temp table models (name text, version int, digest text, manifest json)")
	if got := batch(); len(got) != 2 || got[0].Version != 2 {
		t.Errorf("a temporary table changed the prediction: %v", got)
	}
	exec(t, caller, "drop table activations, models")
	for _, sql := range []string{"select * from models", "select * from activations", "select * from model_blobs", "select load_inference()",
		"select predict_version('m', 1, '\\x00'::bytea, 1)", "select grant_inference('public')"} {
		refused(t, caller, "42501", "permission denied", sql)
	}
	refused(t, caller, "IS001", "neither an image", "select predict($1)", []byte("words"))
	refused(t, caller, "IS001", "empty", "select predict(null)")
	refused(t, owner, "IS002", "3 bytes are not 1 examples", "select predict_version('m', 1, $1, 1)", []byte{1, 2, 3})
	refused(t, owner, "IS006", "version 3 is not deployed", "select predict_version('m', 3, $1, 1)", bright)

	exec(t, owner, "update model_blobs set onnx = onnx || '\\x00'::bytea")
	if got := batch(); got[0].Label != "bright" {
		t.Errorf("a session that has the model no longer predicts: %v", got)
	}
	refused(t, owner, "IS004", "SHA-256", "select run_inference_task($1)", bright)
}

func TestCodeThatWasNotDeployedDoesNotRun(t *testing.T) {
	t.Parallel()
	owner, caller, role := deployed(t, database.Training)
	exec(t, owner, "select grant_training($1)", role)
	const forged = `{"insitu_runtime/boot.py": "raise SystemExit"}`
	calls := []string{
		"select init_state('d', '" + forged + "', '{}')",
		"select merge_states('d', '" + forged + "', '{}', '{}', '{}')",
		"select predict_state('d', '" + forged + "', '{}', '', '')",
		"select export_model('d', '" + forged + "', '{}', '')",
		"select fit('d', '" + forged + "', '{}', '', '', '')",
		"select score('d', '" + forged + "', '{}', '', '', '')",
		"select load_release('d', '" + forged + "')",
	}
	for range 2 {
		for _, sql := range calls {
			_, err := caller.Exec(t.Context(), sql)
			if err == nil || !strings.Contains(err.Error(), "was not deployed to this schema") {
				t.Errorf("%.30s: got %v", sql, err)
			}
		}
		// Once more with a table of the caller's that says otherwise.
		exec(t, caller, "create temp table if not exists releases as select 1 as ordinal, 'x'::text as app, 'd'::text as digest, '"+strings.ReplaceAll(forged, "'", "''")+"'::text as bundle")
	}
	refused(t, caller, "42501", "permission denied", "insert into "+postgres.Ident(schemaOf(t, owner), "releases")+" (ordinal, app, digest, manifest, bundle) values (1, 'x', 'd', '{}', '')")
}

func schemaOf(t *testing.T, c *postgres.Conn) (name string) {
	t.Helper()
	if err := c.QueryRow(t.Context(), "select current_schema()").Scan(&name); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestEveryPythonFunctionFixesItsSearchPath(t *testing.T) {
	t.Parallel()
	for name, folder := range map[string]fs.FS{"training": database.Training, "inference": database.Inference} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			owner, _, _ := deployed(t, folder)
			var wrong []string
			err := owner.QueryRow(t.Context(), `select array(select proname::text from pg_proc p join pg_language l on l.oid = prolang
				where pronamespace = current_schema()::regnamespace and lanname like 'pl%'
				and proconfig is distinct from array['search_path=' || quote_ident(current_schema()) || ', pg_temp'])`).Scan(&wrong)
			if err != nil || len(wrong) > 0 {
				t.Errorf("%q, %v", wrong, err)
			}
		})
	}
}

func TestARoleThatMayTrainLearnsTheLibraryVersions(t *testing.T) {
	t.Parallel()
	owner, caller, role := deployed(t, database.Training)
	refused(t, caller, "42501", "permission denied", "select "+postgres.Ident(schemaOf(t, owner), "library_versions")+"()")
	exec(t, owner, "select grant_training($1)", role)
	var versions map[string]string
	if err := caller.QueryRow(t.Context(), "select library_versions()").Scan(&versions); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"python", "numpy", "onnx", "onnxruntime"} {
		if versions[name] == "" {
			t.Errorf("no version of %s: %v", name, versions)
		}
	}
	var imported bool
	exec(t, owner, `create function pg_temp.imported(name text) returns boolean language plpython3u as 'import sys; return name in sys.modules'`)
	exec(t, owner, "select library_versions()")
	if err := owner.QueryRow(t.Context(), "select pg_temp.imported('torch')").Scan(&imported); err != nil || imported {
		t.Errorf("asking for versions imported torch: %v, %v", imported, err)
	}
}
