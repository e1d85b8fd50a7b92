// The page of a language model: it writes, each character or word is shaded by its probability or by the activation of
// a hidden unit, and each place shows what else was likely. Its data comes from imagernn/textgen/page.py and stays text.
'use strict';

const STEP = 40;                        // characters or words of a request
const ROUND = 500;                      // written by one press of a button
const SHADES = [.5, .2, .05, .01];      // a probability below each of these gets a stronger shade
const BY_NUMBER = 'all, by number';
const PROPERTIES = ['position in the line', 'inside quotes', 'spaces', 'capitals'];    // of reading.py

let model;
// What is shown. tokens, units, p, likely, rows (of activations) and spans have an entry for each character or word;
// begun: how many were given; at: the one that is looked at, or -1; unit: the chosen unit, or null for probabilities;
// followers: name -> [[unit, correlation], ...] of the text as it is, or null; run: of requests, to abort them
const view = {at: -1, unit: null, followers: null, run: null, ended: false};

async function start() {
  byId('manners').append(schemeButton());
  model = byId('data') ? JSON.parse(byId('data').textContent) : await ask('model.json');
  byId('data')?.remove();
  model.firsts = model.sizes.map((_, layer) => model.sizes.slice(0, layer).reduce((sum, size) => sum + size, 0));
  document.title = `${model.title} – language model`;
  byId('title').textContent = model.title;
  byId('name').textContent = model.name;
  byId('text').classList.toggle('words', model.level === 'word');
  watchText();
  watchUnits();
  clear();
  addEventListener('keydown', event => { if (event.key === 'Escape') choose(null); });
  if (model.samples) showSamples();
  else watchControls();
}

const notice = (...content) => byId('notices').replaceChildren(element('p', {class: 'notice bad text'}, ...content));
const thing = () => model.level === 'char' ? 'character' : 'word';

// The JSON at an address. Errors say what to tell the user.
async function ask(address, parameters, signal) {
  let answer;
  try {
    answer = await fetch(parameters ? `${address}?${new URLSearchParams(parameters)}` : address, {signal});
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The model does not answer. Start python -m imagernn.textgen.page again.');
  }
  if (!answer.ok) throw new Error((await answer.text()).trim().replace(/^\d+: /, ''));
  return answer.json();
}

// ---- writing

function watchControls() {
  const prime = byId('prime'), temperature = byId('temperature');
  const showDegrees = () => {
    byId('degrees').textContent = Number(temperature.value).toFixed(2);
    temperature.setAttribute('aria-valuetext', temperature.value === '0' ? '0, the likeliest' : temperature.value);
  };
  byId('controls').hidden = false;
  prime.value = model.prime;
  prime.maxLength = model.most - 1;
  if (model.lines) prime.rows = 1;
  temperature.oninput = showDegrees;
  showDegrees();
  byId('controls').onsubmit = event => {
    event.preventDefault();
    write(true);
  };
  byId('stop').onclick = () => view.run?.abort();
  byId('continue').onclick = () => write(false);
}

// Write a new text, or continue with the one that is there.
async function write(fromTheBeginning) {
  view.run?.abort();
  const run = view.run = new AbortController();
  byId('notices').replaceChildren();
  if (fromTheBeginning) clear();
  setButtons();
  byId('count').textContent = 'Writing …';
  try {
    if (fromTheBeginning) {
      const text = byId('prime').value;
      add(await ask('begin', {text}, run.signal));
      view.begun = view.tokens.length;
      view.spans.forEach(span => span.classList.add('given'));
    }
    const until = Math.min(view.tokens.length + ROUND, model.most);
    while (!view.ended && view.tokens.length < until) {
      add(await ask('write', {tokens: view.tokens.join(' '), begun: view.begun, seed: byId('seed').value,
        temperature: byId('temperature').value, count: Math.min(STEP, until - view.tokens.length)}, run.signal));
    }
  } catch (error) {
    if (error.name !== 'AbortError') notice(error.message);
  }
  if (view.run !== run) return;    // another one has begun
  view.run = null;
  setButtons();
  showCount();
  if (byId('order').value !== BY_NUMBER) showUnits();
}

function setButtons() {
  const focused = document.activeElement;
  byId('stop').disabled = !view.run;
  byId('continue').disabled = view.run || view.ended || !view.tokens.length || view.tokens.length >= model.most;
  if (focused.disabled) byId(view.run ? 'stop' : 'start').focus();
}

