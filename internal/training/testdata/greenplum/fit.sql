-- What all shards learn in one epoch, each on the segment that holds its packs: the groups contain the distribution key.
-- Nothing but packs and releases, which every segment has, is read: with a second slice, as for a scalar subquery, the server
-- would give the first slice another process of the session in many an epoch, and that one has no cache.
-- Code, spec and state come with a shard's first pack alone: a sort would carry them once a pack, and Python convert them.
-- $1 release, $2 its ordinal, $3 spec without its closing brace, $4 state, $5 whether the segments have the packs' data in their caches
select (r).state, (r).rows, (r).metrics from (
  select place, shard, fit(
    $1::text,
    case when id = head then bundle end,
    case when id = head then $3::text || ',"shard":' || shard || '}' end,
    case when id = head then $4::bytea end,
    labels, case when not $5::bool then data end order by id) r
  from "packs_0123456789abcdef" join (select place, shard, min(id) as head from "packs_0123456789abcdef" where split = 'train' group by place, shard) first using (place, shard),
    releases
  where split = 'train' and ordinal = $2::int group by place, shard) q
order by shard
