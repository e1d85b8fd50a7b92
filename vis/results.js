// The results page: cards of pictures with captions. Its data comes from page_data in imagernn/web/results_page.py.
'use strict';

const CHUNK = 12;                    // cards created and removed together: a multiple of 1, 2, 3, 4 and 6 columns
const LONGEST_TO_COMPARE = 1000;     // words of a caption
const SURE = [.5, .2, .05, .01];     // probabilities at which the shade of a word changes
const SHADES = ['over 50%', '20–50%', '5–20%', '1–5%', 'under 1%'];
const NAMES = 'AB';                  // of the files
const FEW_WORDS = ['Bleu_1', 'Bleu_2', 'Bleu_3'];    // a card shows these scores only when ordered by them
const MEASURES = ['perplexity', ...FEW_WORDS, 'Bleu_4', 'METEOR', 'ROUGE_L', 'CIDEr'];    // over all images

let data, tools, feed;
const view = {hits: null, open: new Set(), references: false};

async function start() {
  data = await loadData();
  document.title = `${data.title} – captions`;
  byId('title').textContent = data.title;
  byId('manners').append(schemeButton());
  showHeader();
  tools = makeTools();
  byId('keys').textContent = 'Keys: / to search, j and k for the next and the previous card, Tab to a card\'s details' +
    (attentive() ? ', ← and → from word to word, Esc to see the picture as it is.' : '.');
  feed = makeFeed(CHUNK, card);
  watchKeys(tools.search, feed);
  watchLooks(byId('cards'));
  showCards();
}

// ---- numbers and names

const comparing = () => data.files.length > 1;
const attentive = () => data.files.some(file => file.regions);    // whether words have places where they looked
const scoreName = name => name.replace(/^Bleu_/, 'BLEU-').replaceAll('_', '-');
const timesHundred = name => /^(Bleu|METEOR|ROUGE|CIDEr)/.test(name) ? 100 : 1;
const scoreText = (name, value) => (value * timesHundred(name)).toFixed(1);
const logText = value => value === null || value === undefined ? 'unknown' : value.toFixed(2).replace('-', '−');
const gainText = (name, gain) => (gain < 0 ? '−' : '+') + scoreText(name, Math.abs(gain));
const wordsOf = text => text ? text.split(' ') : [];

// A caption's mean log probability per word, END included, to compare captions of different lengths.
function perWord(caption) {
  return caption.logprob === null ? null : caption.logprob / (caption.words.length || wordsOf(caption.text).length + 1);
}

const fileLabel = i => comparing() ?
  element('b', {class: `file ${NAMES[i]}`, title: data.files[i].name}, NAMES[i]) : null;

// ---- above the cards

function showHeader() {
  byId('files').append(...data.files.map((file, i) => element('p', {class: 'soft text'}, fileLabel(i),
    [file.name, file.about].filter(Boolean).join(' · '))));
  const names = MEASURES.filter(name => data.files.some(file => name in file.measures));
  if (comparing()) byId('measures').append(element('div', {class: 'measure files'}, element('dt', {}, 'file'),
    ...data.files.map((_, i) => element('dd', {}, fileLabel(i)))));
  byId('measures').append(...names.map(name => element('div', {class: 'measure'},
    element('dt', {}, scoreName(name)), ...data.files.map(file => element('dd', {class: 'number'},
      name in file.measures ? scoreText(name, file.measures[name]) : '–')), gainOf(name))));
  byId('measures').hidden = !names.length;
  showSettings(data.files, NAMES);
  const problems = data.images.filter(image => image.problem);
  if (problems.length) notice(`${numberOf(problems.length, 'picture')} of ${whole.format(data.images.length)} cannot ` +
    `be shown; the cards say why. The first: ${problems[0].problem}`);
  if (comparing()) {
    const lonely = data.images.filter(image => !image.captions[1]).length;
    if (lonely) notice(`${NAMES[1]} has no caption for ${numberOf(lonely, 'image')}.`);
    if (data.left_out[0]) notice(`${numberOf(data.left_out[0], 'image')} of ${NAMES[1]} ${data.left_out[0] === 1 ?
      'is' : 'are'} not in ${NAMES[0]} and therefore left out.`);
  }
}

function gainOf(name) {
  const [one, other] = data.files.map(file => file.measures[name]);
  return one === undefined || other === undefined ? null :
    element('dd', {class: 'gain soft number', title: `${NAMES[1]} minus ${NAMES[0]}`}, gainText(name, other - one));
}

