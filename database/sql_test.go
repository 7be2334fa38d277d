package database_test

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
		"select predict_version('m', 1, '\\x00'::bytea, 1)", "select grant_inference('public')",
		"select * from route", "select * from prediction_log", "select * from feedback", "select * from route_evidence", "select set_route('shadow', 1, 1)", "select clear_route()",
		"select log_predictions('[]')", "select record_feedback('\\x00', 'dark')", "select record_row_feedback('[]', 'dark')"} {
		refused(t, caller, "42501", "permission denied", sql)
	}
	refused(t, caller, "IS001", "neither an image", "select predict($1)", []byte("words"))
	refused(t, caller, "IS001", "empty", "select predict(null)")
	refused(t, caller, "IS001", "the array is null", "select predict_batch(null)")
	refused(t, caller, "IS001", "image 2", "select predict_batch($1)", [][]byte{bright, nil})
	refused(t, caller, "IS001", "one dimension", "select predict_batch(array[array['\\x00'::bytea], array['\\x00'::bytea]])")
	refused(t, caller, "IS007", "the JSON is null", "select predict_rows(null)")
	refused(t, caller, "IS007", "row 2 has 3 values", "select predict_rows('[[1, 2, 3, 4], [1, 2, 3]]')")
	refused(t, owner, "IS002", "3 bytes are not 1 examples", "select predict_version('m', 1, $1, 1)", []byte{1, 2, 3})
	refused(t, owner, "IS006", "version 3 is not deployed", "select predict_version('m', 3, $1, 1)", bright)

	exec(t, owner, "update model_blobs set onnx = onnx || '\\x00'::bytea")
	if got := batch(); got[0].Label != "bright" {
		t.Errorf("a session that has the model no longer predicts: %v", got)
	}
	refused(t, owner, "IS004", "SHA-256", "select run_inference_task($1)", bright)
}

// storeRegression makes version 3: the sum of its columns a and b.
const storeRegression = `do language plpython3u $python$
import hashlib
import numpy as np
from onnx import TensorProto, helper, numpy_helper
graph = helper.make_graph([helper.make_node("MatMul", ["input", "w"], ["probabilities"])], "g",
    [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 2])], [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 1])],
    [numpy_helper.from_array(np.float32([[1], [1]]), "w")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
digest = hashlib.sha256(model).hexdigest()
plpy.execute(plpy.prepare("insert into model_blobs values ($1, $2)", ["text", "bytea"]), [digest, model])
plpy.execute(plpy.prepare("insert into models (name, version, digest, manifest, metrics) values ('m', 3, $1, $2::json, '{}')", ["text", "text"]), [digest, '{"columns": ["a", "b"]}'])
$python$`

func TestATableIsPredictedByTheNamesOfItsColumns(t *testing.T) {
	t.Parallel()
	owner, caller, role := deployed(t, database.Inference)
	exec(t, owner, storeModel)
	exec(t, owner, storeRegression)
	exec(t, owner, "insert into activations (ordinal, name, version) values (1, 'm', 3)")
	exec(t, owner, "select grant_inference($1)", role)
	exec(t, caller, "create temp table houses as select i as id, i / 10.0 as b, 100 as a from generate_series(1, 1000) i")
	for what, sql := range map[string]string{
		"at once":    "select h.id, p.label from predict_rows((select json_agg(json_build_object('a', a, 'b', b) order by id) from pg_temp.houses)) p join pg_temp.houses h on h.id = p.index order by id",
		"one by one": "select h.id, p.label from pg_temp.houses h, lateral predict_row((to_jsonb(h) - 'id')::json) p order by id",
	} {
		rows, err := caller.Query(t.Context(), sql)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		n := 0
		var label string
		if _, err := pgx.ForEachRow(rows, []any{&n, &label}, func() error {
			if got, err := strconv.ParseFloat(label, 64); err != nil || math.Abs(got-100-float64(n)/10) > 1e-4 {
				t.Errorf("%s: house %d: got %s, %v", what, n, label, err)
			}
			return nil
		}); err != nil || n != 1000 {
			t.Errorf("%s: the last is house %d, %v", what, n, err)
		}
	}
	refused(t, caller, "IS007", `column 'c'`, `select predict_row('{"a": 1, "b": 2, "c": 3}')`)
	refused(t, caller, "IS002", "is no picture", "select predict($1)", []byte("a picture, or not"))
}

