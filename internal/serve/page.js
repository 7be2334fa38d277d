'use strict';
const $ = id => document.getElementById(id);
const likeliest = 5, atOnce = 4, kept = 200, mostFields = 100;
let token = '', served = null, reported = '', fields = '', queue = [], running = 0, timer;

// call answers {status, body}; status 0 when nobody answers.
async function call(path, options = {}) {
  const headers = {...options.headers};
  if (token) headers.Authorization = 'Bearer ' + token;
  try {
    const answer = await fetch(path, {...options, headers, cache: 'no-store'});
    const body = await answer.json();
    return {status: answer.status, body, retry: Number(answer.headers.get('Retry-After'))};
  } catch {
    return {status: 0, body: {detail: [{type: 'away', msg: 'the service does not answer'}]}};
  }
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');
}

function problem(answer) {
  return answer.body?.detail?.[0] ?? {type: 'unknown', msg: 'status ' + answer.status};
}

function told(answer) {
  const {msg, loc} = problem(answer);
  return loc?.[1] === 'rows' && loc.length > 2 ? `Row ${loc[2] + 1}: ${msg}.` : sentence(msg);
}

function say(headline, reason, waits) {
  $('headline').textContent = headline;
  $('reason').textContent = reason;
  $('state').className = waits ? 'waits' : '';
}

// look asks which model is served, now and again: soon while there is none.
async function look() {
  clearTimeout(timer);
  if (!document.hidden) show(await call('v1/model'));
  timer = setTimeout(look, served ? 10000 : 3000);
}

function show(answer) {
  const {status, body} = answer;
  served = status === 200 ? body : null;
  for (const id of ['model', 'drop', 'table']) $(id).hidden = !served;
  if (!served) fold();
  $('state').hidden = Boolean(served);
  $('unlock').hidden = status !== 401;
  if (served) return describe(served);
  const kind = problem(answer).type;
  if (status === 401) {
    $('refused').textContent = token ? 'That is not the token.' : '';
    say('This service wants a token', 'Ask whoever runs it for one.', false);
  } else if (kind === 'no_model') {
    say('Waiting for a model', told(answer) + ' This page shows it as soon as one is promoted.', true);
  } else if (kind === 'database_away' || status === 0) {
    say('Out of reach', told(answer) + ' This page tries again.', true);
  } else {
    say('No predictions', told(answer), false);
  }
}

function describe(m) {
  const text = m.name ? `${m.name} · version ${m.version}` : 'A model is served';
  if ($('name').textContent !== text) $('name').textContent = text;
  document.title = m.name ? `${m.name} – Insitu` : 'Insitu';
  $('deployed').textContent = m.deployed_at ? `Deployed ${new Date(m.deployed_at).toLocaleString()} by ${m.deployed_by}` : '';
  const figures = m.metrics ?? {};
  const percent = x => (100 * x).toFixed(1) + ' %', plain = x => Number(x.toPrecision(4)).toString();
  const known = [
    ['Accuracy', figures.test_accuracy ?? figures.accuracy_score, percent], ['F1', figures.test_f1 ?? figures.f1_score, x => x.toFixed(3)],
    ['R²', figures.test_r2, plain], ['RMSE', figures.test_rmse, plain],
  ].filter(([, value]) => typeof value === 'number');
  $('figures').replaceChildren(...known.map(([name, value, format]) => {
    const group = document.createElement('div'), term = document.createElement('dt'), number = document.createElement('dd');
    term.textContent = name;
    number.textContent = format(value);
    group.append(term, number);
    return group;
  }));
  $('mlflow').hidden = !m.mlflow_url;
  if (m.mlflow_url) $('mlflow').href = m.mlflow_url;
  $('open').hidden = !m.report;
  $('more').hidden = !m.report && !m.mlflow_url;
  if (m.report) $('alone').href = m.report;
  if (!m.report || reported !== text) fold(); // the report of another version
  reported = text;
  $('table').hidden = m.takes !== 'rows';
  if (m.takes === 'rows') ask(m);
  $('drop').hidden = m.takes === 'rows';
}

// unfold shows the report, which is a document that came with the model: its frame has an origin of its own and runs nothing.
function unfold() {
  $('report').src = served.report;
  $('evaluation').hidden = false;
  $('open').setAttribute('aria-expanded', 'true');
  $('evaluation').scrollIntoView({block: 'nearest'});
}

function fold() {
  $('evaluation').hidden = true;
  $('report').removeAttribute('src');
  $('open').setAttribute('aria-expanded', 'false');
}

// ask makes a field for each column, unless they are there; a model that does not tell its columns is asked by JSON alone.
function ask(m) {
  const columns = (m.columns ?? []).length <= mostFields ? m.columns ?? [] : [], {dtype, range} = m.input ?? {};
  const asked = JSON.stringify([columns, dtype, range]);
  if (asked === fields) return;
  fields = asked;
  $('fields').hidden = !columns.length;
  $('json').open = !columns.length;
  const [low, high] = range ?? (dtype === 'uint8' ? [0, 255] : []);
  $('columns').replaceChildren(...columns.map(column => {
    const label = document.createElement('label'), name = document.createElement('span'), field = document.createElement('input');
    name.textContent = label.title = column;
    Object.assign(field, {type: 'number', required: true, step: dtype === 'uint8' ? '1' : 'any', inputMode: 'decimal', autocomplete: 'off'});
    if (low !== undefined) Object.assign(field, {min: low, max: high, placeholder: `${low} to ${high}`});
    field.dataset.column = column;
    label.append(name, field);
    return label;
  }));
  if (columns.length) {
    const some = columns.slice(0, 2).map(column => [column, low ?? 1]);
    $('example').textContent = JSON.stringify([Object.fromEntries(some)]).replace('}]', columns.length > 2 ? ', …}]' : '}]');
  }
}

