-- What people want to see of the model they ask: the report of its evaluation, and what its input is.
create table model_reports (
  name    text  not null,
  version int   not null,
  html    bytea not null,
  primary key (name, version),
  foreign key (name, version) references models (name, version) on delete cascade
);
comment on table model_reports is 'The evaluation report of each deployed version, as evaluate-model wrote it; it shows rows of the test split';
comment on column model_reports.html is 'One HTML page in UTF-8, without remote parts';

create or replace view model_versions as
select m.name, m.version, m.digest, m.metrics, m.deployed_at, m.deployed_by,
  coalesce(m.name = a.name and m.version = a.version, false) as active,
  not exists (select 1 from model_blobs b where b.digest = m.digest) as pruned,
  json_build_object('shape', m.manifest #> '{input,shape}', 'dtype', m.manifest #> '{input,dtype}', 'range', m.manifest #> '{input,range}') as input,
  m.manifest -> 'columns' as columns
from models m left join (select name, version from activations order by ordinal desc limit 1) a on true;
comment on view model_versions is 'Deployed model versions, which of them is active, whose bytes were pruned, and what they take';
-- rollback
drop view model_versions;
create view model_versions as
select m.name, m.version, m.digest, m.metrics, m.deployed_at, m.deployed_by,
  coalesce(m.name = a.name and m.version = a.version, false) as active,
  not exists (select 1 from model_blobs b where b.digest = m.digest) as pruned
from models m left join (select name, version from activations order by ordinal desc limit 1) a on true;
comment on view model_versions is 'Deployed model versions, which of them is active, and whose bytes were pruned';
drop table model_reports;
