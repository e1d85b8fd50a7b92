// The ranking page: each sentence with the images that fit it best; an image opens a panel that shows which word fits
// which region, and the sentences that fit the image best. Its data comes from page_data in
// imagernn/web/ranking_page.py.
'use strict';

const CHUNK = 6;                      // rows created and removed together
const SHADES = [.15, .4, .65, .9];    // shares of a typical high score at which the shade of a word changes
const FAINT = .55;                    // opacity of the regions of all words
const ORDERS = {file: 'in file order', worst: 'worst rank first', best: 'best rank first',
  highest: 'highest score first', lowest: 'lowest score first'};

let data, tools, feed, hits = null;
const text = sentence => sentence.tokens.join(' ');

async function start() {
  data = await loadData();
  document.title = `${data.title} – ranking`;
  byId('title').textContent = data.title;
  byId('files').textContent = [data.name, data.about].filter(Boolean).join(' · ');
  byId('manners').append(schemeButton());
  showMeasures();
  showSettings([data]);
  const problems = data.images.filter(image => image.problem);
  if (problems.length) notice(`${numberOf(problems.length, 'picture')} of ${whole.format(data.images.length)} cannot ` +
    `be shown. The first: ${problems[0].problem}`);
  tools = makeTools();
  byId('legend').append(...[['right', 'the right image'], ['wrong', 'a wrong one'],
    ['true', 'the right image if it is not among the best']].map(([kind, what]) =>
    element('span', {}, element('i', {class: kind}), what)));
  byId('keys').textContent = 'Keys: / to search, j and k for the next and the previous sentence, arrows from image ' +
    'to image, Enter to open one, Esc to close it.';
  feed = makeFeed(CHUNK, row);
  watchKeys(tools.search, feed);
  byId('cards').addEventListener('click', event => {
    const shot = event.target.closest('.shot');
    if (shot) openPanel(...placeOfShot(shot));
  });
  byId('cards').addEventListener('keydown', onArrow);
  byId('cards').addEventListener('focusin', event => {
    const shot = event.target.closest('.shot');
    if (shot) for (const one of shot.parentElement.children) one.tabIndex = one === shot ? 0 : -1;
  });
  watchPanel();
  showRows();
}

// ---- above the rows

// Percentages and ranks: a row of the table for each direction, and below it the numbers that concern both.
function showMeasures() {
  const number = value => value === undefined ? '' : value.toFixed(Number.isInteger(value) ? 0 : 1);
  const both = Object.entries(data.measures).filter(([, value]) => typeof value === 'number');
  const ways = Object.entries(data.measures).filter(([, value]) => typeof value !== 'number');
  const names = [...new Set(ways.flatMap(([, values]) => Object.keys(values)))];
  byId('measures').hidden = !names.length && !both.length;
  byId('measures').append(element('table', {'aria-label': 'Measures of all sentences and images'},
    element('thead', {}, element('tr', {}, element('td', {}), ...names.map(name =>
      element('th', {scope: 'col', class: 'text'}, name.replaceAll('_', ' '))))),
    element('tbody', {}, ...ways.map(([way, values]) => element('tr', {},
      element('th', {scope: 'row', class: 'text'}, way.replaceAll('_', ' ')),
      ...names.map(name => element('td', {class: 'number'}, number(values[name]))))))),
  ...both.map(([name, value]) => element('p', {class: 'text'}, `${name.replaceAll('_', ' ')} `,
    element('b', {class: 'number'}, number(value)))));
}

function makeTools() {
  const made = {
    search: searchField('Search in the sentences', () => data.sentences.map(one => [{of: 'text', text: text(one)}]),
      found => {
        hits = found;
        showRows(true);
      }),
    order: select('Order', Object.entries(ORDERS), () => showRows(true)),
  };
  byId('tools').append(made.search, made.order);
  return made;
}

// ---- rows

function showRows(fromTop = false) {
  const {sentences} = data;
  const by = {worst: one => -one.rank, best: one => one.rank, highest: one => -one.images[0].score,
    lowest: one => one.images[0].score}[tools.order.value];
  const places = [...sentences.keys()].filter(place => !hits || hits.has(place));
  if (by) places.sort((a, b) => by(sentences[a]) - by(sentences[b]) || a - b);
  feed.show(places, fromTop);
  if (!tools.search.hasAttribute('aria-invalid')) byId('count').textContent = countText(places);
}

function countText(places) {
  if (!places.length) return 'No sentence matches; change or clear the search.';
  const shown = places.map(place => data.sentences[place]), all = data.sentences.length;
  const most = Math.max(...shown.map(one => one.images.length));
  const share = within => percent.format(shown.filter(within).length / shown.length);
  return (shown.length < all ? `${whole.format(shown.length)} of ` : '') + `${numberOf(all, 'sentence')}; the right ` +
    `image is first for ${share(one => one.rank === 1)}` +
    (most > 1 ? `, among the best ${most} for ${share(one => !one.true_image)}` : '');
}

