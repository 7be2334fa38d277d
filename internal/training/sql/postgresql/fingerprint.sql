-- The digest of one shard's rows that training reads, in whatever order they lie.
-- $1 shard
select fingerprint(convert_to(string_agg(split || ' ' || id || ' ' || n || ' ' || fingerprint(labels, data), ',' order by id), 'UTF8'), ''::bytea)
from packs_x where split in ('train', 'validation') and shard = $1::int
