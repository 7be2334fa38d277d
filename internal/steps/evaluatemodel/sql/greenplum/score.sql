-- Predictions for the test split on the segments: a sorted subquery would gather the packs on the coordinator.
-- $1 ONNX, $2 its SHA-256
select id, n, labels, predict_onnx($1::bytea, $2::text, data, n)
from packs_x where split = 'test' order by id
