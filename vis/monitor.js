// The training monitor: asks /status.json which runs there are, fetches those that have changed, and shows them as
// curves (curves.js) and as a table. Each run has a score, such as a perplexity or an accuracy: it is only ranked and
// drawn beside runs of the same score. Whatever comes from the files is inserted as text, never as markup.
'use strict';

const POLL_MILLISECONDS = 2000;
const COLORS = 5;                  // runs with a colour and a name in the charts: the best ones, or the selected ones
const SPANS = 150;                 // points of a curve of batch times, each the median of a span of reports
const MOST_VALUES = 200;           // rows of the table of values
const MOST_SCORES = 6;             // scores that get charts
const AXES = {                     // choices for the x-axis: name in the menu, title of the axis, format of its ticks
  epoch: {name: 'epochs', title: 'epoch', format: number},
  iter: {name: 'iterations', title: 'iteration', format: number},
  hours: {name: 'time', title: 'hours since the first report', format: number},
};
const PERPLEXITY = {name: 'perplexity', train_name: 'perplexity', higher_is_better: false};
const STATES = {running: '▶', finished: '✓', stopped: '■', aborted: '✕', diverged: '↗', silent: '?'};
const COLUMNS = [                  // of the table, before the settings: the value to sort by, the text of a cell
  {key: 'name', title: 'Run', value: run => run.name},
  {key: 'score', title: 'Score', value: run => run.score.name, text: run => run.score.name},
  {key: 'best', title: 'Best val', value: run => run.best_val, text: run => scored(run, run.best_val), count: true,
   ofScore: true},
  {key: 'at', title: 'at epoch', value: run => run.best_epoch, text: run => number(run.best_epoch), count: true},
  {key: 'state', title: 'State', value: run => stateOf(run), cell: stateCell},
  {key: 'epoch', title: 'Epoch', value: run => run.epoch, cell: progressCell, count: true},
  {key: 'left', title: 'Left', value: timeLeft, text: run => duration(timeLeft(run)), count: true},
  {key: 'train', title: 'Training', value: run => run.train, text: run => scored(run, run.train), count: true,
   ofScore: true},
  {key: 'val', title: 'Last val', value: run => run.val, text: run => scored(run, run.val), count: true,
   ofScore: true},
  {key: 'batch', title: 'Per batch', value: run => run.seconds_per_batch, text: run => duration(run.seconds_per_batch),
   count: true},
];

const runs = new Map();            // number -> run: the data of status.json and worker/NUMBER.json; curves: see curveOf
const picked = new Set();          // numbers of the selected runs
const slots = new Map();           // number -> index of its colour, kept as long as the run has a colour
// reverse: whether the order of the table is descending or, by a value of the score, worst first
const view = {filter: '', axis: 'epoch', log: true, sort: 'best', reverse: false, problems: '', hovered: null};
const charts = [];                 // as on the page: two of each score, {score: group, …}, and the one of batch times

// Numbers and durations as text, with a dash for missing ones.

function number(value) {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  const digits = size >= 1000 || Number.isInteger(value) ? 0 : size >= 100 ? 1 : size >= .1 ? 2 : 5;
  return value.toLocaleString('en', {maximumFractionDigits: digits, minimumFractionDigits: digits === 5 ? 0 : digits});
}

// A value of a run's score: where higher is better up to 1, as of accuracies, with four digits.
function scored({score}, value) {
  if (!score.higher_is_better || value === null || Math.abs(value) > 1) return number(value);
  return value.toLocaleString('en', {maximumFractionDigits: 4, minimumFractionDigits: 4});
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds < 1) return `${Number((seconds * 1000).toPrecision(3))} ms`;
  if (seconds < 60) return `${Number(seconds.toPrecision(3))} s`;
  const minutes = Math.round(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (days >= 2) return `${days} d ${hours % 24} h`;
  return hours ? `${hours} h ${String(minutes % 60).padStart(2, '0')} min` : `${minutes} min`;
}

// The state of a run at this moment.

function stateOf(run) {
  return run.state === 'running' && run.age > run.silent_after ? run.silent_end : run.state;
}

