-- on change
select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

create or replace function grant_training(role_name text) returns void language plpgsql volatile
set search_path from current as $$
declare
  what text;
begin
  execute format('grant usage on schema %I to %I', current_schema(), role_name);
  for what in
    -- Names in full: a Greenplum segment does not search this function's path.
    select format('%I.%I(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
    from pg_proc p join pg_namespace s on s.oid = p.pronamespace where s.nspname = current_schema() and p.proname <> 'grant_training'
  loop
    execute format('grant execute on function %s to %I', what, role_name);
  end loop;
  execute format('grant select on %1$I.releases to %2$I', current_schema(), role_name);
  execute format('grant select, insert on %1$I.jobs, %1$I.checkpoints, %1$I.models to %2$I', current_schema(), role_name);
  for what in
    select format('%I.%I', s.nspname, c.relname) from pg_class c join pg_namespace s on s.oid = c.relnamespace
    where s.nspname = current_schema() and c.relkind = 'r' and (c.relname = 'datasets' or c.relname like 'packs\_%')
  loop
    execute format('grant select on %s to %I', what, role_name);
  end loop;
end
$$;
comment on function grant_training(text) is
  'Lets a role train: usage on the schema, execute on its functions, select on code and data, select and insert on jobs, checkpoints and models; call it again after a new dataset';
revoke all on function grant_training(text) from public;
-- rollback
drop function grant_training(text);
