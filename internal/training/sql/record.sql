-- Merges the shards, scores the validation split with the merged state and records the epoch: all of it or nothing.
-- $1 release, $2 its ordinal, $3 spec, $4 job, $5 epoch, $6 states, $7 rows of each, $8 metrics as JSON without the closing brace
insert into checkpoints (job, epoch, state, metrics)
with merged as (
  select merge_states($1::text, (select bundle from releases where ordinal = $2::int), $3::text, $6::bytea[], $7::bigint[]) as state
), validated as (
  select score($1::text, (select bundle || '' from releases where ordinal = $2::int), $3::text, (select state from merged), labels, data order by id) as sums
  from packs_x where split = 'validation'
)
select $4::text, $5::int, merged.state, ($8::text || ',"validation":' || coalesce(validated.sums, 'null') || '}')::json
from merged, validated
where not exists (select 1 from checkpoints where job = $4::text and epoch = $5::int)
returning metrics::text, created_at