function timeLeft(run) {
  if (stateOf(run) !== 'running' || run.seconds_left === null) return null;
  return Math.max(0, run.seconds_left - run.age);
}

function hasEnded(run) {
  return !['running', 'silent'].includes(stateOf(run));
}

// Scores. What a run may be compared with: runs of the same group.

const groupOf = ({score}) => `${score.name} ${score.higher_is_better ? '↑' : '↓'}`;

// The runs of each score, sorted by a value of it, best first: a Map of groups, by the scores' names.
function byScore(list, value = run => run.best_val, reverse = false) {
  const groups = new Map();
  for (const run of sorted(list, groupOf)) {
    if (!groups.has(groupOf(run))) groups.set(groupOf(run), []);
    groups.get(groupOf(run)).push(run);
  }
  for (const [group, same] of groups)
    groups.set(group, sorted(same, value, same[0].score.higher_is_better !== reverse));
  return groups;
}

// The points of a run that have both values, sorted along an axis: {xs, ys, order}, where point i is report order[i].
function curveOf(run, metric, axis) {
  const key = `${metric} ${axis}`;
  if (!run.curves.has(key)) {
    const along = run.points[axis], values = run.points[metric];
    let order = [];
    for (let i = 0; i < along.length; i++) if (along[i] !== null && values[i] !== null) order.push(i);
    order.sort((a, b) => along[a] - along[b]);
    if (metric === 'batch') order = medians(order, values);
    run.curves.set(key, {xs: Float64Array.from(order, i => along[i]), ys: Float64Array.from(order, i => values[i]),
                         order});
  }
  return run.curves.get(key);
}

// For each of SPANS spans of order, the index of the report with the median value: single batch times are too noisy.
function medians(order, values) {
  const span = Math.ceil(order.length / SPANS), found = [];
  for (let start = 0; start < order.length; start += span) {
    const rising = order.slice(start, start + span).sort((a, b) => values[a] - values[b]);
    found.push(rising[rising.length >> 1]);
  }
  return found;
}

// Whether a run matches the filter: each word must occur in its name, state or score; setting=value compares numbers by
// value and texts by their beginning.
function matches(run, filter) {
  const settings = {score: run.score.name, ...run.settings};
  return filter.toLowerCase().split(/\s+/).filter(Boolean).every(word => {
    const [, name, asked] = word.match(/^([^=]+)=(.*)$/) ?? [];
    if (name === undefined) return `${run.name} ${stateOf(run)} ${run.score.name}`.toLowerCase().includes(word);
    const setting = Object.keys(settings).find(key => key.toLowerCase() === name);
    if (setting === undefined) return false;
    const value = settings[setting].toLowerCase();
    return asked !== '' && Number(asked) === Number(value) || value.startsWith(asked) && Number.isNaN(Number(value));
  });
}

const isMissing = value => value === null || value === undefined || value === '';

// Order for sorting: numbers, also in text form, by value; then texts; then missing values.
function compare(a, b) {
  if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
  const difference = Number(a) - Number(b);
  if (!Number.isNaN(difference)) return difference;
  return Number.isNaN(Number(a)) - Number.isNaN(Number(b)) || String(a).localeCompare(String(b), 'en', {numeric: true});
}

// Runs sorted by a value; runs without it come last in either direction.
function sorted(list, value, reverse = false) {
  const missing = run => isMissing(value(run));
  return [...list].sort((a, b) => missing(a) - missing(b) || (reverse ? -1 : 1) * compare(value(a), value(b))
                                  || compare(a.name, b.name));
}

// {differ: names of the settings whose values differ between runs, same: [name, value] of the others}.
function settingsOf(list) {
  const values = new Map();
  for (const run of list)
    for (const name of Object.keys(run.settings)) values.set(name, new Set(list.map(other => other.settings[name])));
  const differ = [...values].filter(([, found]) => found.size > 1).map(([name]) => name);
  const same = [...values].filter(([, found]) => found.size === 1).map(([name, found]) => [name, [...found][0]]);
  // in files written by driver.py, fappend is already part of the name
  const isNamed = name => name === 'fappend' && list.every(run => run.name.includes(run.settings.fappend));
  return {differ: differ.filter(name => !isNamed(name)), same};
}

