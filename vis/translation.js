// The page of a translation model: a sentence, its translations, how likely their words were and, of a model with
// attention, where each looked. Its data comes from imagernn/translation/page.py and stays text.
'use strict';

let model;
let run = null;    // of the request that is awaited, to abort it

async function start() {
  byId('manners').append(schemeButton());
  model = byId('data') ? JSON.parse(byId('data').textContent) : await ask('model.json');
  byId('data')?.remove();
  document.title = `${model.title} – translation`;
  byId('title').textContent = model.title;
  byId('name').textContent = model.name;
  if (model.attention) {
    byId('words-title').textContent = 'Where each word looked';
    byId('legend').append('weight 0', element('span', {class: 'scale'}), '1');
    byId('keys').textContent = 'Keys: Tab to the grid, the arrow keys, Home and End to go through it.';
    watchGrid();
  } else {
    byId('words-title').textContent = 'How likely each word was';
    byId('legend').textContent = 'Only models trained with --attention have weights of the source words.';
  }
  if (model.samples) showSamples();
  else watchControls();
}

const notice = text => byId('notices').replaceChildren(element('p', {class: 'notice bad text'}, text));

// The JSON at an address. Errors say what to tell the user.
async function ask(address, signal) {
  let answer;
  try {
    answer = await fetch(address, {signal});
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The model does not answer. Start imagernn translation-page again.');
  }
  if (!answer.ok) throw new Error((await answer.text()).trim().replace(/^\d+: /, ''));
  return answer.json();
}

// ---- the sentence

function watchControls() {
  const line = byId('line'), form = byId('controls');
  line.maxLength = model.most;
  form.hidden = false;
  form.onsubmit = event => {
    event.preventDefault();
    translate(line.value);
  };
  line.onkeydown = event => {    // a sentence is one line
    if (event.key !== 'Enter' || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  };
  line.focus();
}

async function translate(line) {
  run?.abort();
  const own = run = new AbortController();
  byId('notices').replaceChildren();
  byId('done').textContent = 'Translating …';
  try {
    const sentence = await ask(`translate?${new URLSearchParams({line})}`, own.signal);
    if (run === own) show(sentence);
  } catch (error) {
    if (error.name === 'AbortError') return;
    byId('done').textContent = '';
    notice(error.message);
  }
}

function showSamples() {
  const select = byId('samples');
  select.append(...model.samples.map((sample, i) => element('option', {value: i}, sample.line)));
  select.onchange = () => show(model.samples[select.value]);
  byId('choice').hidden = false;
  show(model.samples[0]);
}

// ---- its translations

function show(sentence) {
  const unknown = sentence.source.filter(([, known]) => !known);
  byId('source').replaceChildren(...sentence.source.flatMap(([word, known]) =>
    [known ? word : element('span', {class: 'unknown', title: 'The model does not know this word.'}, word), ' ']));
  if (unknown.length) byId('source').append(`(${numberOf(unknown.length, 'word')} unknown to the model)`);
  const buttons = sentence.found.map((one, i) => element('button', {type: 'button', onclick: () => choose(i)},
    element('span', {class: 'text', dir: 'auto'}, one.text || '(no words)'),
    element('span', {class: 'number', title: 'ln p / length ^ length_penalty'}, one.score.toFixed(2))));
  const choose = chosen => {
    buttons.forEach((button, i) => button.setAttribute('aria-pressed', String(i === chosen)));
    showWords(sentence.source, sentence.found[chosen]);
  };
  byId('translations').replaceChildren(...buttons);
  byId('main').hidden = false;
  byId('done').textContent = `Translation: ${sentence.found[0].text}`;
  choose(0);
}

// A row for each word of a translation: the weights of the source's words, if there are any, and its probability.
function showWords(source, {words, weights}) {
  const columns = weights ? ['START', ...source.map(([word]) => word)] : [];
  const heads = columns.map((word, i) => element('th', {class: `column${i ? '' : ' mark'}`, scope: 'col', title: word},
    element('span', {dir: 'auto'}, word)));
  const rows = words.map(([word, p], row) => element('tr', {},
    element('th', {scope: 'row', dir: 'auto', title: word, ...(word === 'END' ? {class: 'mark'} : {})}, word),
    ...columns.map((column, i) => cell(weights[row][i], `${word} looked at ${column}: `)), likely(p)));
  byId('scroll').replaceChildren(element('table', weights ? {role: 'grid'} : {},
    element('thead', {}, element('tr', {}, element('td', {class: 'corner'}), ...heads,
      element('th', {class: 'column soft', scope: 'col'}, ' probability'))),
    element('tbody', {}, ...rows)));
  byId('scroll').querySelector('.weight')?.setAttribute('tabindex', '0');
  byId('place').textContent = weights ? 'Point at the grid, tap it, or go through it with the arrow keys.' : '';
}

function cell(weight, place) {
  const made = element('td', {class: 'weight', tabindex: '-1', 'aria-label': place + weight.toFixed(3)},
    element('span', {class: 'number'}, weight.toFixed(2)));
  made.style.setProperty('--much', `${100 * weight}%`);
  return made;
}

function likely(p) {
  const bar = element('i', {}), space = element('span', {}, bar);
  bar.style.setProperty('--much', `${100 * p}%`);
  bar.style.display = 'block';
  return element('td', {class: 'likely'}, element('div', {}, space, element('span', {class: 'number'}, p.toFixed(3))));
}

// ---- the grid

function watchGrid() {
  const grid = byId('scroll');
  const look = event => { if (event.target.closest('.weight')) mark(event.target.closest('.weight')); };
  grid.addEventListener('pointerover', look);
  grid.addEventListener('focusin', look);
  grid.addEventListener('pointerdown', event => event.target.closest('.weight')?.focus());
  grid.addEventListener('keydown', event => {
    const from = event.target.closest('.weight'), to = from && target(from, event.key);
    if (!to) return;
    event.preventDefault();
    from.setAttribute('tabindex', '-1');
    to.setAttribute('tabindex', '0');
    to.focus();
    to.scrollIntoView({block: 'nearest', inline: 'nearest'});
  });
}

// The cell that a key leads to, or undefined.
function target(cell, key) {
  const weights = row => row ? [...row.querySelectorAll('.weight')] : [];
  const row = weights(cell.parentElement), column = row.indexOf(cell);
  return {ArrowLeft: row[column - 1], ArrowRight: row[column + 1], Home: row[0], End: row.at(-1),
    ArrowUp: weights(cell.parentElement.previousElementSibling)[column],
    ArrowDown: weights(cell.parentElement.nextElementSibling)[column]}[key];
}

// Highlight the words of a cell, and say what it is.
function mark(cell) {
  byId('scroll').querySelectorAll('.here').forEach(head => head.classList.remove('here'));
  cell.parentElement.firstElementChild.classList.add('here');
  byId('scroll').querySelector('thead tr').children[cell.cellIndex].classList.add('here');
  byId('place').textContent = cell.getAttribute('aria-label');
}

start().catch(error => notice(error.message));