// ---- search and order

function makeTools() {
  const made = {
    search: searchField('Search in captions and references', () => data.images.map(textsOf), hits => {
      view.hits = hits;
      showCards(true);
    }),
    where: select('Where to search', [['both', 'in all captions'], ['captions', "in the model's"],
      ['references', 'in references'], ['name', 'in file names']], () => made.search.search(0)),
    order: select('Order', orders(), () => showCards(true)),
    rising: element('button', {type: 'button', onclick() {
      made.rising.value = made.rising.value ? '' : 'rising';
      showCards(true);
    }}),
    seed: element('input', {type: 'number', min: '0', step: '1', value: '1', oninput: () => showCards(true)}),
    differing: press('Differing only', on => { view.differing = on; showCards(true); }, false),
    references: press('References', on => { view.references = on; showCards(); }, false),
    shades: press('Probabilities', on => { document.body.classList.toggle('shaded', on); showLegend(); }, true),
  };
  made.seedLabel = element('label', {class: 'soft'}, 'seed', made.seed);
  const shadeable = data.images.some(image => image.captions.some(caption => caption?.words.length));
  byId('tools').append(made.search, made.where, made.order, made.rising, made.seedLabel,
    ...comparing() ? [made.differing] : [],
    ...data.images.some(image => image.references.length) ? [made.references] : [],
    ...shadeable ? [made.shades] : []);
  document.body.classList.toggle('shaded', shadeable);
  document.body.classList.toggle('comparing', comparing());
  showLegend();
  return made;
}

// What the cards can be ordered by: [value, text]; see valuesOf for the meaning of value.
function orders() {
  const captions = data.images.flatMap(image => image.captions);
  const scores = [...new Set(captions.flatMap(caption => Object.keys(caption?.scores ?? {})))];
  const of = i => comparing() ? `${NAMES[i]}: ` : '';
  const each = data.files.flatMap((_, i) => [[`logprob ${i}`, `by ${of(i)}log probability`],
    [`perWord ${i}`, `by ${of(i)}log probability per word`],
    ...scores.map(name => [`score ${i} ${name}`, `by ${of(i)}${scoreName(name)}`])]);
  const gains = comparing() ? scores.map(name => [`gain 1 ${name}`, `by B's gain in ${scoreName(name)}`]) : [];
  return [['file', 'in file order'], ...each, ...gains, ['shuffle', 'shuffled']];
}

function valuesOf(order) {
  const [kind, file, ...name] = order.split(' ');
  const score = (image, i) => image.captions[i]?.scores[name.join(' ')] ?? null;
  const caption = image => image.captions[file];
  return data.images.map({
    logprob: image => caption(image)?.logprob ?? null,
    perWord: image => caption(image) ? perWord(caption(image)) : null,
    score: image => score(image, file),
    gain: image => score(image, 1) === null || score(image, 0) === null ? null : score(image, 1) - score(image, 0),
  }[kind]);
}

// Indices in data.images of the images to show, in order. Images without the value to order by come last.
function ordered() {
  const order = tools.order.value, rising = Boolean(tools.rising.value);
  let places = [...data.images.keys()];
  if (order === 'shuffle') shuffle(places, Number(tools.seed.value));
  else if (order === 'file') { if (rising) places.reverse(); }
  else {
    const values = valuesOf(order), sign = rising ? 1 : -1;
    places.sort((a, b) => (values[a] === null) - (values[b] === null) || sign * (values[a] - values[b]) || a - b);
  }
  if (view.hits) places = places.filter(place => view.hits.has(place));
  if (view.differing) places = places.filter(place => {
    const [one, other] = data.images[place].captions;
    return other && one.text !== other.text;
  });
  return places;
}

// A Fisher-Yates shuffle in place, reproducible by its seed: the linear congruential generator of Numerical Recipes.
function shuffle(places, seed) {
  let state = seed >>> 0;
  const draw = n => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * n);
  };
  for (let i = 0; i < 9; i++) draw(1);                         // the first numbers of small seeds are similar
  for (let i = places.length - 1; i > 0; i--) {
    const j = draw(i + 1);
    [places[i], places[j]] = [places[j], places[i]];
  }
}

// The texts of an image to search: a list of {of, text}, where of says which text it is, such as 'caption 0'.
function textsOf(image) {
  const where = tools.where.value;
  return [
    ...where === 'both' || where === 'captions' ? image.captions.flatMap((caption, i) =>
      caption ? [{of: `caption ${i}`, text: caption.text}] : []) : [],
    ...where === 'both' || where === 'references' ? image.references.map((text, i) =>
      ({of: `reference ${i}`, text})) : [],
    ...where === 'name' ? [{of: 'name', text: image.name}] : [],
  ];
}

