-- The digests of the shards' rows that training reads, in whatever order they lie, each made on its segment.
select digest from (
  select place, shard,
    fingerprint(convert_to(string_agg(split || ' ' || id || ' ' || n || ' ' || fingerprint(labels, data), ',' order by id), 'UTF8'), ''::bytea) as digest
  from "packs_0123456789abcdef" where split in ('train', 'validation') group by place, shard) q
order by shard