// The images of a sentence that a row shows: {pair, kind: 'right', 'wrong' or 'true'}.
function shotsOf(sentence) {
  return [...sentence.images.map(pair => ({pair, kind: pair.image === sentence.image ? 'right' : 'wrong'})),
    ...sentence.true_image ? [{pair: sentence.true_image, kind: 'true'}] : []];
}

function row(place, position) {
  const sentence = data.sentences[place];
  return element('article', {tabindex: '-1', 'aria-label': text(sentence) || 'no words', 'aria-posinset': position,
    'aria-setsize': feed.places.length},
  element('div', {class: 'sentence'},
    element('p', {class: 'text', dir: 'auto'}, ...marked(text(sentence), hits?.get(place)?.get('text'))),
    element('span', {class: 'soft small number'}, `rank ${whole.format(sentence.rank)}`)),
  element('div', {class: 'shots', role: 'toolbar', 'aria-label': 'Its images, the best first'},
    ...shotsOf(sentence).map((shot, i) => shotButton(sentence, shot, i))));
}

function shotButton(sentence, {pair, kind}, i) {
  const image = data.images[pair.image];
  const about = {right: '✓', wrong: '', true: `rank ${whole.format(sentence.rank)}`}[kind];
  const button = element('button', {type: 'button', class: `shot ${kind}`, 'aria-haspopup': 'dialog', 'aria-label':
    `${kindText(kind, i, sentence)}, score ${scoreText(pair.score)}: ${altOf(pair.image)}`},
  element('span', {class: 'picture'}, pictureOf(image, '', smallOf(image), {loading: 'lazy'})),
  element('span', {class: 'figure number'}, scoreText(pair.score), element('span', {class: 'soft'}, about)));
  button.tabIndex = i ? -1 : 0;
  return button;
}

const scoreText = score => score.toFixed(Math.abs(score) < 10 ? 3 : 1).replace('-', '−');
const smallOf = image => image.picture?.startsWith('data:') ? image.picture : `${image.picture}/small`;
const kindText = (kind, i, sentence) => ({right: `Image ${i + 1}, the right one`, wrong: `Image ${i + 1}, a wrong one`,
  true: `The right image, rank ${whole.format(sentence.rank)}`})[kind];

// What an image shows in words: a sentence about it, or else its name.
function altOf(image) {
  altOf.sentences ??= new Map(data.sentences.map(one => [one.image, text(one)]).reverse());    // the first of each
  return altOf.sentences.get(image) || data.images[image].name;
}

// [index of the row, index of the image in it]
const placeOfShot = shot => [feed.index(shot.closest('article')), [...shot.parentElement.children].indexOf(shot)];

function focusShot(at, i) {
  const shots = feed.article(at)?.querySelectorAll('.shot');
  const shot = shots?.[Math.min(i, shots.length - 1)];
  shot?.focus({preventScroll: true});
  shot?.closest('article').scrollIntoView({block: 'nearest'});
}

function onArrow(event) {
  const shot = event.target.closest('.shot');
  if (!shot || event.ctrlKey || event.metaKey || event.altKey) return;
  const [at, i] = placeOfShot(shot), last = shot.parentElement.children.length - 1;
  const to = {ArrowLeft: [at, Math.max(i - 1, 0)], ArrowRight: [at, Math.min(i + 1, last)], ArrowUp: [at - 1, i],
    ArrowDown: [at + 1, i], Home: [at, 0], End: [at, last]}[event.key];
  if (!to) return;
  event.preventDefault();
  focusShot(...to);
}

// ---- the panel of an image

const shown = {at: 0, i: 0, sentence: 0};    // the row and the image in it; the sentence whose words are shown

function watchPanel() {
  const panel = byId('panel');
  watchLooks(byId('shown'));
  panel.addEventListener('click', event => { if (event.target === panel) panel.close(); });    // on the backdrop
  panel.addEventListener('close', () => {
    shine(null);
    focusShot(shown.at, shown.i);
  });
  panel.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest('.look') && /Left|Right/.test(event.key)) return;    // to a word beside: see attention.js
    const [row, image] = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key] ?? [];
    if (row === undefined) return;
    event.preventDefault();
    go(row, image);
  });
  addEventListener('resize', () => panel.open && drawRegions());
}

// Show image i of the row at an index, and which region each word of the row's sentence fits.
function openPanel(at, i) {
  Object.assign(shown, {at, i, sentence: feed.places[at]});
  fillPanel();
  byId('panel').showModal();
  byId('panel').focus();
  drawRegions();    // it has a size now
}

// Go some rows or some images further in the open panel, if there are any.
function go(rows, images) {
  const sentence = data.sentences[feed.places[shown.at + rows]], count = sentence ? shotsOf(sentence).length : 0;
  const i = rows ? Math.min(shown.i, count - 1) : shown.i + images;
  if (i < 0 || i >= count) return;
  Object.assign(shown, {at: shown.at + rows, i, sentence: feed.places[shown.at + rows]});
  fillPanel();
  byId('panel').focus();
  byId('panel').scrollTop = 0;
}

