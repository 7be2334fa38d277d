-- One state from those of the shards.
-- $1 release, $2 its ordinal, $3 spec, $4 states, $5 rows of each
select merge_states($1::text, (select bundle from releases where ordinal = $2::int), $3::text, $4::bytea[], $5::bigint[])
