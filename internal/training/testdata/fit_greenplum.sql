-- What all shards learn in one epoch, each on the segment that holds its packs. The || '' detoast a value once, not once a pack.
-- $1 release, $2 its ordinal, $3 spec without its closing brace, $4 job, $5 the epoch before
select (r).state, (r).rows, (r).metrics from (
  select shard, fit(
    $1::text, (select bundle || '' from releases where ordinal = $2::int), $3::text || ',"shard":' || shard || '}',
    (select state || ''::bytea from checkpoints where job = $4::text and epoch = $5::int), labels, data order by id) r
  from "packs_0123456789abcdef" where split = 'train' group by shard) q
order by shard
