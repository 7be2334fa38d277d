-- on change
-- Three-line wrappers; the work is done by the Python in the bundle.
-- pg_temp comes last, or a caller's temporary table could pose as releases.
select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

create or replace function load_release(release text, bundle text) returns void language plpython3u volatile
set search_path from current as $python$
import json
if not plpy.execute(plpy.prepare("select 1 from releases where digest = $1 and bundle = $2", ["text", "text"]), [release, bundle]):
    plpy.error("release %.16s with this bundle was not deployed to this schema; run deploy-training-code" % release)
boot = {}
exec(compile(json.loads(bundle)["insitu_runtime/boot.py"], "insitu_runtime/boot.py", "exec"), boot)
GD[release] = boot["load"](release, bundle, "insitu_runtime.host").Host(release, plpy)
$python$;
comment on function load_release(text, text) is
  'Loads the Python of a deployed release into this session; code that is not in releases is refused';
revoke all on function load_release(text, text) from public;

create or replace function init_state(release text, bundle text, spec text) returns bytea language plpython3u stable
set search_path from current as $python$
if release not in GD:
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [release, bundle])
return GD[release].init_state(spec)
$python$;
comment on function init_state(text, text, text) is
  'The state a training starts from: named arrays in .npz, seeded by the spec';
revoke all on function init_state(text, text, text) from public;

create or replace function warm_state(release text, bundle text, spec text, state bytea) returns bytea language plpython3u stable
set search_path from current as $python$
if release not in GD:
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [release, bundle])
return GD[release].warm_state(spec, state)
$python$;
comment on function warm_state(text, text, text, bytea) is
  'The state of an earlier training as the start of another; an error unless it is of the same learner';
revoke all on function warm_state(text, text, text, bytea) from public;

create or replace function merge_states(release text, bundle text, spec text, states bytea[], rows bigint[]) returns bytea language plpython3u stable
set search_path from current as $python$
if release not in GD:
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [release, bundle])
return GD[release].merge_states(spec, states, rows)
$python$;
comment on function merge_states(text, text, text, bytea[], bigint[]) is
  'One state from the states of all shards, in the order given; by default the average weighted by rows';
revoke all on function merge_states(text, text, text, bytea[], bigint[]) from public;

create or replace function predict_state(release text, bundle text, spec text, state bytea, data bytea) returns bytea language plpython3u stable
set search_path from current as $python$
if release not in GD:
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [release, bundle])
return GD[release].predict_state(spec, state, data)
$python$;
comment on function predict_state(text, text, text, bytea, bytea) is
  'Predictions for a pack by the learner itself: float32 [n, outputs], little-endian, C order';
revoke all on function predict_state(text, text, text, bytea, bytea) from public;

create or replace function export_model(release text, bundle text, spec text, state bytea) returns bytea language plpython3u stable
set search_path from current as $python$
if release not in GD:
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [release, bundle])
return GD[release].export_model(spec, state)
$python$;
comment on function export_model(text, text, text, bytea) is
  'The model of a state as ONNX, checked: input "input" of the raw dtype, output "probabilities"';
revoke all on function export_model(text, text, text, bytea) from public;

create or replace function predict_onnx(model bytea, digest text, data bytea, n int) returns bytea language plpython3u stable
set search_path from current as $python$
if "predict_onnx" not in GD:
    newest = plpy.execute("select digest, bundle from releases order by ordinal desc limit 1")
    if not newest:
        plpy.error("no release is deployed in this schema; run deploy-training-code")
    plpy.execute(plpy.prepare("select load_release($1, $2)", ["text", "text"]), [newest[0]["digest"], newest[0]["bundle"]])
    GD["predict_onnx"] = GD[newest[0]["digest"]].predict_onnx
return GD["predict_onnx"](model, digest, data, n)
$python$;
comment on function predict_onnx(bytea, text, bytea, int) is
  'Predictions of an ONNX model for n examples: float32 [n, outputs]; the model''s SHA-256 must be digest';
revoke all on function predict_onnx(bytea, text, bytea, int) from public;

create or replace function fingerprint(labels bytea, data bytea) returns text language plpython3u immutable strict
set search_path from current as $python$
from hashlib import sha256
digest = sha256(b"%d %d " % (len(labels), len(data)))
digest.update(labels)
digest.update(data)
return digest.hexdigest()
$python$;
comment on function fingerprint(bytea, bytea) is
  'SHA-256 of a pack: what training compares to know whether a row has changed';
revoke all on function fingerprint(bytea, bytea) from public;

create or replace function library_versions() returns json language plpython3u stable
set search_path from current as $python$
import json, platform
from importlib import metadata
versions = {"python": platform.python_version()}
for name in ("numpy", "onnx", "onnxruntime", "torch", "scikit-learn", "lightgbm"):
    try:
        versions[name] = metadata.version(name)  # reads the package's own record: importing torch takes a second
    except metadata.PackageNotFoundError:
        pass
return json.dumps(versions)
$python$;
comment on function library_versions() is
  'Versions of Python and of the packages that models are made with; packages that are not installed are left out';
revoke all on function library_versions() from public;
-- rollback
drop function library_versions();
drop function fingerprint(bytea, bytea);
drop function predict_onnx(bytea, text, bytea, int);
drop function export_model(text, text, text, bytea);
drop function predict_state(text, text, text, bytea, bytea);
drop function merge_states(text, text, text, bytea[], bigint[]);
drop function warm_state(text, text, text, bytea);
drop function init_state(text, text, text);
drop function load_release(text, text);
