-- Monitoring: a sample of the predictions, what to compare it with, and the retrainings it led to.
-- Before the functions, so that they find these tables at every moment of an upgrade.
alter table prediction_log alter column challenger_name drop not null;
alter table prediction_log alter column challenger_version drop not null;
alter table prediction_log add column bins smallint[];
alter table prediction_log add column payload bytea;
create index prediction_log_at on prediction_log (at);
comment on table prediction_log is 'Predictions that a route sent to two models, and those of the sample; what was asked only if set_sampling says so, never who asked';
comment on column prediction_log.mode is 'shadow, canary; sample: the prediction is in the sample and no route took it';
comment on column prediction_log.bins is 'Of a prediction in the sample: for each feature of the model''s profile, which bin its value is in, from 0; empty when the model has no profile; null: not in the sample';
comment on column prediction_log.payload is 'What was sent, of a row the values as the model takes them; null unless set_sampling asked for it';

create or replace view route_evidence as
select champion_name, champion_version, challenger_name, challenger_version,
  count(*) as rows,
  count(*) filter (where answered_by = 'challenger') as challenger_answers,
  count(challenger_error) as challenger_errors,
  avg((champion_label = challenger_label)::int)::float8 as agreement,
  count(f.label) as truths,
  avg((champion_label = f.label)::int)::float8 as champion_accuracy,
  avg((challenger_label = f.label)::int)::float8 as challenger_accuracy,
  avg(abs(champion_label::float8 - f.label::float8)) filter (where champion_probability is null) as champion_mean_absolute_error,
  avg(abs(challenger_label::float8 - f.label::float8)) filter (where champion_probability is null) as challenger_mean_absolute_error,
  min(at) as first_at, max(at) as last_at
from prediction_log left join feedback f using (input_hash)
where challenger_name is not null
group by champion_name, champion_version, challenger_name, challenger_version;

create table sampling (
  single  boolean     not null primary key default true check (single),
  share   float8      not null check (share > 0 and share <= 1),
  keep    interval    not null,
  payload boolean     not null,
  set_at  timestamptz not null default now(),
  set_by  text        not null default current_user
);
comment on table sampling is 'The share of the predictions that prediction_log keeps for monitoring; no row or one, see set_sampling';
comment on column sampling.single is 'True: there is one row at most';
comment on column sampling.share is 'Of the predictions, drawn at random: to 1';
comment on column sampling.keep is 'prune_predictions deletes what is older from prediction_log';
comment on column sampling.payload is 'Whether what was sent is kept, too';

create table profiles (
  name      text        not null,
  version   int         not null,
  profile   json        not null,
  stored_at timestamptz not null default now(),
  primary key (name, version),
  foreign key (name, version) references models (name, version) on delete cascade
);
comment on table profiles is 'How the inputs and predictions of a model were distributed at its evaluation: bins and counts; what drift compares with';

create table retrainings (
  ordinal      int         not null primary key,
  run          text        not null unique,
  name         text        not null,
  version      int         not null,
  reason       text        not null,
  monitor      text        not null,
  requested_at timestamptz not null default now(),
  requested_by text        not null default current_user,
  ended_at     timestamptz,
  result       text,
  check ((ended_at is null) = (result is null))
);
create unique index retrainings_one_open on retrainings ((true)) where ended_at is null;
comment on table retrainings is 'Retrainings that insitu monitor asked for; at most one has not ended';
comment on column retrainings.run is 'Name of the run to submit; nobody submits it twice';
comment on column retrainings.version is 'The model version that had decayed';
comment on column retrainings.monitor is 'The check that asked for it; the same one gets the same answer again';
comment on column retrainings.result is 'How it ended: what Argo says, deployed, or lost';
-- rollback
drop table retrainings;
drop table profiles;
drop table sampling;
delete from prediction_log where challenger_name is null;
create or replace view route_evidence as
select champion_name, champion_version, challenger_name, challenger_version,
  count(*) as rows,
  count(*) filter (where answered_by = 'challenger') as challenger_answers,
  count(challenger_error) as challenger_errors,
  avg((champion_label = challenger_label)::int)::float8 as agreement,
  count(f.label) as truths,
  avg((champion_label = f.label)::int)::float8 as champion_accuracy,
  avg((challenger_label = f.label)::int)::float8 as challenger_accuracy,
  avg(abs(champion_label::float8 - f.label::float8)) filter (where champion_probability is null) as champion_mean_absolute_error,
  avg(abs(challenger_label::float8 - f.label::float8)) filter (where champion_probability is null) as challenger_mean_absolute_error,
  min(at) as first_at, max(at) as last_at
from prediction_log left join feedback f using (input_hash)
group by champion_name, champion_version, challenger_name, challenger_version;
comment on table prediction_log is 'Predictions that a route sent to two models; never what was asked, nor who asked';
comment on column prediction_log.mode is null;
drop index prediction_log_at;
alter table prediction_log drop column payload;
alter table prediction_log drop column bins;
alter table prediction_log alter column challenger_version set not null;
alter table prediction_log alter column challenger_name set not null;
