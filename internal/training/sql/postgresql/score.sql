-- Sums of loss and hits of a state over one shard's packs of the validation split; no row when there are none.
-- $1 release, $2 its ordinal, $3 spec, $4 state, $5 shard
select score(
  $1::text,
  case when id = head then (select bundle from releases where ordinal = $2::int) end,
  case when id = head then $3::text end,
  case when id = head then $4::bytea end,
  labels, data order by id)
from packs_x, (select min(id) as head from packs_x where split = 'validation' and shard = $5::int) first
where split = 'validation' and shard = $5::int group by shard
