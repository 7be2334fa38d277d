-- on change
-- Whoever may execute these needs no other right: they run as their owner, which is why pg_temp comes last in their path.
select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

create or replace function load_inference() returns text language plpython3u volatile
set search_path from current as $python$
import hashlib, json
found = plpy.execute("select current_schema() as schema, inference_bundle() as bundle")[0]
boot = {}
exec(compile(json.loads(found["bundle"])["insitu_runtime/boot.py"], "insitu_runtime/boot.py", "exec"), boot)
name = hashlib.sha256(found["bundle"].encode()).hexdigest()
key = "insitu_inference:%s:%s" % (found["schema"], name)
if key not in GD:
    GD[key] = boot["load"](name, found["bundle"], "insitu_inference.host").Host(plpy)
return key
$python$;
comment on function load_inference() is 'Loads the Python that predicts into this session and says where in GD it is';
revoke all on function load_inference() from public;

-- Volatile, as pg_is_in_recovery is: else the planner could not put its expression in its place.
create or replace function read_snapshot() returns pg_snapshot language sql volatile as $$
select case when pg_current_xact_id_if_assigned() is null and not pg_is_in_recovery() then pg_current_snapshot() end
$$;
comment on function read_snapshot() is
  'What the statement sees: equal ones see the same rows; null where that cannot be told, after a write of the transaction itself and on a standby';
revoke all on function read_snapshot() from public;

-- What callers call is PL/pgSQL, which keeps its plans for the session, around the Python of the same name.
-- Python asks what is active only when it is told another snapshot: the question takes some 50 microseconds of a call.

create or replace function run_inference_task_at(img bytea, seen pg_snapshot) returns text language plpython3u stable
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].run_inference_task(img, seen)
$python$;
comment on function run_inference_task_at(bytea, pg_snapshot) is 'What run_inference_task says';
revoke all on function run_inference_task_at(bytea, pg_snapshot) from public;

create or replace function run_inference_task(img bytea) returns text language plpgsql stable security definer
set search_path from current as $$
begin
  return run_inference_task_at($1, read_snapshot());
end
$$;
comment on function run_inference_task(bytea) is
  'Label of an image by the active model; img is an encoded image (PNG, JPEG, ...) or the raw values of one example';
revoke all on function run_inference_task(bytea) from public;

create or replace function predict_at(img bytea, seen pg_snapshot) returns prediction language plpython3u stable
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].predict(img, seen)
$python$;
comment on function predict_at(bytea, pg_snapshot) is 'What predict says';
revoke all on function predict_at(bytea, pg_snapshot) from public;

create or replace function predict(img bytea) returns prediction language plpgsql stable security definer
set search_path from current as $$
begin
  return predict_at($1, read_snapshot());
end
$$;
comment on function predict(bytea) is
  'Label, probability of every class, and the model version that said so';
revoke all on function predict(bytea) from public;

create or replace function predict_batch_at(imgs bytea[], seen pg_snapshot, out labels text[], out probabilities json[], out model_names text[], out model_versions int[])
language plpython3u stable
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].predict_batch(imgs, seen)
$python$;
comment on function predict_batch_at(bytea[], pg_snapshot) is 'The columns of predict_batch; arrays cost a tenth of what rows would';
revoke all on function predict_batch_at(bytea[], pg_snapshot) from public;

create or replace function predict_batch(imgs bytea[]) returns setof indexed_prediction language plpgsql stable security definer
set search_path from current as $$
begin
  return query select r.index::int, r.label, r.probabilities, r.model_name, r.model_version
  from predict_batch_at($1, read_snapshot()) c, unnest(c.labels, c.probabilities, c.model_names, c.model_versions) with ordinality r(label, probabilities, model_name, model_version, index);
end
$$;
comment on function predict_batch(bytea[]) is
  'predict for many images at once; index counts from 1';
revoke all on function predict_batch(bytea[]) from public;

create or replace function predict_row_at("row" json, seen pg_snapshot) returns prediction language plpython3u stable
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].predict_row(row, seen)
$python$;
comment on function predict_row_at(json, pg_snapshot) is 'What predict_row says';
revoke all on function predict_row_at(json, pg_snapshot) from public;

create or replace function predict_row("row" json) returns prediction language plpgsql stable security definer
set search_path from current as $$
begin
  return predict_row_at($1, read_snapshot());
end
$$;
comment on function predict_row(json) is
  'predict for one row of a table: a JSON object by column name, or an array of numbers in the input''s order';
revoke all on function predict_row(json) from public;

create or replace function predict_rows_at(rows json, seen pg_snapshot, out labels text[], out probabilities json[], out model_names text[], out model_versions int[])
language plpython3u stable
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].predict_rows(rows, seen)
$python$;
comment on function predict_rows_at(json, pg_snapshot) is 'The columns of predict_rows; arrays cost a tenth of what rows would';
revoke all on function predict_rows_at(json, pg_snapshot) from public;

create or replace function predict_rows(rows json) returns setof indexed_prediction language plpgsql stable security definer
set search_path from current as $$
begin
  return query select r.index::int, r.label, r.probabilities, r.model_name, r.model_version
  from predict_rows_at($1, read_snapshot()) c, unnest(c.labels, c.probabilities, c.model_names, c.model_versions) with ordinality r(label, probabilities, model_name, model_version, index);