// ---- cards

// fromTop: scroll back to the first card, because the order or the selection has changed.
function showCards(fromTop = false) {
  const places = ordered(), order = tools.order.value;
  const directions = order === 'file' ? ['First to last', 'Last to first'] : ['Highest first', 'Lowest first'];
  tools.rising.textContent = directions[tools.rising.value ? 1 : 0];
  tools.rising.hidden = order === 'shuffle';
  tools.seedLabel.hidden = order !== 'shuffle';
  shine(null);
  feed.show(places, fromTop);
  if (!tools.search.hasAttribute('aria-invalid')) {    // otherwise it shows what is wrong with the search
    byId('count').textContent = places.length === data.images.length ? numberOf(places.length, 'image') :
      places.length ? `${whole.format(places.length)} of ${numberOf(data.images.length, 'image')}` :
        'No image matches; change or clear the search.';
  }
}

function card(place, position) {
  const image = data.images[place], hits = view.hits?.get(place);
  const count = image.references.length;
  const references = count ? foldOut(`${place} references`, numberOf(count, 'reference'), () => [
    element('ul', {}, ...image.references.map((text, i) =>
      element('li', {class: 'text', dir: 'auto'}, ...marked(text, hits?.get(`reference ${i}`)))))],
    view.references || [...hits?.keys() ?? []].some(of => of.startsWith('reference'))) : null;
  const parts = comparing() ? differences(image.captions) : [null];
  const shown = element('div', {class: 'picture'}, pictureOf(image, image.captions[0].text, image.picture,
    {loading: 'lazy'}));
  return element('article', {class: 'card', tabindex: '-1', 'aria-label': image.captions[0].text || 'no words',
    'aria-posinset': position, 'aria-setsize': feed.places.length},
  shown,
  ...image.captions.map((caption, i) =>
    captionPart(caption, i, place, shown.querySelector('img'), parts[i], hits?.get(`caption ${i}`))),
  references,
  element('p', {class: 'name soft text', dir: 'auto'}, ...marked(image.name, hits?.get('name'))));
}

// A caption with its scores and the details below it. img: the picture's element, or null.
function captionPart(caption, i, place, img, differing, ranges) {
  if (!caption) return element('div', {class: 'caption'}, fileLabel(i), element('span', {class: 'soft'}, 'no caption'));
  const figures = [
    ['log p', logText(caption.logprob), 'natural logarithm of the probability of the caption, including its end'],
    ...Object.entries(caption.scores)
      .filter(([name]) => !FEW_WORDS.includes(name) || tools.order.value.endsWith(` ${name}`))
      .map(([name, value]) => [scoreName(name), scoreText(name, value), 'against the references'])];
  const of = comparing() ? ` of ${NAMES[i]}` : '';
  return element('div', {class: 'caption'},
    captionLine('p', 'words text', `The words${of}`, caption, i, fileLabel(i),
      captionWords(caption, differing, ranges)),
    element('p', {class: 'figures soft number'}, ...figures.map(([name, value, title]) =>
      element('span', {title}, `${name} `, element('b', {}, value)))),
    caption.attention ? foldOut(`${place} looks ${i}`, 'Where each word looked', () => [lookStrip(
      Array.from({length: lookCount(regions(i), caption)}, (_, j) => looked(caption, i, j)), img)]) : null,
    caption.nbest.length > 1 ? foldOut(`${place} nbest ${i}`, `${caption.nbest.length} best captions`, () => [
      element('ol', {}, ...caption.nbest.map((one, n) => element('li', {class: 'text'},
        captionLine('span', '', `The words of caption ${n + 1}${of}`, one, i, null, captionWords(one)), ' ',
        element('span', {class: 'soft number'}, logText(one.logprob)))))]) : null,
    caption.words.length ? foldOut(`${place} words ${i}`, 'Word by word', () => [wordTable(caption)]) : null);
}

// An element with a caption's words, which are controls if the file says where they looked.
function captionLine(tag, classes, label, caption, i, before, words) {
  const line = element(tag, {class: classes, dir: 'auto'}, before, ...words);
  if (caption.attention) {
    const controls = words.filter(one => one instanceof Element);
    controls[wordsOf(caption.text).length]?.setAttribute('aria-label', 'the end of the caption');
    lookControls(line, controls, j => looked(caption, i, j), label);
  }
  return line;
}

