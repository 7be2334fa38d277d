-- What all shards learn in one epoch, each on the segment that holds its packs: the groups contain the distribution key.
-- Code, spec and state come with a shard's first pack alone: a sort would carry them once a pack, and Python convert them.
-- $1 release, $2 its ordinal, $3 spec without its closing brace, $4 job, $5 the epoch before, $6 whether the segments have the packs' data in their caches
select (r).state, (r).rows, (r).metrics from (
  select place, shard, fit(
    $1::text,
    case when id = head then (select bundle from releases where ordinal = $2::int) end,
    case when id = head then $3::text || ',"shard":' || shard || '}' end,
    case when id = head then (select state from checkpoints where job = $4::text and epoch = $5::int) end,
    labels, case when not $6::bool then data end order by id) r
  from packs_x join (select place, shard, min(id) as head from packs_x where split = 'train' group by place, shard) first using (place, shard)
  where split = 'train' group by place, shard) q
order by shard
