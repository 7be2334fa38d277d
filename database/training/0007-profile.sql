-- on change
-- How the inputs of a dataset are distributed; what monitoring compares the calls of a model with.
select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

create or replace function summarize_inputs(input json, data bytea, n int) returns bytea language plpython3u stable
set search_path from current as $python$
if "inputs" not in GD:
    newest = plpy.execute("select digest, bundle from releases order by ordinal desc limit 1")
    if not newest:
        plpy.error("no release is deployed in this schema; run deploy-training-code")
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [newest[0]["digest"], newest[0]["bundle"]])
    GD["inputs"] = GD[newest[0]["digest"]]
return GD["inputs"].summarize_inputs(input, data, n)
$python$;
comment on function summarize_inputs(json, bytea, int) is
  'What monitoring looks at of the n examples of a pack: float32 [n, features]; input has shape, dtype and columns';
revoke all on function summarize_inputs(json, bytea, int) from public;

create or replace function profile_inputs(input json, summaries bytea[]) returns json language plpython3u stable
set search_path from current as $python$
if "inputs" not in GD:
    newest = plpy.execute("select digest, bundle from releases order by ordinal desc limit 1")
    if not newest:
        plpy.error("no release is deployed in this schema; run deploy-training-code")
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [newest[0]["digest"], newest[0]["bundle"]])
    GD["inputs"] = GD[newest[0]["digest"]]
return GD["inputs"].profile_inputs(input, summaries)
$python$;
comment on function profile_inputs(json, bytea[]) is
  'The bins of each feature of such summaries, and how many examples are in each';
revoke all on function profile_inputs(json, bytea[]) from public;
-- rollback
drop function profile_inputs(json, bytea[]);
drop function summarize_inputs(json, bytea, int);
