-- Models and which of them is active.
create table model_blobs (
  digest text not null primary key,
  onnx   bytea not null
);
alter table model_blobs alter column onnx set storage external;
comment on table model_blobs is 'ONNX models by the SHA-256 of their bytes';

create table models (
  name        text not null,
  version     int  not null,
  digest      text not null references model_blobs (digest),
  manifest    json not null,
  metrics     json not null,
  deployed_at timestamptz not null default now(),
  deployed_by text not null default current_user,
  primary key (name, version)
);
comment on table models is 'Deployed model versions; one changeset each';
comment on column models.manifest is 'JSON: task, and input with shape, dtype, range and classes';

create table activations (
  ordinal      int  not null primary key,
  name         text not null,
  version      int  not null,
  activated_at timestamptz not null default now(),
  activated_by text not null default current_user,
  foreign key (name, version) references models (name, version)
);
comment on table activations is 'Append only; the last row names the active model';

create view model_versions as
select m.name, m.version, m.digest, m.metrics, m.deployed_at, m.deployed_by,
  coalesce(m.name = a.name and m.version = a.version, false) as active
from models m left join (select name, version from activations order by ordinal desc limit 1) a on true;
comment on view model_versions is 'Deployed model versions and which of them is active';

create type prediction as (label text, probabilities json, model_name text, model_version int);
comment on type prediction is 'One prediction: label (or value) and, for classes, label to probability';
create type indexed_prediction as (index int, label text, probabilities json, model_name text, model_version int);
comment on type indexed_prediction is 'A prediction of predict_batch; index counts from 1';
-- rollback
drop type indexed_prediction;
drop type prediction;
drop view model_versions;
drop table activations;
drop table models;
drop table model_blobs;
