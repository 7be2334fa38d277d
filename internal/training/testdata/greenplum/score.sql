-- Sums of loss and hits of a state over the validation split, a row for each shard that has packs of it, each made on its segment.
-- $1 release, $2 its ordinal, $3 spec, $4 state
select sums from (
  select place, shard, score(
    $1::text,
    case when id = head then bundle end,
    case when id = head then $3::text end,
    case when id = head then $4::bytea end,
    labels, data order by id) sums
  from "packs_0123456789abcdef" join (select place, shard, min(id) as head from "packs_0123456789abcdef" where split = 'validation' group by place, shard) first using (place, shard),
    releases
  where split = 'validation' and ordinal = $2::int group by place, shard) q
order by shard
