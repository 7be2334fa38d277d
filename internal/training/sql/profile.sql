-- How the inputs of the train split are distributed, from its first packs: they were shuffled.
-- The inner queries sort before anything is read of the packs, whose columns stay out of line.
-- $1 input with its columns, $2 packs
select profile_inputs($1::text::json, array_agg(summary order by id))::text
from (
  select id, summarize_inputs($1::text::json, data, n) as summary
  from (select id, n, data from packs_x where split = 'train' order by id limit $2::int) packs
) summaries
