-- on change
select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

create or replace function set_sampling(share float8, keep interval default '30 days', payload boolean default false) returns void language plpgsql volatile
set search_path from current as $$
begin
  if set_sampling.share is null or not (set_sampling.share > 0 and set_sampling.share <= 1) then
    raise exception 'the share is %; expected more than 0, to 1', coalesce(set_sampling.share::text, 'null') using errcode = '22023', hint = 'clear_sampling() ends it';
  end if;
  if set_sampling.keep is null or set_sampling.keep <= interval '0' then
    raise exception 'keep is %; expected a time such as 30 days', coalesce(quote_literal(set_sampling.keep), 'null') using errcode = '22023';
  end if;
  if set_sampling.payload is null then
    raise exception 'payload is null; expected true or false' using errcode = '22023';
  end if;
  insert into sampling (share, keep, payload) values (set_sampling.share, set_sampling.keep, set_sampling.payload)
  on conflict (single) do update set share = excluded.share, keep = excluded.keep, payload = excluded.payload, set_at = excluded.set_at, set_by = excluded.set_by;
end
$$;
comment on function set_sampling(float8, interval, boolean) is
  'Keeps a random share of the predictions (to 1) in prediction_log for monitoring, for a time; what was sent is kept only with payload';
revoke all on function set_sampling(float8, interval, boolean) from public;

create or replace function clear_sampling() returns void language sql volatile
set search_path from current as $$
delete from sampling
$$;
comment on function clear_sampling() is 'Ends the sampling; what it kept stays';
revoke all on function clear_sampling() from public;

create or replace function prune_predictions() returns bigint language sql volatile
set search_path from current as $$
with gone as (delete from prediction_log where at < now() - (select keep from sampling) returning 1)
select count(*) from gone
$$;
comment on function prune_predictions() is 'Deletes from prediction_log what is older than sampling says, and says how many rows; without a sampling nothing';
revoke all on function prune_predictions() from public;

create or replace function psi(expected float8[], observed float8[]) returns float8 language sql immutable
set search_path from current as $$
select case when bool_and(all_e > 0 and all_o > 0) then coalesce(sum((o - e) * ln(o / e)), 0) end
from (
  select all_e, all_o, greatest(e / nullif(all_e, 0), 1e-4) as e, greatest(o / nullif(all_o, 0), 1e-4) as o
  from (select e, o, sum(e) over () as all_e, sum(o) over () as all_o from unnest(expected, observed) as counts (e, o)) counts
) shares
$$;
comment on function psi(float8[], float8[]) is
  'Population stability index of two distributions, given as counts of the same bins: 0 for equal ones; shares below 0.0001 count as that; null when one has no rows';
revoke all on function psi(float8[], float8[]) from public;

create or replace function drift(since timestamptz) returns table (kind text, name text, rows bigint, psi float8) language sql stable
set search_path from current as $$
with active as (select a.name, a.version from activations a order by a.ordinal desc limit 1),
profile as (select p.profile from profiles p join active a on (a.name, a.version) = (p.name, p.version)),
sample as (
  select l.bins, l.champion_label as label, l.champion_probability as probability
  from prediction_log l join active a on (a.name, a.version) = (l.champion_name, l.champion_version)
  where l.bins is not null and l.at >= since
),
parts as ( -- of the profile: features, then what the model said of them
  select 'input' as kind, f.value as part, f.number from profile, json_array_elements(profile.profile -> 'features') with ordinality f (value, number)
  union all select 'prediction', profile.profile -> 'prediction', 0 from profile
  union all select 'confidence', profile.profile -> 'confidence', 0 from profile where profile.profile ->> 'confidence' is not null
),
expected as (
  select p.kind, p.number, c.bin - 1 as bin, c.rows::float8 as rows
  from parts p, json_array_elements_text(p.part -> 'counts') with ordinality c (rows, bin)
),
said as (
  select
    (select array_agg(value order by number) from json_array_elements_text(p.profile -> 'prediction' -> 'labels') with ordinality l (value, number)) as labels,
    (select array_agg(value::float8 order by number) from json_array_elements_text(p.profile -> 'prediction' -> 'edges') with ordinality e (value, number)) as edges,
    (select array_agg(value::float8 order by number) from json_array_elements_text(p.profile -> 'confidence' -> 'edges') with ordinality e (value, number)) as confidence
  from profile p
),
observed as (
  select 'input' as kind, b.number, b.bin::bigint as bin, count(*) as rows from sample, unnest(sample.bins) with ordinality b (bin, number) group by b.number, b.bin
  union all
  select 'prediction', 0, coalesce(array_position(said.labels, sample.label) - 1, case when said.edges is not null then width_bucket(sample.label::float8, said.edges) end), count(*)
  from sample, said group by 3
  union all
  select 'confidence', 0, width_bucket(sample.probability, said.confidence), count(*) from sample, said where sample.probability is not null and said.confidence is not null group by 3
)
select p.kind, coalesce(p.part ->> 'name', p.kind), coalesce(sum(o.rows), 0)::bigint,
  psi(array_agg(e.rows order by e.bin), array_agg(coalesce(o.rows, 0)::float8 order by e.bin))
from parts p
join expected e on (e.kind, e.number) = (p.kind, p.number)
left join observed o on (o.kind, o.number, o.bin) = (e.kind, e.number, e.bin)
group by p.kind, p.number, p.part ->> 'name'
order by p.kind = 'input', p.kind desc, p.number
$$;
comment on function drift(timestamptz) is
  'Of the active version, for each feature and for its predictions: how far the sample since then is from the profile, as a population stability index; no row without a profile';
revoke all on function drift(timestamptz) from public;

create or replace function live_accuracy(since timestamptz) returns table (truths bigint, accuracy float8) language sql stable
set search_path from current as $$
select count(*), coalesce(avg(right_label::int)::float8, 1 - sum((truth - estimate) ^ 2) / nullif(var_pop(truth) * count(*), 0))
from (
  select case when l.champion_probability is not null then l.champion_label = f.label end as right_label,
    case when l.champion_probability is null then f.label::float8 end as truth, case when l.champion_probability is null then l.champion_label::float8 end as estimate
  from prediction_log l
  join (select name, version from activations order by ordinal desc limit 1) a on (a.name, a.version) = (l.champion_name, l.champion_version)
  join feedback f using (input_hash)
  where l.at >= since
) known
$$;
comment on function live_accuracy(timestamptz) is
  'Of the active version, over the logged predictions since then whose truth is known: how many these are, and the share that was right (for a regression R2)';
revoke all on function live_accuracy(timestamptz) from public;

create or replace function grant_monitoring(role_name text) returns void language plpgsql volatile
set search_path from current as $$
begin
  execute format('grant usage on schema %I to %I', current_schema(), role_name);
  execute format('grant select on prediction_log, feedback, sampling, profiles, models, activations, deployments to %I', role_name);
  execute format('grant delete on prediction_log to %I', role_name);
  execute format('grant select, insert, update on retrainings to %I', role_name);
  execute format('grant execute on function prune_predictions(), psi(float8[], float8[]), drift(timestamptz), live_accuracy(timestamptz) to %I', role_name);
end
$$;
comment on function grant_monitoring(text) is
  'Lets a role run insitu monitor: it reads the log and deletes what is old from it, and asks for retrainings; it can neither predict nor switch';
revoke all on function grant_monitoring(text) from public;
-- rollback
drop function grant_monitoring(text);
drop function live_accuracy(timestamptz);
drop function drift(timestamptz);
drop function psi(float8[], float8[]);
drop function prune_predictions();
drop function clear_sampling();
drop function set_sampling(float8, interval, boolean);