// Names for the charts: without the prefix that all names share, up to its last underscore.
function shortNames(list) {
  let prefix = list.length > 1 ? list[0].name : '';
  for (const run of list) while (!run.name.startsWith(prefix)) prefix = prefix.slice(0, -1);
  const cut = prefix.lastIndexOf('_') + 1;
  return new Map(list.map(run => [run.number, run.name.slice(cut) || run.name]));
}

// Assign colours to the selected runs, or else to the best ones of each score. A run that has a colour keeps it.
function giveColors(list) {
  const chosen = list.filter(run => picked.has(run.number));
  const ranked = [...byScore(list.filter(run => run.best_val !== null)).values()].flatMap(
    group => group.map((run, rank) => ({run, rank})));
  const strong = chosen.length ? chosen : ranked.sort((a, b) => a.rank - b.rank).map(({run}) => run);
  const numbers = new Set(strong.slice(0, COLORS).map(run => run.number));
  for (const key of slots.keys()) if (!numbers.has(key)) slots.delete(key);
  for (const key of numbers) {
    if (slots.has(key)) continue;
    const taken = new Set(slots.values());
    slots.set(key, [...Array(COLORS).keys()].find(slot => !taken.has(slot)));
  }
  for (const run of chosen.slice(COLORS)) slots.set(run.number, -1);    // no colour left: drawn in the text colour
}

function colorOf(run) {
  if (!slots.has(run.number)) return 'var(--curve-other)';
  return slots.get(run.number) < 0 ? 'var(--ink)' : `var(--curve-${slots.get(run.number)})`;
}

// Rendering.

function shownRuns() {
  const column = COLUMNS.find(other => other.key === view.sort);
  const value = column ? column.value : run => run.settings[view.sort.slice(1)];
  const list = [...runs.values()].filter(run => matches(run, view.filter));
  return column?.ofScore ? [...byScore(list, value, view.reverse).values()].flat() : sorted(list, value, view.reverse);
}

// Update the whole page, or all but the curves if only time has passed.
function show(curvesToo = true) {
  const list = shownRuns();
  giveColors(list);
  showSummary(list);
  if (curvesToo) showCharts(list);
  showTable(list);
  showSamples(list);
  showValues(list);
}

function showSummary(list) {
  const counts = {};
  for (const run of runs.values()) counts[stateOf(run)] = (counts[stateOf(run)] ?? 0) + 1;
  const present = Object.keys(STATES).filter(state => counts[state]);
  const states = present.map(state => `${counts[state]} ${state}`).join(', ');
  const best = [...byScore(runs.values()).values()].map(group => group[0]).filter(run => run.best_val !== null);
  const values = best.map(run => [run, run.score.name, scored(run, run.best_val)]);
  const ranked = values.map(([run, score, value]) => `${run.name}, ${score} ${value} on val`).join('; ');
  setText(byId('summary'), runs.size
    ? `${runs.size} ${runs.size === 1 ? 'run' : 'runs'} in ${view.folder}: ${states}`
      + (ranked ? `; the best ${best.length === 1 ? 'is' : 'of each score:'} ${ranked}` : '')
    : `No status file in ${view.folder} yet: a training run writes one when it starts. This page waits for it.`);
  const short = values.map(([, score, value]) => best.length === 1 ? value : `${score} ${value}`).join(', ');
  document.title = runs.size ? `${states}${short ? `, best ${short}` : ''} – Training monitor` : 'Training monitor';
  setText(byId('shown'), list.length < runs.size ? `${list.length} of ${runs.size} runs` : '');
  byId('unpick').hidden = !picked.size;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;    // otherwise a screen reader would read it again
}

