-- What was done to the models, in order; the bytes of old versions may go.
create table deployments (
  ordinal int  not null primary key,
  action  text not null check (action in ('deploy', 'activate', 'alias', 'rollback', 'prune', 'failed')),
  name    text not null,
  version int  not null,
  at      timestamptz not null default now(),
  by      text not null default current_user,
  reason  text not null default '',
  details json not null default '{}'
);
comment on table deployments is 'Append only; everything that was done to the models of this schema';
comment on column deployments.ordinal is 'Never used twice; a switch has the ordinal of its row in activations';
comment on column deployments.action is 'deploy: stored; activate, rollback: switched to; alias: the registry''s alias followed; prune: its bytes went; failed: was not switched to';

alter table models drop constraint models_digest_fkey;
create or replace view model_versions as
select m.name, m.version, m.digest, m.metrics, m.deployed_at, m.deployed_by,
  coalesce(m.name = a.name and m.version = a.version, false) as active,
  not exists (select 1 from model_blobs b where b.digest = m.digest) as pruned
from models m left join (select name, version from activations order by ordinal desc limit 1) a on true;
comment on view model_versions is 'Deployed model versions, which of them is active, and whose bytes were pruned';
-- rollback
drop view model_versions;
create view model_versions as
select m.name, m.version, m.digest, m.metrics, m.deployed_at, m.deployed_by,
  coalesce(m.name = a.name and m.version = a.version, false) as active
from models m left join (select name, version from activations order by ordinal desc limit 1) a on true;
comment on view model_versions is 'Deployed model versions and which of them is active';
alter table models add constraint models_digest_fkey foreign key (digest) references model_blobs (digest) not valid;
drop table deployments;
