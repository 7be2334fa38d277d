-- The ledger takes a seventh action: a version that was deployed and not switched to.
alter table deployments drop constraint if exists deployments_action_check;
alter table deployments add constraint deployments_action_check
  check (action in ('deploy', 'activate', 'challenge', 'alias', 'rollback', 'prune', 'failed'));
comment on column deployments.action is
  'deploy: stored; activate, rollback: switched to; challenge: may be routed to, see set_route; alias: the registry''s alias followed; prune: its bytes went; failed: was not switched to, or was taken back';
-- rollback
alter table deployments drop constraint if exists deployments_action_check;
alter table deployments add constraint deployments_action_check
  check (action in ('deploy', 'activate', 'alias', 'rollback', 'prune', 'failed')) not valid;
comment on column deployments.action is 'deploy: stored; activate, rollback: switched to; alias: the registry''s alias followed; prune: its bytes went; failed: was not switched to';