function showCharts(list) {
  const names = shortNames(list), axis = AXES[view.axis];
  const order = [...byScore(list).values()].flat().sort((a, b) => slots.has(b.number) - slots.has(a.number));
  showLegend(order.filter(run => slots.has(run.number)), names);
  arrangeCharts(list);
  for (const {chart, score, metric, title, about, linear} of charts) {
    const curves = order.filter(run => score === null || score === groupOf(run)).map(run => ({
      key: run.number, run, name: run.name, label: slots.has(run.number) ? names.get(run.number) : null,
      color: colorOf(run), strong: slots.has(run.number), ...curveOf(run, metric, view.axis)}));
    const drawn = curves.filter(curve => curve.xs.length);
    const last = drawn.slice(0, COLORS).map(({name, run, ys}) => `${name} ${valueOf(metric, run, ys.at(-1))}`);
    setText(about, drawn.length ? '' : 'nothing reported yet');
    chart.plot.setAttribute('aria-label', [`${title} of ${drawn.length} runs by ${axis.title}`, ...last].join('; '));
    chart.update(curves, {log: view.log && !linear, xTitle: axis.title, xFormat: axis.format});
  }
}

// Show two charts for each score of the runs in list, in the order of the scores' names. If it is empty, those of all
// runs, or before there are any, of perplexity.
function arrangeCharts(list) {
  const some = list.length ? list : runs.size ? [...runs.values()] : [{score: PERPLEXITY}];
  const scores = new Map(some.map(run => [groupOf(run), run.score])), wanted = [...scores.keys()].sort();
  const drawn = wanted.slice(0, MOST_SCORES), left = wanted.slice(MOST_SCORES).map(group => scores.get(group).name);
  for (const group of drawn)
    if (charts.every(({score}) => score !== group)) addScoreCharts(group, scores.get(group));
  for (const {score, figure} of charts) figure.hidden = score !== null && !drawn.includes(score);
  setText(byId('undrawn'), left.length ? `Filter by the score to see the curves of: ${left.join(', ')}.` : '');
}

function addScoreCharts(score, {name, train_name, higher_is_better: linear}) {
  addChart({score, metric: 'val', title: `${name[0].toUpperCase()}${name.slice(1)} on val`, format: number, linear});
  addChart({score, metric: 'train', title: `Training ${train_name}, smoothed`, format: number, linear});
}

// A chart, after those of the same score and before those of scores with later names; score null: the last one.
// format: of the marks of its vertical axis.
function addChart({score, metric, title, format, linear}) {
  const about = element('span', {class: 'soft small'});
  const figure = element('figure', {class: 'card'},
                         element('figcaption', {}, element('h2', {class: 'text'}, title), about));
  const at = charts.findIndex(other => other.score === null || score !== null && other.score > score);
  byId('charts').insertBefore(figure, charts[at]?.figure ?? null);
  const chart = new CurveChart(figure, {
    format, describe: (curve, index) => describe(metric, curve, index), onPick: pick,
    onHover: key => point(key, chart),
    onZoom: x => {
      for (const other of charts)
        if (other.chart !== chart) other.chart.setZoom(x, x ? other.chart.zoom.y : null, false);
    },
  });
  charts.splice(at < 0 ? charts.length : at, 0, {chart, score, metric, title, about, figure, linear});
}

// The chart by which the buttons zoom all: the first that shows a curve.
function zoomed() {
  const drawn = ({chart, figure}) => !figure.hidden && chart.curves.some(curve => curve.xs.length);
  return (charts.find(drawn) ?? charts[0]).chart;
}

// A legend of the coloured curves, for charts too narrow for labels.
function showLegend(list, names) {
  const said = list.map(run => `${run.number} ${slots.get(run.number)} ${names.get(run.number)}`).join('\n');
  if (byId('legend').dataset.said === said) return;
  byId('legend').dataset.said = said;
  byId('legend').replaceChildren(...list.map(run => {
    const swatch = element('span', {class: 'swatch'});
    swatch.style.background = colorOf(run);
    return element('li', {class: 'name'}, swatch, element('span', {class: 'text'}, names.get(run.number)));
  }));
}

function valueOf(metric, run, value) {
  return metric === 'batch' ? duration(value) : scored(run, value);
}