func TestTheEvidenceOfARoute(t *testing.T) {
	t.Parallel()
	owner, caller, role := deployed(t, database.Inference)
	exec(t, owner, storeModel)
	exec(t, owner, storeRegression)
	exec(t, owner, "select grant_inference($1)", role)
	refused(t, owner, "IS003", "no model is active", "select set_route('shadow', 2, 1)")
	exec(t, owner, "insert into activations (ordinal, name, version) values (1, 'm', 1)")
	for _, c := range []struct{ state, text, sql string }{
		{"22023", "expected shadow or canary", "select set_route('all', 2, 1)"},
		{"22023", "expected shadow or canary", "select set_route(null, 2, 1)"},
		{"22023", "expected 0 to 1", "select set_route('canary', 2, 1.5)"},
		{"22023", "expected 0 to 1", "select set_route('canary', 2, 'NaN')"},
		{"22023", "is the active one", "select set_route('canary', 1, 1)"},
		{"IS006", "version 9 is not deployed", "select set_route('canary', 9, 1)"},
		{"IS006", "version null is not deployed", "select set_route('canary', null, 1)"},
	} {
		refused(t, owner, c.state, c.text, c.sql)
	}
	answers := func() (ones, twos int) {
		t.Helper()
		err := caller.QueryRow(t.Context(), `select count(*) filter (where model_version = 1), count(*) filter (where model_version = 2)
			from generate_series(0, 199) i, lateral predict(set_byte('\xffffff00'::bytea, 3, i))`).Scan(&ones, &twos)
		if err != nil {
			t.Fatal(err)
		}
		return ones, twos
	}
	logged := func() (n int) {
		t.Helper()
		if err := owner.QueryRow(t.Context(), "select count(*) from prediction_log").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if ones, twos := answers(); ones != 200 || twos != 0 || logged() != 0 {
		t.Errorf("without a route: %d, %d, logged %d", ones, twos, logged())
	}
	exec(t, owner, "select set_route('shadow', 2, 1)")
	if ones, twos := answers(); ones != 200 || twos != 0 || logged() != 200 {
		t.Errorf("shadow: %d, %d, logged %d", ones, twos, logged())
	}
	exec(t, owner, "select set_route('canary', 2, 0.5)")
	ones, twos := answers()
	if again, _ := answers(); ones != again || ones+twos != 200 || ones < 60 || twos < 60 || logged() != 200+2*twos {
		t.Errorf("canary: %d, %d, again %d, logged %d", ones, twos, again, logged())
	}

	// A challenger of another kind fails in the background, and so does a caller that may not write.
	exec(t, owner, "truncate prediction_log")
	exec(t, owner, "select set_route('canary', 3, 1)")
	exec(t, owner, "select predict('\\xffffffff')")
	var state string
	if err := owner.QueryRow(t.Context(), "select challenger_error from prediction_log where answered_by = 'champion'").Scan(&state); err != nil || state != "IS002" {
		t.Errorf("a challenger that takes no pictures: %q, %v", state, err)
	}
	exec(t, owner, "truncate prediction_log")
	exec(t, owner, "select set_route('shadow', 2, 1)")
	exec(t, caller, "begin read only; select predict('\\xffffffff'); commit")
	if n := logged(); n != 0 {
		t.Errorf("a read-only transaction logged %d predictions", n)
	}

	exec(t, owner, "grant execute on function record_feedback(bytea, text) to "+postgres.Ident(role))
	exec(t, caller, "select count(*) from predict_batch(array['\\xffffffff', '\\xfffffffe', '\\x00000000', '\\x00000001']::bytea[])")
	exec(t, caller, "select record_feedback('\\xffffffff', 'dark')")
	exec(t, caller, "select record_feedback('\\xffffffff', 'bright'), record_feedback('\\x00000000', 'bright')")
	refused(t, caller, "22023", "no class", "select record_feedback('\\xffffffff', 'grey')")
	type evidence struct {
		Champion, Challenger, Rows, Answers, Errors, Truths int
		Agreement, Right, ChallengerRight                   float64
	}
	var got evidence
	if err := owner.QueryRow(t.Context(), `select champion_version, challenger_version, rows, challenger_answers, challenger_errors, truths, agreement, champion_accuracy, challenger_accuracy
		from route_evidence`).Scan(&got.Champion, &got.Challenger, &got.Rows, &got.Answers, &got.Errors, &got.Truths, &got.Agreement, &got.Right, &got.ChallengerRight); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(evidence{1, 2, 4, 0, 0, 2, 1, .5, .5}, got); diff != "" {
		t.Error(diff)
	}

	// The challenger wins: with it active, the route is idle; without it, there is none.
	exec(t, owner, "insert into activations (ordinal, name, version) values (2, 'm', 2)")
	before := logged()
	if _, twos := answers(); twos != 200 || logged() != before {
		t.Errorf("the challenger is active: %d, logged %d more", twos, logged()-before)
	}
	exec(t, owner, "delete from activations where version = 2; delete from models where version = 2")
	var routes int
	if err := owner.QueryRow(t.Context(), "select count(*) from route").Scan(&routes); err != nil || routes != 0 {
		t.Errorf("after its challenger was rolled back the route is there: %d, %v", routes, err)
	}
	exec(t, owner, "select set_route('shadow', 3, 1)")
	exec(t, owner, "select clear_route()")
	answers()
	if n := logged(); n != before {
		t.Errorf("after the route was cleared, %d more were logged", n-before)
	}

	// The truths of a regression are numbers.
	exec(t, owner, "insert into models (name, version, digest, manifest, metrics) select name, 4, digest, manifest, metrics from models where version = 3")
	exec(t, owner, "insert into activations (ordinal, name, version) values (3, 'm', 3)")
	exec(t, owner, "select set_route('shadow', 4, 1)")
	exec(t, owner, `select predict_row('{"a": 1, "b": 2}')`)
	exec(t, owner, `select record_row_feedback('{"b": 2, "a": 1}', '3.5')`)
	var mistake float64
	if err := owner.QueryRow(t.Context(), "select challenger_mean_absolute_error from route_evidence where champion_version = 3").Scan(&mistake); err != nil || mistake != .5 {
		t.Errorf("mean absolute error %v, %v", mistake, err)
	}
}

func TestAStatementNeverMixesVersions(t *testing.T) {
	t.Parallel()
	owner, caller, role := deployed(t, database.Inference)
	exec(t, owner, storeModel)
	exec(t, owner, "select grant_inference($1)", role)
	exec(t, owner, "insert into activations (ordinal, name, version) values (0, 'm', 1)")
	exec(t, caller, "create temp table pictures as select set_byte('\\xffffffff'::bytea, 3, i % 256) as img from generate_series(1, 1000) i")

	// One session switches as fast as it can, while another predicts: one by one, and in batches of a statement.
	ctx, stop := context.WithCancel(t.Context())
	switches := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if _, err := owner.Exec(t.Context(), "insert into activations (ordinal, name, version) values ($1, 'm', $2)", n+1, n%2+1); err != nil {
				t.Error(err)
				break
			}
		}
		switches <- n
	}()
	seen := map[int]int{}
	for calls := 0; calls < 10_000 || len(seen) < 2 && calls < 100_000; calls += 1000 {
		sql := "select array_agg(distinct p.model_version), count(*) from pg_temp.pictures, lateral predict(img) p"
		if calls%2000 == 0 {
			sql = `select array_agg(distinct p.model_version), count(*) from (select array_agg(img) as imgs from (
				select img, (row_number() over () - 1) / 10 as batch from pg_temp.pictures) numbered group by batch) batches, lateral predict_batch(imgs) p`
		}
		var versions []int
		var n int
		if err := caller.QueryRow(t.Context(), sql).Scan(&versions, &n); err != nil || n != 1000 || len(versions) != 1 {
			t.Errorf("%d predictions of the versions %v, %v", n, versions, err)
			break
		}
		seen[versions[0]]++
	}
	stop()
	if n := <-switches; n < 20 || len(seen) != 2 {
		t.Errorf("%d switches, statements by version: %v", n, seen)
	}
}

