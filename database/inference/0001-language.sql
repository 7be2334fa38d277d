-- The language the functions are written in; creating it takes a superuser, once a database.
create extension if not exists plpython3u;
-- rollback
select 'plpython3u stays: other schemas may use it';
