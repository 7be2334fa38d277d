-- on change
select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

create or replace function run_training_task(options json) returns json language plpython3u volatile
set search_path from current as $python$
newest = plpy.execute(plpy.prepare("select digest, load_release(digest, bundle) from (select digest, bundle from releases where app = coalesce($1::json ->> 'app', app) order by ordinal desc limit 1) newest", ["text"]), [options])
return GD[newest[0]["digest"]].run_training_task(options) if newest else plpy.error("no release of this app is deployed in this schema; run deploy-training-code")
$python$;
comment on function run_training_task(json) is
  'The whole training in one call: {"app", "dataset", "epochs", "parameters", "seed"}, all optional; returns the job, its best epoch and its metrics';
revoke all on function run_training_task(json) from public;
-- rollback
drop function run_training_task(json);
