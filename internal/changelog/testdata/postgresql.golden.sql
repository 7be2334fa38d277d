--liquibase formatted sql logicalFilePath:insitu/training

--changeset insitu:0001-tables splitStatements:false rollbackSplitStatements:false stripComments:false
--preconditions onFail:MARK_RAN
--precondition-sql-check expectedResult:0 select count(*) / 2 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where n.nspname = current_schema() and c.relname in ('releases', 'jobs')
--comment: What was deployed.
create table releases (a int) /* greenplum: distributed replicated */;
create table jobs (id text) /* greenplum: distributed by (id) */;
--rollback drop table jobs;
--rollback drop table releases;

--changeset insitu:0002-functions splitStatements:false rollbackSplitStatements:false stripComments:false runOnChange:true
create or replace function f() returns int language sql as 'select 1';
--rollback drop function f();

--changeset insitu:0003-runtime splitStatements:false rollbackSplitStatements:false stripComments:false runOnChange:true
--comment: What it runs. Code generated.
create function b() returns text language sql as $f$ select E''
  '{"a.py":"x = ''\044{y}''\\n'
  '--rollback\\n'
  '"}'::text $f$;
--rollback drop function b();

--changeset insitu:release-1-0123456789ab splitStatements:false rollbackSplitStatements:false stripComments:false
--comment: app "digits" _{x}_
insert into releases select
E''
  'def f():\n'
  '\treturn ''\044{x}'' # \u00e9\n'
  '--changeset a:b\n';
--rollback delete from releases;
