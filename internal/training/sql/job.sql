-- The job, once.
-- $1 job, $2 release, $3 dataset, $4 spec
insert into jobs (id, release, dataset, spec)
select $1::text, $2::text, $3::text, $4::text::json
where not exists (select 1 from jobs where id = $1::text)
