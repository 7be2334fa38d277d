-- The tables evaluate-model reads, and a stand-in of predict_onnx for models that are words.
create table datasets (digest text primary key, pack_table text not null, manifest json not null);
create table packs_toy (split text, shard int, id bigint, n int, labels bytea, data bytea, primary key (shard, id));
alter table packs_toy alter column data set storage external;
create table releases (ordinal int primary key, app text, digest text, manifest json);
create table jobs (id text primary key, spec json);
create table checkpoints (job text, epoch int, metrics json, primary key (job, epoch));
create table models (job text primary key, epoch int);
insert into releases values
  (1, 'toy', 'code', '{"gate": {"accuracy": 0.1}}'),
  (2, 'toy', 'code', '{"gate": {"accuracy": 0.75}}');
insert into jobs values ('job2', '{"input": {}, "parameters": {"learning_rate": 0.02}, "seed": 7}');
insert into models values ('job2', 2);
insert into checkpoints values
  ('job2', 0, '{}'),
  ('job2', 1, '{"shards": [{"shard": 0, "rows": 20, "packs": 1, "loss": 14.2, "correct": 11, "seconds": 0.1}], "seconds": 0.1, "validation": {"rows": 20, "loss": 13, "correct": 12}}'),
  ('job2', 2, '{"shards": [{"shard": 0, "rows": 4096, "packs": 16, "loss": 99.5, "correct": 4000, "seconds": 0.5}], "seconds": 0.5, "validation": {"rows": 20, "loss": 9.9, "correct": 15}}');

create function predict_onnx(model bytea, digest text, data bytea, n int) returns bytea language plpgsql stable as $$
declare
  word text := convert_from(model, 'UTF8');
begin
  if length(data) <> n * 8 then
    raise exception 'not a test pack' using errcode = '38000';
  elsif word = 'identity' then
    return data;
  elsif word = 'constant' then -- 1.0, 0.0 in each row
    return decode(repeat('0000803f00000000', n), 'hex');
  elsif word = 'narrow' then
    return decode(repeat('0000803f', n), 'hex');
  elsif word = 'diverged' then
    return decode(repeat('0000c07f0000c07f', n), 'hex');
  elsif word = 'cancelled' then
    raise exception 'canceling statement due to user request' using errcode = '57014';
  elsif word = 'suicide' then
    perform pg_terminate_backend(pg_backend_pid());
    return data;
  end if;
  raise exception '% bytes are not % examples of uint8 [9]', length(data), n using errcode = '38000';
end
$$;
