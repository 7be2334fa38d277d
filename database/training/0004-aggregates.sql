-- on change
-- The aggregates' state is a token; the model itself stays in the session (GD) until the final function.
-- They have no combine function: one call sees all packs of its group, in order.
select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

create or replace function fit_step(token text, release text, bundle text, spec text, state bytea, labels bytea, data bytea) returns text language plpython3u volatile
set search_path from current as $python$
if release not in GD:
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [release, bundle])
return GD[release].fit_step(token, spec, state, labels, data)
$python$;
comment on function fit_step(text, text, text, text, bytea, bytea, bytea) is 'Transition of fit: trains on one pack';
revoke all on function fit_step(text, text, text, text, bytea, bytea, bytea) from public;

create or replace function fit_result(token text) returns shard_result language plpython3u volatile
set search_path from current as $python$
return token and GD[token.partition("/")[0]].fit_result(token)
$python$;
comment on function fit_result(text) is 'Final function of fit: null when there was no pack';
revoke all on function fit_result(text) from public;

drop aggregate if exists fit(text, text, text, bytea, bytea, bytea);
create aggregate fit(release text, bundle text, spec text, state bytea, labels bytea, data bytea) (
  sfunc = fit_step, stype = text, finalfunc = fit_result);
comment on aggregate fit(text, text, text, bytea, bytea, bytea) is
  'Trains on the packs of one shard, starting from state; use "order by id" inside for a reproducible result';
revoke all on function fit(text, text, text, bytea, bytea, bytea) from public;

create or replace function score_step(token text, release text, bundle text, spec text, state bytea, labels bytea, data bytea) returns text language plpython3u volatile
set search_path from current as $python$
if release not in GD:
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [release, bundle])
return GD[release].score_step(token, spec, state, labels, data)
$python$;
comment on function score_step(text, text, text, text, bytea, bytea, bytea) is 'Transition of score: predicts one pack';
revoke all on function score_step(text, text, text, text, bytea, bytea, bytea) from public;

create or replace function score_result(token text) returns text language plpython3u volatile
set search_path from current as $python$
return token and GD[token.partition("/")[0]].score_result(token)
$python$;
comment on function score_result(text) is 'Final function of score: null when there was no pack';
revoke all on function score_result(text) from public;

drop aggregate if exists score(text, text, text, bytea, bytea, bytea);
create aggregate score(release text, bundle text, spec text, state bytea, labels bytea, data bytea) (
  sfunc = score_step, stype = text, finalfunc = score_result);
comment on aggregate score(text, text, text, bytea, bytea, bytea) is
  'Sums over packs as JSON: rows, loss (of -log p, or squared errors), correct';
revoke all on function score(text, text, text, bytea, bytea, bytea) from public;
-- rollback
drop aggregate score(text, text, text, bytea, bytea, bytea);
drop function score_result(text);
drop function score_step(text, text, text, text, bytea, bytea, bytea);
drop aggregate fit(text, text, text, bytea, bytea, bytea);
drop function fit_result(text);
drop function fit_step(text, text, text, text, bytea, bytea, bytea);
