create table datasets (digest text, pack_table text);
create table releases (ordinal int, digest text, bundle text);
create table jobs (id text, spec json);
create table models (job text, state bytea);
create table packs_test (split text, shard int, id bigint, n int, labels bytea, data bytea);
insert into datasets values ('dataset-1', 'packs_test');
insert into releases values (1, 'code-1', '{}');
insert into jobs values ('job-1', '{}');
insert into models values ('job-1', 'state');
insert into packs_test select s, 0, i, 4, '', decode(repeat('00', 12), 'hex') from unnest(array['train', 'test']) s, generate_series(1, 3) i;
create function predict_state(release text, bundle text, spec text, state bytea, data bytea) returns bytea language sql
as $$ select decode(repeat('0000003f0000803e', length(data) / 3), 'hex') $$;
create function predict_onnx(model bytea, digest text, data bytea, n int) returns bytea language sql
as $$ select decode(repeat('0000003f0000803e', n), 'hex') $$;
