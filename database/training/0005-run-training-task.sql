-- on change
select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

create or replace function run_training_task(options json) returns json language plpython3u volatile
set search_path from current as $python$
newest = plpy.execute(plpy.prepare("select digest, bundle from releases where app = coalesce($1::json ->> 'app', app) order by ordinal desc limit 1", ["text"]), [options])
if not newest:
    plpy.error("no release of this app is deployed in this schema; run deploy-training-code")
release = newest[0]["digest"]
if release not in GD: # in a statement of its own: on Greenplum no function may query tables while its caller does
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [release, newest[0]["bundle"]])
return GD[release].run_training_task(options)
$python$;
comment on function run_training_task(json) is
  'The whole training in one call: {"app", "dataset", "epochs", "parameters", "seed"}, all optional; returns the job, its best epoch and its metrics';
revoke all on function run_training_task(json) from public;
-- rollback
drop function run_training_task(json);
