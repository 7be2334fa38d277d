-- What one shard learns in one epoch.
-- Code, spec and state come with the first pack alone: a sort would carry them once a pack, and Python convert them.
-- $1 release, $2 its ordinal, $3 spec without its closing brace, $4 state, $5 whether the session has the packs' data in its cache, $6 shard
select (r).state, (r).rows, (r).metrics from (
  select shard, fit(
    $1::text,
    case when id = head then (select bundle from releases where ordinal = $2::int) end,
    case when id = head then $3::text || ',"shard":' || shard || '}' end,
    case when id = head then $4::bytea end,
    labels, case when not $5::bool then data end order by id) r
  from packs_x, (select min(id) as head from packs_x where split = 'train' and shard = $6::int) first
  where split = 'train' and shard = $6::int group by shard) q
