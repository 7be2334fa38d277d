-- What an epoch learned; of epoch 0, what the training starts from.
-- $1 job, $2 epoch
select state from checkpoints where job = $1::text and epoch = $2::int