function showCount() {
  const written = view.tokens.length - view.begun;
  if (!written) byId('count').textContent = '';
  else {
    const nats = -view.p.slice(view.begun).reduce((sum, p) => sum + Math.log(p), 0) / written;
    byId('count').textContent = `${numberOf(written, thing())} written, ${nats.toFixed(2)} nats each` +
      (view.ended ? '; the line has ended' : view.tokens.length >= model.most ? '; this is as long as a text gets' : '');
  }
}

// ---- fixed samples

function showSamples() {
  const buttons = model.samples.map((sample, i) => element('button', {type: 'button', onclick: () => show(i)},
    sample.temperature ? `Temperature ${sample.temperature}` : 'Temperature 0 (the likeliest)'));
  const show = i => {
    buttons.forEach((button, j) => button.setAttribute('aria-pressed', String(i === j)));
    clear();
    add(model.samples[i]);
    view.begun = model.samples[i].begun;
    view.followers = model.samples[i].followers;
    view.spans.slice(0, view.begun).forEach(span => span.classList.add('given'));
    byId('text').scrollTop = 0;
    showCount();
    showUnits();
  };
  byId('samples').hidden = false;
  byId('samples').append(...buttons);
  show(0);
}

// ---- the text

function clear() {
  Object.assign(view, {tokens: [], units: [], p: [], likely: [], rows: [], spans: [], begun: 0, at: -1, ended: false,
    followers: null});
  byId('text').replaceChildren();
  byId('place').replaceChildren();
  byId('hint').hidden = false;
  byId('said').textContent = '';
  showLegend();
  showUnits();
}

// Append what the server has read or written.
function add({tokens, units, p, likely, activations, ended}) {
  const text = byId('text'), atEnd = text.scrollTop + text.clientHeight > text.scrollHeight - 40;
  const bytes = Int8Array.from(atob(activations), one => one.charCodeAt(0)), size = bytes.length / tokens.length;
  tokens.forEach((token, i) => {
    const t = view.tokens.length, unit = units[i], end = model.lines && !token;
    if (model.level === 'word' && t && ![unit, view.units[t - 1]].includes('\n')) text.append(' ');
    const span = element('span', {class: end ? 'end' : unit === '\n' ? 'newline' : ''}, unit);
    span.place = t;
    view.tokens.push(token);
    view.units.push(unit);
    view.p.push(p[i]);
    view.likely.push(likely[i]);
    view.rows.push(bytes.subarray(i * size, (i + 1) * size));
    view.spans.push(span);
    shade(t);
    text.append(span);
  });
  view.ended = ended;
  view.followers = null;
  if (atEnd) text.scrollTop = text.scrollHeight;
}

const activation = (t, unit) => view.rows[t][unit] / 127;

// Shade an element blue or red by an activation, or not where it is undefined.
function tint(shaded, value) {
  shaded.classList.toggle('plus', value > 0);
  shaded.classList.toggle('minus', value < 0);
  shaded.style.setProperty('--much', `${Math.round(100 * Math.abs(value ?? 0))}%`);
}

const shadeOf = p => SHADES.filter(bound => p < bound).length;

function shade(t) {
  const span = view.spans[t];
  tint(span, view.unit === null ? undefined : activation(t, view.unit));
  for (let s = 1; s <= SHADES.length; s++) {
    span.classList.toggle(`s${s}`, view.unit === null && shadeOf(view.p[t]) === s);
  }
}

function showLegend() {
  const swatch = (text, name) => element('span', {class: name}, text);
  if (view.unit === null) {
    byId('legend').replaceChildren('Probability', swatch(`${percent(SHADES[0])} and more`, 's0'),
      ...SHADES.map((bound, i) => swatch(`below ${percent(bound)}`, `s${i + 1}`)));
    return;
  }
  const scale = [-1, -.5, 0, .5, 1].map(value => {
    const made = swatch(numberText(value, 1), '');
    tint(made, value);
    return made;
  });
  byId('legend').replaceChildren(`${model.activation} of ${nameOf(view.unit)}`, ...scale,
    element('button', {type: 'button', onclick: () => choose(null)}, 'Show probabilities'));
}

