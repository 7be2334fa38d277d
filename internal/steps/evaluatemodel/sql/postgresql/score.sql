-- Predictions for the test split: the inner query sorts the packs, whose columns stay out of line, the outer one predicts while it streams.
-- $1 ONNX, $2 its SHA-256
select id, n, labels, predict_onnx($1::bytea, $2::text, data, n)
from (select id, n, labels, data from packs_x where split = 'test' order by id) packs order by id