function fillPanel() {
  const sentence = data.sentences[feed.places[shown.at]], shots = shotsOf(sentence);
  const {pair, kind} = shots[shown.i], image = data.images[pair.image];
  const step = (name, label, by, able) => {
    const button = element('button', {type: 'button', 'aria-label': label, onclick: () => go(0, by)}, name);
    button.disabled = !able;
    return button;
  };
  shine(null);
  byId('shown').replaceChildren(element('article', {},
    element('header', {},
      element('h2', {id: 'heading'}, kindText(kind, shown.i, sentence)),
      element('div', {class: 'toolbar'},
        step('←', 'Previous image', -1, shown.i > 0), step('→', 'Next image', 1, shown.i < shots.length - 1),
        element('button', {type: 'button', onclick: () => byId('panel').close()}, 'Close'))),
    element('div', {class: 'columns'},
      element('div', {class: 'picture'}, pictureOf(image, altOf(pair.image)),
        element('canvas', {class: 'regions', 'aria-hidden': 'true'})),
      element('div', {},
        element('div', {id: 'said'}),
        element('h3', {}, 'The sentence of this row'),
        element('ul', {class: 'others'}, otherSentence(feed.places[shown.at], pair, pair.image)),
        element('h3', {}, `The ${image.sentences.length} best sentences for this image`),
        element('ol', {class: 'others'}, ...image.sentences.map(one => otherSentence(one.sentence, one, pair.image))),
        element('p', {class: 'name soft text', dir: 'auto'}, image.name)))));
  showWords(shown.sentence, pair);
  byId('panel').querySelector('.picture img')?.addEventListener('load', drawRegions);
}

// A sentence for the image of the panel, which a click shows with its words.
function otherSentence(place, pair, image) {
  const sentence = data.sentences[place], right = sentence.image === image;
  const button = element('button', {type: 'button', class: right ? 'right' : 'wrong', onclick: () =>
    showWords(place, pair)}, element('span', {class: 'text', dir: 'auto'}, text(sentence) || 'no words'),
  element('span', {class: 'number'}, `${right ? '✓ ' : ''}${scoreText(pair.score)}`),
  element('span', {class: 'unseen'}, right ? 'belongs to this image' : 'belongs to another image'));
  button.place = place;
  return element('li', {}, button);
}

// Show the words of a sentence with their scores, and the regions that they fit in the image of the panel.
function showWords(place, pair) {
  const {tokens, known} = data.sentences[place], scores = pair.scores ?? [];
  const words = tokens.map((word, i) => ({word, i: known.indexOf(i)}));
  if (scores.length > known.length) words.push({word: '(end)', i: known.length});
  const line = element('p', {class: 'words text', dir: 'auto'},
    ...words.map(({word, i}) => wordSpan(word, scores[i], i)));
  const controls = [...line.children].filter((_, j) => pair.regions?.[words[j].i] !== undefined);
  if (controls.length) lookControls(line, controls, j => {
    const {word, i} = words.filter(one => pair.regions[one.i] !== undefined)[j];
    return lookedAt(word, scores[i], pair.regions[i]);
  }, 'The words, each with its region');
  shine(null);
  shown.sentence = place;
  shown.boxes = [...new Set(pair.regions ?? [])].map(region => data.regions[region]);
  byId('said').replaceChildren(line, element('p', {class: 'total soft number'}, `score ${scoreText(pair.score)}`,
    controls.length ? ' · point at a word or tap it to see its region' : ''));
  for (const button of byId('panel').querySelectorAll('.others button')) {
    button.setAttribute('aria-pressed', String(button.place === place));
  }
  drawRegions();
}

function wordSpan(word, score, i) {
  if (i < 0) return element('span', {class: 'word unknown', title: 'not in the vocabulary'}, word,
    element('small', {}, 'unknown'));
  const shade = score === undefined ? 0 : SHADES.filter(bound => score >= bound * data.typical).length;
  return element('span', {class: `word s${data.typical ? shade : 0}`}, word,
    score === undefined ? null : element('small', {class: 'number'}, scoreText(score)));
}

// What shine in attention.js shows of a word.
function lookedAt(word, score, region) {
  const regions = data.smooth ??= regionsOf(data.regions), {box} = regions[region];
  const weights = regions.map((_, r) => r === region ? 1 : 0), place = placeOf(box);
  return {look: {weights, box, most: 1, place}, light: lightOf(regions, weights), word, figure: scoreText(score),
    file: '', said: `‘${word}’ fits ${place}, score ${scoreText(score)}`};
}

// Outline the regions of all words.
function drawRegions() {
  const canvas = byId('panel').querySelector('canvas.regions'), img = canvas?.parentElement.querySelector('img');
  if (!img?.naturalWidth || !canvas.parentElement.clientWidth) return;
  const unit = fit(canvas, img);
  canvas.getContext('2d').globalAlpha = FAINT;
  for (const box of shown.boxes) outline(canvas, box, unit);
}

startPage(start);