const percent = share => `${100 * share}\u00a0%`;
const numberText = (value, digits = 2) => value.toFixed(digits).replace(/^-(0\.?0*)$/, '$1').replace('-', '−');
const probability = p => p >= .001 ? p.toFixed(4) : p.toExponential(2).replace('e-', ' · 10^−');
const visible = unit => ({' ': '␣ space', '\n': '↵ new line', '\t': '⇥ tab'})[unit] ?? unit;

function watchText() {
  const text = byId('text'), visit = event => { if (event.target.place !== undefined) look(event.target.place); };
  let pointer = '';
  text.addEventListener('click', visit);
  text.addEventListener('pointerover', event => {
    const now = `${event.clientX} ${event.clientY}`;
    if (now !== pointer) visit(event);    // else the text has been scrolled under it, perhaps by a key
    pointer = now;
  });
  text.addEventListener('focus', () => {
    if (view.at < 0 && view.spans.length && text.matches(':focus-visible')) look(0, true);
  });
  text.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || !view.spans.length) return;
    const to = {ArrowLeft: view.at - 1, ArrowRight: view.at + 1, Home: 0, End: view.spans.length - 1,
      ArrowUp: besides(-1), ArrowDown: besides(1)}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    look(Math.max(0, Math.min(to, view.spans.length - 1)), true);
  });
}

// The place in the line above, way -1, or below, way 1, that is nearest to the current one.
function besides(way) {
  const middle = span => span.offsetLeft + span.offsetWidth / 2, {spans} = view, from = spans[view.at];
  if (!from) return 0;
  let t = view.at, best = view.at, line = null;
  while (spans[t += way]) {
    const top = spans[t].offsetTop;
    if (Math.abs(top - from.offsetTop) < from.offsetHeight / 2) continue;
    line ??= top;
    if (Math.abs(top - line) >= from.offsetHeight / 2) break;
    if (best === view.at || Math.abs(middle(spans[t]) - middle(from)) < Math.abs(middle(spans[best]) - middle(from))) {
      best = t;
    }
  }
  return best;
}

// Look at a place: show its probability, what else was likely, and the activations of all units. by key: also said.
function look(t, said = false) {
  view.spans[view.at]?.classList.remove('here');
  view.at = t;
  view.spans[t].classList.add('here');
  if (said) view.spans[t].scrollIntoView({block: 'nearest'});
  showPlace();
  tintUnits();
  byId('said').textContent = said ? `${visible(view.units[t])}, probability ${probability(view.p[t])}` +
    `${view.unit === null ? '' : `, activation ${numberText(activation(t, view.unit))}`}; likeliest: ` +
    view.likely[t].slice(0, 3).map(([unit, p]) => `${visible(unit)} ${probability(p)}`).join(', ') : '';
}

function showPlace() {
  const t = view.at, unit = view.units[t];
  if (t < 0) return;
  const row = ([one, p], chosen) => {
    const bar = element('div', {class: 'bar'});
    bar.style.width = `${100 * p}%`;
    return element('tr', {class: chosen ? 'chosen' : ''}, element('th', {scope: 'row'},
      element('div', {class: 'text', dir: 'auto'}, visible(one))), element('td', {}, bar),
    element('td', {class: 'number'}, probability(p)));
  };
  const rank = view.likely[t].findIndex(([one]) => one === unit);
  byId('hint').hidden = true;
  byId('place').replaceChildren(
    element('h2', {}, element('span', {class: 'text', dir: 'auto'}, visible(unit)),
      element('span', {class: 'number small'}, `probability ${probability(view.p[t])}`),
      view.unit === null ? null : element('span', {class: 'number small'},
        `${model.activation} ${numberText(activation(t, view.unit))}`)),
    element('table', {}, element('caption', {}, `The likeliest in this place${rank < 0 ? ', and what stands there' : ''}`),
      element('tbody', {}, ...view.likely[t].map((one, i) => row(one, i === rank)),
        rank < 0 ? row([unit, view.p[t]], true) : null)));
}

// ---- the hidden units

function nameOf(unit) {
  const layer = model.firsts.findLastIndex(first => first <= unit);
  return `unit ${unit - model.firsts[layer] + 1}${model.sizes.length > 1 ? ` in layer ${layer + 1}` : ''}`;
}