function describe(metric, curve, index) {
  const {run} = curve, at = curve.order[index], {points} = run;
  const where = [points.epoch[at] === null ? null : `epoch ${number(points.epoch[at])}`,
                 points.iter[at] === null ? null : `iteration ${number(points.iter[at])}`,
                 points.hours[at] === null ? null : duration(points.hours[at] * 3600)]
    .map(text => text?.replaceAll(' ', '\u00a0'));                            // lines may break only between them
  const value = `${metric === 'batch' ? '' : `${run.score.name} `}${valueOf(metric, run, curve.ys[index])}`;
  return [run.name, value, where.filter(Boolean).join(' · ')];
}

// The table. Rows are reused from one update to the next, so that neither focus nor scroll position is lost.

const rows = new Map();            // number -> tr

function showTable(list) {
  const {differ, same} = settingsOf(list);
  const columns = [...COLUMNS, ...differ.map(name => ({
    key: `=${name}`, title: name, value: run => run.settings[name], text: run => run.settings[name] ?? '–'}))];
  showHead(columns, list);
  const body = byId('table').tBodies[0] ?? byId('table').createTBody();
  for (const [key, row] of rows) if (!runs.has(key)) { row.remove(); rows.delete(key); }
  const wanted = list.map(run => {
    if (!rows.has(run.number)) rows.set(run.number, newRow(run));
    const row = rows.get(run.number);
    fillRow(row, run, columns);
    return row;
  });
  if (wanted.length !== body.rows.length || wanted.some((row, index) => row !== body.rows[index])) {
    const focused = body.contains(document.activeElement) ? document.activeElement : null;
    body.replaceChildren(...wanted);
    focused?.focus();
  }
  const by = columns.find(column => column.key === view.sort) ?? COLUMNS[0];
  const each = by.ofScore && new Set(list.map(groupOf)).size > 1 ? 'Runs of each score' : 'Runs';
  const isBest = view.sort === 'best' && !view.reverse;
  setText(byId('runs-title'), `${each}, ${isBest ? 'best first' : `by ${by.title}`}`);
  fillSettings(byId('same').querySelector('dl'), same);
  byId('same').hidden = list.length < 2 || !same.length;
}

function showHead(columns, list) {
  const table = byId('table'), head = table.tHead ?? table.createTHead(), row = head.rows[0] ?? head.insertRow();
  const keys = columns.map(column => column.key).join(' ');
  if (row.dataset.keys !== keys) {
    row.dataset.keys = keys;
    row.replaceChildren(...columns.map(column => element('th', {scope: 'col', 'data-key': column.key,
      ...(column.count ? {class: 'count'} : {})},
      element('button', {type: 'button', class: 'text', onclick: () => sortBy(column.key)}, column.title))));
  }
  const ofScore = columns.some(column => column.key === view.sort && column.ofScore);
  const falling = new Set(list.map(run => (ofScore && run.score.higher_is_better) !== view.reverse));
  const order = falling.size > 1 ? 'other' : falling.has(true) ? 'descending' : 'ascending';
  for (const cell of row.cells) {
    if (cell.dataset.key === view.sort) cell.setAttribute('aria-sort', order);
    else cell.removeAttribute('aria-sort');
  }
}

function sortBy(key) {
  view.reverse = view.sort === key && !view.reverse;
  view.sort = key;
  show();
}

function newRow(run) {
  const row = element('tr', {onclick: () => pick(run.number), onmouseenter: () => point(run.number),
                             onmouseleave: () => point(null)});
  row.append(element('th', {scope: 'row'}, element('div', {class: 'name'}, element('span', {class: 'swatch'}),
                     element('button', {type: 'button', class: 'run'}))));
  return row;
}

function fillRow(row, run, columns) {
  row.classList.toggle('picked', picked.has(run.number));
  const [name] = row.cells, button = name.querySelector('button');
  name.querySelector('.swatch').style.background = colorOf(run);
  setText(button, run.name);
  button.setAttribute('aria-pressed', picked.has(run.number));
  const keys = columns.map(column => column.key).join(' ');
  if (row.dataset.keys !== keys) {
    row.dataset.keys = keys;
    while (row.cells.length > 1) row.lastChild.remove();                       // the name may have the focus
    row.append(...columns.slice(1).map(column => element('td', {class: column.count ? 'count' : 'text'})));
  }
  columns.slice(1).forEach((column, index) => {
    const cell = row.cells[index + 1];
    if (column.cell) column.cell(run, cell);
    else setText(cell, column.text(run));
  });
}

