-- Shadow and canary: the route, what it logs, and the truths that came to light.
-- Before the functions, so that they find these tables at every moment of an upgrade.
create table route (
  single  boolean     not null primary key default true check (single),
  mode    text        not null check (mode in ('shadow', 'canary')),
  name    text        not null,
  version int         not null,
  share   float8      not null check (share >= 0 and share <= 1),
  set_at  timestamptz not null default now(),
  set_by  text        not null default current_user,
  foreign key (name, version) references models (name, version) on delete cascade
);
comment on table route is 'The challenger that a share of the predictions goes to as well; no row or one, see set_route';
comment on column route.single is 'True: there is one row at most';
comment on column route.mode is 'shadow: the active model answers; canary: the challenger answers its share';
comment on column route.share is 'Of the inputs, by their hash: 0 to 1';

create table prediction_log (
  at                     timestamptz not null default now(),
  mode                   text    not null,
  input_hash             text    not null,
  bucket                 int     not null,
  champion_name          text    not null,
  champion_version       int     not null,
  champion_label         text    not null,
  champion_probability   float8,
  challenger_name        text    not null,
  challenger_version     int     not null,
  challenger_label       text,
  challenger_probability float8,
  challenger_error       text,
  answered_by            text    not null check (answered_by in ('champion', 'challenger'))
);
comment on table prediction_log is 'Predictions that a route sent to two models; never what was asked, nor who asked';
comment on column prediction_log.input_hash is 'SHA-256 of what was sent, hexadecimal; of a row the values as the model takes them';
comment on column prediction_log.bucket is '0 to 9999, from the hash; a route takes those below its share of 10000';
comment on column prediction_log.champion_probability is 'Of its label; null for a regression';
comment on column prediction_log.challenger_error is 'SQLSTATE of a challenger that failed; the champion answered';

create table feedback (
  input_hash  text        not null primary key,
  label       text        not null,
  recorded_at timestamptz not null default now(),
  recorded_by text        not null default session_user
);
comment on table feedback is 'What inputs really were, see record_feedback';
comment on column feedback.input_hash is 'As in prediction_log';

create view route_evidence as
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
comment on view route_evidence is 'prediction_log summed up by champion and challenger, with the truths of feedback; agreement and accuracies are shares of 1';
-- rollback
drop view route_evidence;
drop table feedback;
drop table prediction_log;
drop table route;
