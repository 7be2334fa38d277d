-- The initial state as epoch 0.
-- $1 release, $2 its ordinal, $3 spec, $4 job
insert into checkpoints (job, epoch, state, metrics)
select $4::text, 0, init_state($1::text, (select bundle from releases where ordinal = $2::int), $3::text), '{}'::json
where not exists (select 1 from checkpoints where job = $4::text and epoch = 0)