function stateCell(run, cell) {
  const state = stateOf(run), said = state === 'silent' ? `no report for ${duration(run.age)}` : run.reason;
  if (cell.dataset.said === `${state} ${said}`) return;
  cell.dataset.said = `${state} ${said}`;
  cell.className = `state ${state}`;
  cell.replaceChildren(element('span', {'aria-hidden': 'true'}, `${STATES[state]} `), state,
                       ...(said ? [element('small', {class: 'text', title: said}, said)] : []));
}

function progressCell(run, cell) {
  const text = run.max_epoch === null ? number(run.epoch) : `${number(run.epoch)} of ${number(run.max_epoch)}`;
  if (cell.dataset.said === text) return;
  cell.dataset.said = text;
  const part = run.max_iter ? run.iter / run.max_iter : null;
  cell.replaceChildren(text, ...(part === null ? [] : [element('progress', {
    max: '1', value: String(part), 'aria-label': 'progress'})]));
}

function fillSettings(list, pairs) {
  const text = JSON.stringify(pairs);
  if (list.dataset.said === text) return;
  list.dataset.said = text;
  list.replaceChildren(...pairs.map(([name, value]) => element('div', {}, element('dt', {}, name),
                                                              element('dd', {}, value === '' ? '–' : value))));
}

// What a model wrote as it learned: that of a selected run, or else of the best one that has samples.

function showSamples(list) {
  const writers = [...byScore(list).values()].flat().filter(run => run.samples.length);
  const run = writers.find(other => picked.has(other.number)) ?? writers[0];
  const panel = byId('samples'), said = run && `${run.number} ${run.version}`;
  panel.hidden = !run;
  if (!run || panel.dataset.said === said) return;
  panel.dataset.said = said;
  setText(byId('samples-title'), `Samples of ${run.name}`);
  panel.querySelector('ol').replaceChildren(...run.samples.map(({epoch, val, text}) => element('li', {},
    element('div', {class: 'soft small'}, `epoch ${number(epoch)}, ${run.score.name} ${scored(run, val)} on val`),
    element('div', {class: 'text sample', dir: 'auto'}, text))));
}

// The values of one run as a table: an alternative to the charts, for screen readers and exact numbers.

function showValues(list) {
  const panel = byId('values'), menu = byId('values-run'), ranked = sorted(list, run => run.name);
  const text = ranked.map(run => `${run.number} ${run.name}`).join('\n');
  panel.hidden = !list.length;
  if (menu.dataset.said !== text) {
    const chosen = menu.value;
    menu.dataset.said = text;
    menu.replaceChildren(...ranked.map(run => element('option', {value: String(run.number)}, run.name)));
    if (ranked.some(run => String(run.number) === chosen)) menu.value = chosen;
    else if (list.length) menu.value = String(list[0].number);
  }
  const run = runs.get(Number(menu.value));
  if (!panel.open || !run || !list.length) return;
  setText(byId('values-about'), `${run.name}: ${stateOf(run)}${run.reason ? `, ${run.reason}` : ''}`);
  fillSettings(panel.querySelector('dl'), Object.entries(run.settings));
  const table = panel.querySelector('table'), said = `${run.number} ${run.version}`;
  if (table.dataset.said === said) return;
  table.dataset.said = said;
  const columns = [['epoch', 'Epoch', number], ['iter', 'Iteration', number],
                   ['hours', 'Since the first report', hours => duration(hours === null ? null : hours * 3600)],
                   ['val', 'Val', value => scored(run, value)], ['train', 'Training', value => scored(run, value)],
                   ['batch', 'Per batch', duration]];
  const {points, score: {name, train_name}} = run;
  const all = [...points.iter.keys()], step = Math.ceil(all.length / MOST_VALUES);
  const kept = all.filter(i => i % step === 0 || i === all.length - 1).reverse();
  table.replaceChildren(
    element('caption', {class: 'soft'},
      `${kept.length} of ${all.length} reports, latest first; ` + (train_name === name ?
        `Val and Training: ${name}` : `Val: ${name}, Training: ${train_name}`)),
    element('thead', {}, element('tr', {}, ...columns.map(
      ([, title]) => element('th', {scope: 'col', class: 'count'}, title)))),
    element('tbody', {}, ...kept.map(i => element('tr', {}, ...columns.map(([key, , format]) =>
      element('td', {class: 'count'}, format(points[key][i])))))));
}