// card adds a result that is still to come, in front of the others.
function card(name, file) {
  const li = $('card').content.firstElementChild.cloneNode(true);
  li.className = 'pending';
  li.querySelector('.file').textContent = li.querySelector('.file').title = name;
  const picture = li.querySelector('img'), instead = li.querySelector('.picture span');
  if (file) {
    picture.alt = name;
    picture.onload = () => picture.classList.toggle('small', picture.naturalWidth < 112);
    picture.onerror = () => { picture.remove(); instead.textContent = 'no preview'; };
    picture.src = URL.createObjectURL(file);
  } else {
    li.querySelector('.picture').remove();
  }
  return li;
}

function add(cards) {
  $('results').prepend(...cards);
  while ($('results').children.length > kept) drop($('results').lastElementChild);
  $('bar').hidden = false;
}

function drop(li) {
  const picture = li.querySelector('img');
  if (picture) URL.revokeObjectURL(picture.src);
  li.remove();
}

function fail(li, answer) {
  li.className = 'failed';
  li.querySelector('.label').textContent = told(answer);
}

function fill(li, prediction, body) {
  li.className = '';
  li.querySelector('.label').textContent = prediction.label;
  li.querySelector('.bars').replaceChildren(...prediction.probabilities.map(({label, probability}) => {
    const bar = document.createElement('li'), name = document.createElement('span'), track = document.createElement('span'), part = document.createElement('i'), number = document.createElement('span');
    name.textContent = name.title = label;
    track.className = 'track';
    part.style.width = 100 * probability + '%';
    track.append(part);
    number.textContent = (100 * probability).toFixed(1) + ' %';
    bar.append(name, track, number);
    return bar;
  }));
  const model = prediction.model ?? body.model;
  li.querySelector('.made').textContent = `${model.name} · version ${model.version} · ${body.milliseconds.toFixed(1)} ms`;
}

// patiently asks again when the service is busy.
async function patiently(path, options) {
  for (let attempt = 0; ; attempt++) {
    const answer = await call(path, options());
    if (problem(answer).type !== 'busy' || attempt === 5) {
      if (answer.status === 401 || problem(answer).type === 'no_model') show(answer);
      return answer;
    }
    await new Promise(resolve => setTimeout(resolve, 1000 * (answer.retry || 1)));
  }
}

// Each picture is a request of its own: one that is refused keeps no other from its answer.
function predict(files) {
  const all = [...files];
  if (!all.length || !served) return;
  const cards = all.map(file => card(file.name || 'pasted picture', file));
  add(cards);
  queue.push(...all.map((file, i) => [file, cards[i]]));
  while (running < atOnce && queue.length) work();
}

async function work() {
  running++;
  while (queue.length) {
    const [file, li] = queue.shift();
    const answer = await patiently(`v1/predict?top=${likeliest}`, () => {
      const form = new FormData();
      form.append('file', file, 'file');
      return {method: 'POST', body: form};
    });
    if (answer.status === 200) fill(li, answer.body.predictions[0], answer.body);
    else fail(li, answer);
  }
  running--;
}

async function predictText(text) {
  let rows;
  try {
    rows = JSON.parse(text);
  } catch (error) {
    const li = card('rows');
    fail(li, {body: {detail: [{msg: 'this is no JSON: ' + error.message}]}});
    return add([li]);
  }
  if (!Array.isArray(rows)) rows = [rows]; // one row
  else if (rows.length && rows.every(value => typeof value !== 'object')) rows = [rows];
  return predictRows(rows, rows.map((_, i) => 'row ' + (i + 1)));
}

// predictFields sends what the fields hold, and leaves it there: the next row may differ in one of them.
function predictFields() {
  const values = [...$('columns').querySelectorAll('input')].map(field => [field.dataset.column, field.valueAsNumber]);
  return predictRows([Object.fromEntries(values)], [values.map(([column, value]) => `${column} ${value}`).join(', ')]);
}

async function predictRows(rows, names) {
  const cards = names.map(name => card(name));
  const answer = await patiently('v1/predict', () => ({method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({rows, top: likeliest})}));
  if (answer.status !== 200) {
    const li = card(names.length > 1 ? 'rows' : names[0] ?? 'rows');
    fail(li, answer);
    return add([li]);
  }
  answer.body.predictions.forEach((prediction, i) => fill(cards[i], prediction, answer.body));
  add(cards);
  cards[0].scrollIntoView({block: 'nearest'});
}

$('files').onchange = event => { predict(event.target.files); event.target.value = ''; };
$('open').onclick = () => $('evaluation').hidden ? unfold() : fold();
$('close').onclick = () => { fold(); $('open').focus(); };
$('fields').onsubmit = event => { event.preventDefault(); predictFields(); };
$('text').onsubmit = event => { event.preventDefault(); predictText($('rows').value); };
$('rows').onkeydown = event => { if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('text').requestSubmit(); };
$('unlock').onsubmit = event => { event.preventDefault(); token = $('token').value; $('token').value = ''; look(); };
$('clear').onclick = () => { queue = []; [...$('results').children].forEach(drop); $('bar').hidden = true; };
document.onpaste = event => { if (event.clipboardData.files.length) { event.preventDefault(); predict(event.clipboardData.files); } };
document.ondragover = event => { event.preventDefault(); document.body.classList.add('over'); };
document.ondragleave = event => { if (!event.relatedTarget) document.body.classList.remove('over'); };
document.ondrop = event => { event.preventDefault(); document.body.classList.remove('over'); predict(event.dataTransfer.files); };
document.onvisibilitychange = () => { if (!document.hidden) look(); };
look();