// predicted asks for a prediction and, in the same statement, for the version that is active in what that statement sees.
const predicted = `select (select model_version from predict('\xffffffff'::bytea)), (select version from activations order by ordinal desc limit 1)`

func TestATransactionPredictsByWhatItSees(t *testing.T) {
	t.Parallel()
	owner, _, _ := deployed(t, database.Inference)
	other, err := postgres.Connect(t.Context(), changelogtest.Server(t), postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	exec(t, other, "set search_path to "+postgres.Ident(schemaOf(t, owner)))
	exec(t, owner, storeModel)
	exec(t, owner, "insert into activations (ordinal, name, version) values (1, 'm', 1)")
	for i, step := range []struct {
		by   *postgres.Conn
		do   string
		want int // the version by which owner then predicts
	}{
		{owner, "select", 1},
		{other, "insert into activations (ordinal, name, version) values (2, 'm', 2)", 2},
		{owner, "begin", 2},
		{owner, "insert into activations (ordinal, name, version) values (3, 'm', 1)", 1},
		{owner, "savepoint s; insert into activations (ordinal, name, version) values (4, 'm', 2)", 2},
		{owner, "rollback to s", 1},
		{owner, "rollback", 2},
		{owner, "begin isolation level repeatable read", 2},
		{other, "insert into activations (ordinal, name, version) values (5, 'm', 1)", 2},
		{owner, "commit", 1},
	} {
		exec(t, step.by, step.do)
		for range 2 {
			var by, active int
			if err := owner.QueryRow(t.Context(), predicted).Scan(&by, &active); err != nil || by != active || by != step.want {
				t.Fatalf("step %d, %s: predicts by version %d, active is %d, %v; want %d", i+1, step.do, by, active, err, step.want)
			}
		}
	}
	var within []int // a loop of one statement, with what it changes itself
	exec(t, owner, `create function switching(out versions int[]) language plpgsql as $$
		begin
		  for i in 6..9 loop
		    versions := versions || (select model_version from predict('\xffffffff'::bytea));
		    insert into activations (ordinal, name, version) values (i, 'm', i % 2 + 1);
		    versions := versions || (select model_version from predict('\xffffffff'::bytea));
		  end loop;
		end $$`)
	defer exec(t, owner, "drop function switching()")
	if err := owner.QueryRow(t.Context(), "select switching()").Scan(&within); err != nil || !slices.Equal(within, []int{1, 1, 1, 2, 2, 1, 1, 2}) {
		t.Errorf("in a loop: versions %v, %v", within, err)
	}
}

func TestNoSwitchIsMissed(t *testing.T) {
	t.Parallel()
	owner, _, _ := deployed(t, database.Inference)
	exec(t, owner, storeModel)
	exec(t, owner, "insert into activations (ordinal, name, version) values (0, 'm', 1)")
	schema := postgres.Ident(schemaOf(t, owner))
	ctx, stop := context.WithCancel(t.Context())
	var ordinal, written atomic.Int64
	var writers sync.WaitGroup
	for number := range 3 { // they commit in another order than they write, some of it in subtransactions, and take half of it back
		writers.Go(func() {
			c, err := postgres.Connect(t.Context(), changelogtest.Server(t), postgres.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			exec(t, c, "set search_path to "+schema)
			random := rand.New(rand.NewPCG(1, uint64(number)))
			end := func() string { return []string{"commit", "rollback"}[random.IntN(2)] }
			for ctx.Err() == nil {
				insert := fmt.Sprintf("insert into activations (ordinal, name, version) values (%d, 'm', %d)", ordinal.Add(1), random.IntN(2)+1)
				sql := "begin; " + insert + "; " + end()
				switch random.IntN(3) {
				case 0:
					sql = "begin; savepoint s; " + insert + "; release s; " + end()
				case 1:
					sql = "begin; savepoint s; " + insert + "; rollback to s; commit"
				}
				for _, statement := range strings.Split(sql, "; ") {
					exec(t, c, statement)
				}
				written.Add(1)
				time.Sleep(time.Duration(random.IntN(3)) * time.Millisecond)
			}
		})
	}
	seen := map[int]int{}
	for n := 0; n < 3000 || (written.Load() < 300 || len(seen) < 2) && n < 100_000; n++ {
		var by, active int
		if err := owner.QueryRow(t.Context(), predicted).Scan(&by, &active); err != nil || by != active {
			t.Errorf("call %d predicts by version %d, active is %d, %v", n+1, by, active, err)
			break
		}
		seen[by]++
	}
	stop()
	writers.Wait()
	if len(seen) != 2 {
		t.Errorf("%d transactions of the writers, predictions by version: %v", written.Load(), seen)
	}
}

func TestEverythingOfTheInferenceSchemaHasAComment(t *testing.T) {
	t.Parallel()
	owner, _, _ := deployed(t, database.Inference)
	var silent []string
	if err := owner.QueryRow(t.Context(), `select array(
		select p.proname::text from pg_proc p where pronamespace = current_schema()::regnamespace and obj_description(p.oid, 'pg_proc') is null
		union all select relname from pg_class c where relnamespace = current_schema()::regnamespace and relkind in ('r', 'v') and obj_description(c.oid, 'pg_class') is null
		union all select relname from pg_class c where relnamespace = current_schema()::regnamespace and relkind = 'c' and obj_description(reltype, 'pg_type') is null)`).Scan(&silent); err != nil || len(silent) > 0 {
		t.Errorf("no comment on %q, %v", silent, err)
	}
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
