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

create or replace function run_inference_task(img bytea) returns text language plpython3u stable security definer
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].run_inference_task(img)
$python$;
comment on function run_inference_task(bytea) is
  'Label of an image by the active model; img is an encoded image (PNG, JPEG, ...) or the raw values of one example';
revoke all on function run_inference_task(bytea) from public;

create or replace function predict(img bytea) returns prediction language plpython3u stable security definer
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].predict(img)
$python$;
comment on function predict(bytea) is
  'Label, probability of every class, and the model version that said so';
revoke all on function predict(bytea) from public;

create or replace function predict_batch(imgs bytea[]) returns setof indexed_prediction language plpython3u stable security definer
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].predict_batch(imgs)
$python$;
comment on function predict_batch(bytea[]) is
  'predict for many images at once; index counts from 1';
revoke all on function predict_batch(bytea[]) from public;

create or replace function predict_version(name text, version int, data bytea, n int) returns bytea language plpython3u stable
set search_path from current as $python$
if "host" not in SD:
    SD["host"] = GD[plpy.execute("select load_inference() as key")[0]["key"]]
return SD["host"].predict_version(name, version, data, n)
$python$;
comment on function predict_version(text, int, bytea, int) is
  'Predictions of a deployed version, active or not, for n raw examples: float32 [n, outputs]';
revoke all on function predict_version(text, int, bytea, int) from public;

create or replace function grant_inference(role_name text) returns void language plpgsql volatile
set search_path from current as $$
begin
  execute format('grant usage on schema %I to %I', current_schema(), role_name);
  execute format('grant execute on function run_inference_task(bytea), predict(bytea), predict_batch(bytea[]) to %I', role_name);
end
$$;
comment on function grant_inference(text) is
  'Lets a role predict and nothing else: usage on the schema, execute on run_inference_task, predict and predict_batch';
revoke all on function grant_inference(text) from public;
-- rollback
drop function grant_inference(text);
drop function predict_version(text, int, bytea, int);
drop function predict_batch(bytea[]);
drop function predict(bytea);
drop function run_inference_task(bytea);
drop function load_inference();
