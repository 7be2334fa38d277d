-- The state of an earlier job's model as epoch 0, checked against the learner.
-- $1 release, $2 its ordinal, $3 spec, $4 job, $5 the earlier job
insert into checkpoints (job, epoch, state, metrics)
select $4::text, 0, warm_state($1::text, (select bundle from releases where ordinal = $2::int), $3::text, state), '{}'::json
from models where job = $5::text
  and not exists (select 1 from checkpoints where job = $4::text and epoch = 0)