end
$$;
comment on function predict_rows(json) is
  'predict_row for the elements of a JSON array, 10,000 at most; index counts from 1';
revoke all on function predict_rows(json) from public;

create or replace function predict_version(name text, version int, data bytea, n int) returns bytea language plpython3u stable
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].predict_version(name, version, data, n)
$python$;
comment on function predict_version(text, int, bytea, int) is
  'Predictions of a deployed version, active or not, for n raw examples: float32 [n, outputs]';
revoke all on function predict_version(text, int, bytea, int) from public;

create or replace function record_feedback(img bytea, label text) returns void language plpython3u volatile security definer
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].record_feedback(img, label)
$python$;
comment on function record_feedback(bytea, text) is
  'Keeps what an image really shows (for a regression: its number), for route_evidence; img as it was sent to predict';
revoke all on function record_feedback(bytea, text) from public;

create or replace function record_row_feedback("row" json, label text) returns void language plpython3u volatile security definer
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].record_row_feedback(row, label)
$python$;
comment on function record_row_feedback(json, text) is
  'record_feedback for a row of a table, as predict_row takes it';
revoke all on function record_row_feedback(json, text) from public;

create or replace function log_predictions(entries json) returns void language plpgsql volatile
set search_path from current as $$
begin
  if current_setting('transaction_read_only')::boolean then
    return; -- a standby, or a caller who forbids writing, gets the answer all the same
  end if;
  insert into prediction_log (mode, input_hash, bucket, champion_name, champion_version, champion_label, champion_probability,
    challenger_name, challenger_version, challenger_label, challenger_probability, challenger_error, answered_by, bins, payload)
  select mode, input_hash, bucket, champion_name, champion_version, champion_label, champion_probability,
    challenger_name, challenger_version, challenger_label, challenger_probability, challenger_error, answered_by, bins, payload
  from json_populate_recordset(null::prediction_log, entries);
end
$$;
comment on function log_predictions(json) is 'Adds to prediction_log; for the functions that predict, which may not write themselves';
revoke all on function log_predictions(json) from public;

create or replace function set_route(mode text, version int, share float8) returns void language plpgsql volatile
set search_path from current as $$
declare
  champion record;
begin
  if set_route.mode is null or set_route.mode not in ('shadow', 'canary') then
    raise exception 'the mode is %; expected shadow or canary', coalesce(quote_literal(set_route.mode), 'null') using errcode = '22023';
  end if;
  if set_route.share is null or not set_route.share between 0 and 1 then
    raise exception 'the share is %; expected 0 to 1', coalesce(set_route.share::text, 'null') using errcode = '22023';
  end if;
  select a.name, a.version into champion from activations a order by a.ordinal desc limit 1;
  if not found then
    raise exception 'no model is active in this schema' using errcode = 'IS003', hint = 'run deploy-inference-db';
  end if;
  if set_route.version = champion.version then
    raise exception 'model % version % is the active one; expected another version', quote_literal(champion.name), champion.version using errcode = '22023';
  end if;
  if not exists (select from models m where m.name = champion.name and m.version = set_route.version) then
    raise exception 'model % version % is not deployed in this schema', quote_literal(champion.name), coalesce(set_route.version::text, 'null') using errcode = 'IS006';
  end if;
  insert into route (mode, name, version, share) values (set_route.mode, champion.name, set_route.version, set_route.share)
  on conflict (single) do update set mode = excluded.mode, name = excluded.name, version = excluded.version, share = excluded.share,
    set_at = excluded.set_at, set_by = excluded.set_by;
end
$$;
comment on function set_route(text, int, float8) is
  'Sends a share of the inputs (0 to 1, by their hash) to another version of the active model as well: shadow only logs it, canary answers by it';
revoke all on function set_route(text, int, float8) from public;

create or replace function clear_route() returns void language sql volatile
set search_path from current as $$
delete from route
$$;
comment on function clear_route() is 'Ends a shadow or canary; what it logged stays';
revoke all on function clear_route() from public;

create or replace function grant_inference(role_name text) returns void language plpgsql volatile
set search_path from current as $$
begin
  execute format('grant usage on schema %I to %I', current_schema(), role_name);
  execute format('grant execute on function run_inference_task(bytea), predict(bytea), predict_batch(bytea[]), predict_row(json), predict_rows(json) to %I', role_name);
end
$$;
comment on function grant_inference(text) is
  'Lets a role predict and nothing else: usage on the schema, execute on run_inference_task, predict, predict_batch, predict_row and predict_rows';
revoke all on function grant_inference(text) from public;
-- rollback
drop function grant_inference(text);
drop function clear_route();
drop function set_route(text, int, float8);
drop function log_predictions(json);
drop function record_row_feedback(json, text);
drop function record_feedback(bytea, text);
drop function predict_version(text, int, bytea, int);
drop function predict_rows(json);
drop function predict_rows_at(json, pg_snapshot);
drop function predict_row(json);
drop function predict_row_at(json, pg_snapshot);
drop function predict_batch(bytea[]);
drop function predict_batch_at(bytea[], pg_snapshot);
drop function predict(bytea);
drop function predict_at(bytea, pg_snapshot);
drop function run_inference_task(bytea);
drop function run_inference_task_at(bytea, pg_snapshot);
drop function read_snapshot();
drop function if exists predict_batch_columns(bytea[]), predict_rows_columns(json); -- of older releases
drop function load_inference();