function watchUnits() {
  const units = byId('units');
  byId('order').append(element('option', {value: BY_NUMBER}, BY_NUMBER), element('optgroup', {label: 'those that follow'},
    ...PROPERTIES.map(value => element('option', {value}, value))));
  byId('order').onchange = showUnits;
  units.addEventListener('click', event => {
    const button = event.target.closest('.unit');
    if (button) choose(button.unit === view.unit ? null : button.unit);
  });
  units.addEventListener('focusin', event => {
    for (const one of units.querySelectorAll('[tabindex="0"]')) one.tabIndex = -1;
    event.target.closest('.unit').tabIndex = 0;
  });
  units.addEventListener('keydown', event => {
    const buttons = [...units.querySelectorAll('.unit')], at = buttons.indexOf(event.target);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const {offsetTop, offsetLeft} = event.target, column = one => one.offsetLeft === offsetLeft;
    const to = {ArrowLeft: buttons[at - 1], ArrowRight: buttons[at + 1], Home: buttons[0], End: buttons.at(-1),
      ArrowUp: buttons.findLast(one => column(one) && one.offsetTop < offsetTop),
      ArrowDown: buttons.find(one => column(one) && one.offsetTop > offsetTop)};
    if (!(event.key in to)) return;
    event.preventDefault();
    to[event.key]?.focus();
  });
}

// Show all units, or those that follow a property of the text.
async function showUnits() {
  const order = byId('order').value, ready = view.tokens.length > 1 && !view.run;
  if (order === BY_NUMBER) {
    byId('about').textContent = `${model.activation} after each ${thing()}: blue is above 0, red below. Choose a ` +
      'unit to see it over the text.';
    fillUnits(...model.sizes.flatMap((size, layer) => [
      model.sizes.length > 1 ? element('h3', {}, layer ? `Layer ${layer + 1}` : 'Layer 1, the lowest') : null,
      element('div', {class: 'grid', role: 'group', 'aria-label': `Units of layer ${layer + 1}`},
        ...Array.from({length: size}, (_, i) => unitButton(model.firsts[layer] + i)))]));
    return;
  }
  try {
    if (ready) view.followers ??= await ask('follow', {tokens: view.tokens.join(' ')});
  } catch (error) {
    notice(error.message);
  }
  if (byId('order').value !== order) return;
  const found = ready && view.followers?.[order];
  byId('about').textContent = found ? `Pearson’s correlation of ${model.activation} with ${order} over this text.` :
    ready ? `This text has nothing to follow: “${order}” is the same in all of it.` : view.run ? 'Wait until the text is written.' : 'Write a text first.';
  fillUnits(element('div', {class: 'list', role: 'group', 'aria-label': `Units that follow: ${order}`},
    ...(found || []).map(([unit, strength]) => unitButton(unit, strength))));
}

function unitButton(unit, strength) {
  const button = element('button', {type: 'button', class: 'unit', 'aria-pressed': String(unit === view.unit),
    ...strength === undefined ? {'aria-label': nameOf(unit), title: nameOf(unit)} : {}},
  ...strength === undefined ? [] : [element('span', {}, nameOf(unit)),
    element('b', {class: 'number'}, `${strength > 0 ? '+' : ''}${numberText(strength)}`)]);
  button.unit = unit;
  button.tabIndex = -1;
  return button;
}

function fillUnits(...children) {
  byId('units').replaceChildren(...children.filter(Boolean));
  const buttons = [...byId('units').querySelectorAll('.unit')];
  const first = buttons.find(button => button.unit === view.unit) ?? buttons[0];
  if (first) first.tabIndex = 0;
  tintUnits();
}

// Shade the units by their activations in the place that is looked at, if they stand in a grid.
function tintUnits() {
  if (byId('order').value !== BY_NUMBER) return;
  for (const button of byId('units').querySelectorAll('.unit')) {
    tint(button, view.at < 0 ? undefined : activation(view.at, button.unit));
  }
}

// Show the activations of a unit over the text, or the probabilities if it is null.
function choose(unit) {
  view.unit = unit;
  view.spans.forEach((_, t) => shade(t));
  for (const button of byId('units').querySelectorAll('.unit')) {
    button.setAttribute('aria-pressed', String(button.unit === unit));
  }
  showLegend();
  showPlace();
}

start().catch(error => {
  notice(`The page cannot be shown: ${error.message}`);
  throw error;
});