const regions = i => data.files[i].smooth ??= regionsOf(data.files[i].regions);

// Where word j of a caption of file i looked, or its end; see shine in attention.js.
function looked(caption, i, j) {
  const look = lookOf(regions(i), caption, j), word = wordsOf(caption.text)[j];
  return {look, light: lightOf(regions(i), look.weights), word: word ?? '(end)', file: comparing() ? NAMES[i] : '',
    figure: share.format(look.most), said: lookText(word === undefined ? 'The end' : `‘${word}’`, look)};
}

// The words as spans, shaded by probability. Marked are those that a search found (ranges: [[start, end], ...]) and
// those that the other file's caption does not have (differing: {tag, words: [bool, ...]}).
function captionWords(caption, differing, ranges) {
  const made = [];
  let at = 0;
  shades(caption).forEach(({word, shade, title}, i) => {
    const isFound = ranges?.some(([start, end]) => start < at + word.length && at < end);
    const tag = differing?.words[i] ? differing.tag : isFound ? 'mark' : 'span';
    const span = element(tag, {class: `word ${shade}${isFound ? ' found' : ''}`}, word);
    if (title) span.title = title;
    made.push(...i && word !== '.' ? [' ', span] : [span]);
    at += word.length + 1;
  });
  return made.length ? made : [element('span', {class: 'soft'}, 'no words')];
}

// {word, p, shade, title} for each word and for END, which is shown as a full stop.
function shades({text, words}) {
  const list = wordsOf(text), known = words.length === list.length || words.length === list.length + 1;
  if (known && words.length > list.length) list.push('.');
  return list.map((word, i) => {
    const p = known && words[i] !== null ? Math.exp(words[i]) : null;
    if (p === null) return {word, p, shade: '', title: ''};
    const rank = SURE.findIndex(bound => p >= bound);
    const what = i === list.length - 1 && words.length > wordsOf(text).length ? 'the end' : word;
    return {word, p, shade: `p${rank < 0 ? SURE.length : rank}`,
      title: `${what}: ${percent.format(p)}, ln p ${logText(words[i])}`};
  });
}

function wordTable(caption) {
  return element('table', {class: 'bars'}, ...shades(caption).map(({word, p, shade}) => {
    const bar = element('div', {class: `bar ${shade}`});
    bar.style.width = `${100 * (p ?? 0)}%`;
    return element('tr', {}, element('th', {scope: 'row', class: 'text', dir: 'auto'}, word),
      element('td', {}, bar), element('td', {class: 'number'}, p === null ? 'unknown' : percent.format(p)));
  }));
}

// A <details> element whose body is built when it is first opened. It stays open when the cards are reordered.
function foldOut(key, title, build, open = false) {
  const body = element('div', {class: 'folded'});
  const details = element('details', {ontoggle() {
    if (details.open && !body.childElementCount) body.append(...build());
    if (!open) view.open[details.open ? 'add' : 'delete'](key);
  }}, element('summary', {}, title), body);
  details.open = open || view.open.has(key);
  if (details.open) body.append(...build());
  return details;
}

// For each of two captions {tag, words: [bool, ...]}: which words are outside their longest common subsequence; null
// for both if there is only one caption.
function differences([one, other]) {
  if (!other) return [null, null];
  const a = wordsOf(one.text), b = wordsOf(other.text);
  const inA = a.map(() => true), inB = b.map(() => true);
  if (Math.max(a.length, b.length) <= LONGEST_TO_COMPARE) {
    const length = Array.from({length: a.length + 1}, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
      }
    }
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) inA[i++] = inB[j++] = false;
      else if (length[i + 1][j] >= length[i][j + 1]) i++;
      else j++;
    }
  }
  return [{tag: 'del', words: inA}, {tag: 'ins', words: inB}];
}

function showLegend() {
  const spans = SHADES.flatMap((text, i) => [element('span', {class: `word p${i}`}, text), ' ']);
  byId('legend').replaceChildren(
    ...document.body.classList.contains('shaded') ? [element('p', {}, 'Probability of a word: ', ...spans)] : [],
    ...comparing() ? [element('p', {}, element('del', {}, 'only in A'), element('ins', {}, 'only in B'))] : [],
    ...attentive() ? [element('p', {}, 'Point at a word or tap it to see where the model looked.')] : []);
}

startPage(start);
