-- The best epoch's state as ONNX.
-- $1 release, $2 its ordinal, $3 spec, $4 job, $5 epoch
select export_model($1::text, (select bundle from releases where ordinal = $2::int), $3::text, state)
from checkpoints where job = $4::text and epoch = $5::int
