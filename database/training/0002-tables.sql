-- Comments of the form "greenplum: ..." are clauses the changelog renderer uncovers on Greenplum.
create table releases (
  ordinal     int  not null primary key,
  app         text not null,
  digest      text not null,
  git_sha     text not null default '',
  manifest    json not null,
  bundle      text not null,
  deployed_at timestamptz not null default now()
) /* greenplum: distributed replicated */;
alter table releases alter column bundle set storage external;
comment on table releases is 'ML apps with their code, one row a deployment; the newest ordinal of an app is current';
comment on column releases.digest is 'SHA-256 over the app''s files and the Python runtime they run with';
comment on column releases.bundle is 'JSON object from file path to Python source: the runtime package and the app''s modules';

create table jobs (
  id         text not null primary key,
  release    text not null,
  dataset    text not null,
  spec       json not null,
  created_at timestamptz not null default now()
) /* greenplum: distributed by (id) */;
comment on table jobs is 'Trainings, one row for each code digest, dataset digest and set of parameters; database/README.md says how the id is computed';

create table checkpoints (
  job        text not null,
  epoch      int  not null,
  state      bytea not null,
  metrics    json not null,
  created_at timestamptz not null default now(),
  primary key (job, epoch)
) /* greenplum: distributed by (job) */;
alter table checkpoints alter column state set storage external;
comment on table checkpoints is 'The merged state after every epoch; epoch 0 is the initial state';

create table models (
  job         text not null primary key,
  epoch       int  not null,
  state       bytea not null,
  onnx        bytea not null,
  onnx_digest text not null,
  metrics     json not null,
  created_at  timestamptz not null default now()
) /* greenplum: distributed by (job) */;
alter table models alter column state set storage external;
alter table models alter column onnx set storage external;
comment on table models is 'The best epoch of every finished training, with its ONNX export';

create type shard_result as (state bytea, rows bigint, packs int, metrics text);
comment on type shard_result is 'What one shard learned in one epoch; metrics is JSON: rows, packs, loss (sum), correct (count), seconds';
-- rollback
drop type shard_result;
drop table models;
drop table checkpoints;
drop table jobs;
drop table releases;
