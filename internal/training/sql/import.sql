-- Imports the learner into a session, by making a state that is thrown away.
-- $1 release, $2 its ordinal, $3 spec
select length(init_state($1::text, (select bundle from releases where ordinal = $2::int), $3::text))