// User actions.

function pick(key) {
  if (!picked.delete(key)) picked.add(key);
  if (picked.has(key)) byId('values-run').value = String(key);
  show();
}

// Highlight a run under the pointer: its row, and its curve in all charts except the one that the pointer is in.
function point(key, from = null) {
  rows.get(view.hovered)?.classList.remove('hovered');
  rows.get(key)?.classList.add('hovered');
  view.hovered = key;
  for (const {chart} of charts) if (chart !== from) chart.highlight(key);
}

function setUp() {
  byId('tools').append(schemeButton());
  addChart({score: null, metric: 'batch', title: 'Time per batch, running medians', format: duration, linear: false});
  for (const [key, {name}] of Object.entries(AXES)) byId('axis').append(element('option', {value: key}, name));
  byId('controls').addEventListener('submit', event => event.preventDefault());
  byId('filter').addEventListener('input', event => { view.filter = event.target.value; show(); });
  byId('axis').addEventListener('change', event => { view.axis = event.target.value; show(); });
  byId('log').addEventListener('change', event => { view.log = event.target.checked; show(); });
  byId('zoom-in').addEventListener('click', () => zoomed().zoomBy(.5));
  byId('zoom-out').addEventListener('click', () => zoomed().zoomBy(2));
  byId('zoom-all').addEventListener('click', () => zoomed().setZoom(null, null));
  byId('unpick').addEventListener('click', () => { picked.clear(); show(); byId('filter').focus(); });
  byId('values').addEventListener('toggle', () => show());
  byId('values-run').addEventListener('change', () => show());
}

// Fetching.

async function fetched(url) {
  const answer = await fetch(url, {cache: 'no-store'});
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return answer.json();
}

async function look() {
  const shown = runs.size, {folder, workers, problems} = await fetched('status.json');
  const changed = workers.filter(({number, version}) => runs.get(number)?.version !== version);
  const data = await Promise.all(changed.map(({number}) => fetched(`worker/${number}.json`)));
  changed.forEach(({number}, index) => {
    if (data[index].points) runs.set(number, {...data[index], curves: new Map()});
  });
  const there = new Set(workers.map(worker => worker.number));
  for (const key of runs.keys()) if (!there.has(key)) { runs.delete(key); picked.delete(key); }
  for (const {number, name, age} of workers) if (runs.has(number)) Object.assign(runs.get(number), {number, name, age});
  const same = view.folder === folder && !changed.length && shown === runs.size;
  view.folder = folder;
  return {problems, same};
}

function showNotices(problems, failure) {
  const said = JSON.stringify([problems, failure]);
  if (view.problems === said) return;
  view.problems = said;
  const notices = [], list = element('ul', {}, ...problems.map(
    ({file, problem}) => element('li', {class: 'text'}, element('b', {}, file), ` ${problem}`)));
  if (failure) notices.push(element('p', {class: 'notice bad'}, failure));
  if (problems.length) notices.push(element('div', {class: 'notice'}, 'Some files cannot be shown:', list));
  byId('notices').replaceChildren(...notices);
}

async function follow() {
  let problems = [];
  for (;;) {
    try {
      const news = await look();
      problems = news.problems;
      show(!news.same);
      showNotices(problems, '');
    } catch (error) {
      showNotices(problems, 'The monitor does not answer; it may have been stopped. This page shows the last data '
                            + `that it sent, and keeps trying. (${error.message})`);
    }
    await new Promise(resolve => {
      setTimeout(resolve, POLL_MILLISECONDS);
      document.addEventListener('visibilitychange', resolve, {once: true});    // at once when visible again
    });
  }
}

setUp();
follow();
