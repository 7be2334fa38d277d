-- The result of the job.
-- $1 job, $2 epoch, $3 ONNX, $4 its SHA-256
insert into models (job, epoch, state, onnx, onnx_digest, metrics)
select job, epoch, state, $3::bytea, $4::text, metrics
from checkpoints where job = $1::text and epoch = $2::int
  and not exists (select 1 from models where job = $1::text)
