-- The epoch, once: its checkpoint is there in whole or not at all.
-- $1 job, $2 epoch, $3 state, $4 metrics
insert into checkpoints (job, epoch, state, metrics)
select $1::text, $2::int, $3::bytea, $4::text::json
where not exists (select 1 from checkpoints where job = $1::text and epoch = $2::int)
returning metrics::text, created_at
