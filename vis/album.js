// The album: a folder's photos with their captions, a search by sentence, and a panel that shows a photo in full with
// the region where each word of the search was seen. Its data comes from imagernn/gallery/pages.py and stays text.
'use strict';

const NEAR = 800;             // pixels: cards exist this far above and below the window
const NARROWEST = 13;         // rem, of a card, unless that leaves fewer than FEWEST_COLUMNS
const FEWEST_COLUMNS = 2;
const MOST_LOADING = 6;       // thumbnails at once, so that a fast scroll does not ask for all that it passes
const COLORS = 6;             // of words and their regions; see album.css
const FAINTEST = .45;         // strength of the outline of a region, beside 1 for that of the word with the best score

const scoreText = score => (Math.round(100 * score) / 100 || 0).toFixed(2).replace('-', '−');    // no −0.00
const captionOf = photo => photo.caption || 'no caption';

let album;
// query: the sentence whose results are shown, null before the first; results: [{photo, score}, ...] in order, without
// scores if all photos are shown; at: the place in them that the Tab key enters; open: the number of the photo in the
// panel, or null
const view = {query: null, results: [], at: 0, open: null};

async function start() {
  byId('tools').append(schemeButton());
  album = await ask('album.json');
  byId('title').textContent = album.folder;
  showProblems();
  byId('search').onsubmit = event => {
    event.preventDefault();
    if (matchMedia('(pointer: coarse)').matches) byId('query').blur();    // hides the keyboard of a phone
    searchFor(byId('query').value, true);
  };
  byId('query').oninput = () => { if (!byId('query').value) searchFor(''); };
  byId('all').onclick = () => {
    searchFor('');
    byId('query').focus();
  };
  byId('skip').onclick = event => {    // its address would replace the search
    event.preventDefault();
    byId('photos').focus();
  };
  watchGrid();
  watchPanel();
  history.scrollRestoration = 'manual';
  addEventListener('pagehide', rememberScroll);
  addEventListener('popstate', async () => {
    if (await follow()) scrollTo(0, history.state?.scroll ?? 0);
  });
  await follow();
  scrollTo(0, history.state?.scroll ?? 0);
}

// The JSON at an address. Errors say what to tell the user.
async function ask(address, signal) {
  let answer;
  try {
    answer = await fetch(address, {signal});
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The album does not answer. Start python -m imagernn.album again.');
  }
  if (!answer.ok) throw new Error(`The album cannot answer: ${(await answer.text()).trim()}`);
  return answer.json();
}

const notice = (kind, ...content) =>
  byId('notices').append(element('p', {class: `notice text ${kind}`, dir: 'auto'}, ...content));

function showProblems() {
  if (!album.problems.length) return;
  byId('search').before(element('details', {class: 'notice', id: 'problems'},
    element('summary', {}, `${numberOf(album.problems.length, 'problem')} with this folder`),
    element('ul', {}, ...album.problems.map(text => element('li', {class: 'text', dir: 'auto'}, text)))));
}

// ---- the address: #q=a sentence&photo=the number of the photo in the panel

function addressOf() {
  const parts = new URLSearchParams(location.hash.slice(1)), photo = parts.get('photo');
  return {query: parts.get('q') ?? '', photo: /^\d+$/.test(photo) && album.photos[photo] ? Number(photo) : null};
}

const rememberScroll = () => history.replaceState({...history.state, scroll: scrollY}, '');

// Go to an address. replacing: without a new entry in the browser's history.
function go(query, photo, replacing = false) {
  const parts = new URLSearchParams({...query && {q: query}, ...photo !== null && {photo}});
  if (!replacing) rememberScroll();
  const state = replacing ? history.state : {opened: photo !== null, scroll: 0};
  history[replacing ? 'replaceState' : 'pushState'](state, '', `#${parts}`);
  return follow();
}

// Show what the address says. Returns whether the photos in the grid have been replaced, once they have been.
async function follow() {
  const {query, photo} = addressOf(), replaced = query !== view.query, left = view.open;
  const searched = replaced && search(query);
  if (photo !== null) showPhoto(photo, replaced);
  else if (left !== null) {
    closePanel();
    if (!replaced && placeOfPhoto(left) >= 0) focusCard(placeOfPhoto(left));
  }
  return searched;
}

// again: also if it is the query that is shown, which failed perhaps.
async function searchFor(text, again = false) {
  const query = text.trim(), inPanel = view.open !== null;
  if (again) view.query = null;
  const {query: shown, photo} = addressOf();
  await go(query, null, query === shown && photo === null);
  scrollTo(0, 0);
  if (inPanel) byId('photos').focus({preventScroll: true});
}

// ---- search

// Show the results of a query, or all photos if it is empty. Returns whether it was not replaced by another meanwhile.
async function search(query) {
  search.abort?.abort();
  search.abort = new AbortController();
  const {signal} = search.abort;
  Object.assign(view, {query, at: 0});
  byId('query').value = query;
  byId('all').hidden = !query;
  document.title = query ? `${query} – ${album.folder}` : album.folder;
  let answer = {results: album.photos.map((_, photo) => ({photo})), unknown: [], error: null};
  byId('photos').setAttribute('aria-busy', 'true');
  try {
    if (query) answer = await ask(`search?${new URLSearchParams({q: query})}`, signal);
  } catch (error) {
    if (signal.aborted) return false;
    answer = {results: [], unknown: [], error: error.message};
  }
  if (signal.aborted) return false;
  byId('photos').removeAttribute('aria-busy');
  showResults(answer);
  return true;
}

function showResults({results, unknown, nearest, error}) {
  view.results = results;
  byId('notices').replaceChildren();
  if (error) notice('bad', error);
  const strange = [...new Set(unknown)];
  for (const word of strange) notice('', `The search does not know the word ‘\u2068${word}\u2069’. `,
    ...nearest[word]?.length ? ['Try ', ...nearest[word].flatMap(near => [' ', nearButton(word, near)])] : []);
  byId('number').textContent = countText(strange.length);
  showGrid();
  if (view.open !== null) showPlace();
}

// What screen readers say when the photos have changed.
function countText(strange) {
  const {query, results} = view, all = numberOf(album.photos.length, 'photo');
  if (!query) return all;
  if (!results.length) return 'No photo was found.';
  const left = strange ? `, without ${numberOf(strange, 'unknown word')}` : '';
  return `${results.length < album.photos.length ? `The best ${whole.format(results.length)} of ${all}` :
    `${all}, best first`}${left}`;
}

// A button that puts a known word in the place of an unknown one and searches again.
function nearButton(word, near) {
  return element('button', {type: 'button', class: 'near text', dir: 'auto', onclick() {
    const {query} = view, escaped = word.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
    const replaced = query.replace(new RegExp(`(?<![\\p{L}\\p{N}])${escaped}(?![\\p{L}\\p{N}])`, 'giu'), () => near);
    searchFor(replaced === query ? `${query} ${near}` : replaced);
    byId('query').focus();
  }}, near);
}

// ---- the grid: all of its rows are equally high, and only those near the window have cards

const cards = new Map();      // place in view.results -> its card
const grid = {columns: FEWEST_COLUMNS, row: 1};    // row: its height in pixels, with the gap

function watchGrid() {
  const list = byId('grid');
  addEventListener('scroll', () => {
    watchGrid.frame ??= requestAnimationFrame(() => {
      watchGrid.frame = null;
      makeCards();
    });
  }, {passive: true});
  let width = 0;
  new ResizeObserver(() => {
    if (list.clientWidth === width) return;
    width = list.clientWidth;
    const topOf = () => list.getBoundingClientRect().top, passed = -topOf() / grid.row * grid.columns;    // photos
    measureGrid();
    if (passed > 0) scrollBy(0, topOf() + passed / grid.columns * grid.row);
    makeCards();
  }).observe(list);
  list.addEventListener('focusin', event => moveTo(Number(event.target.closest('li').dataset.at)));
  document.addEventListener('keydown', onKey);
}

function showGrid() {
  cards.clear();
  byId('grid').replaceChildren();
  measureGrid();
  makeCards();
}

// The number of columns and the height of a row, which depend on the width of the window and on the size of the text.
function measureGrid() {
  const list = byId('grid'), rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const gap = parseFloat(getComputedStyle(list).columnGap);
  grid.columns = Math.max(FEWEST_COLUMNS, Math.floor((list.clientWidth + gap) / (NARROWEST * rem + gap)));
  list.style.setProperty('--columns', grid.columns);
  if (!view.results.length) {
    list.style.height = 0;
    return;
  }
  const [made] = cards.values(), probe = made ?? list.appendChild(card(0));
  grid.row = probe.offsetHeight + gap;
  if (!made) probe.remove();
  list.style.setProperty('--row', `${grid.row}px`);
  list.style.height = `${Math.ceil(view.results.length / grid.columns) * grid.row - gap}px`;
  for (const [at, one] of cards) putCard(one, at);
}

// Make the cards near the window and remove the others, apart from one that has the focus.
function makeCards() {
  const list = byId('grid'), {top} = list.getBoundingClientRect(), {columns, row} = grid;
  const first = Math.max(0, Math.floor((-top - NEAR) / row) * columns);
  const end = Math.min(view.results.length, Math.ceil((innerHeight - top + NEAR) / row) * columns);
  const places = new Set();
  for (let at = first; at < end; at++) places.add(at);
  if (cards.get(view.at)?.contains(document.activeElement)) places.add(view.at);
  else if (!places.has(view.at)) view.at = Math.max(0, Math.min(end - 1, Math.ceil(-top / row) * columns));
  for (const [at, one] of cards) {
    if (places.has(at)) continue;
    one.remove();
    cards.delete(at);
  }
  let following = null;
  for (const at of [...places].sort((a, b) => b - a)) {    // in the order of the Tab key, from the last
    if (!cards.has(at)) cards.set(at, list.insertBefore(putCard(card(at), at), following));
    following = cards.get(at);
    following.firstChild.tabIndex = at === view.at ? 0 : -1;
  }
  loadThumbnails();
}

function card(at) {
  const {photo, score} = view.results[at], shown = album.photos[photo];
  return element('li', {'data-at': at, 'aria-posinset': at + 1, 'aria-setsize': view.results.length},
    element('button', {type: 'button', class: 'card', title: shown.name, tabindex: '-1',
      onclick: () => go(view.query, photo)},
    element('img', {alt: '', 'data-photo': photo}),
    score === undefined ? null : element('span', {class: 'score number'}, element('span', {class: 'unseen'}, 'score '),
      scoreText(score)),
    element('span', {class: `line text${shown.caption ? '' : ' soft'}`, dir: 'auto'}, captionOf(shown))));
}

function putCard(one, at) {
  one.style.setProperty('--x', at % grid.columns);
  one.style.setProperty('--y', Math.floor(at / grid.columns));
  return one;
}

// Load the missing thumbnails, those nearest to the middle of the window first.
function loadThumbnails() {
  loadThumbnails.running ??= 0;
  if (loadThumbnails.running === MOST_LOADING) return;
  const middle = (innerHeight / 2 - byId('grid').getBoundingClientRect().top) / grid.row * grid.columns;
  const distance = img => Math.abs(img.closest('li').dataset.at - middle);
  const missing = [...byId('grid').querySelectorAll('img:not([src])')].sort((a, b) => distance(b) - distance(a));
  while (missing.length && loadThumbnails.running < MOST_LOADING) {
    const img = missing.pop();
    const ended = () => {
      loadThumbnails.running--;
      loadThumbnails();
    };
    loadThumbnails.running++;
    img.onload = ended;
    img.onerror = () => {
      img.replaceWith(element('span', {class: 'problem'}, 'This photo cannot be shown.'));
      ended();
    };
    img.src = `thumbnail?photo=${img.dataset.photo}`;
  }
}

// The card of this place is the one that the Tab key enters.
function moveTo(at) {
  const change = (place, tabIndex) => { if (cards.has(place)) cards.get(place).firstChild.tabIndex = tabIndex; };
  change(view.at, -1);
  view.at = at;
  change(at, 0);
}

// Focus a card, which may be far from the window.
function focusCard(at) {
  if (!cards.has(at)) {
    const top = Math.floor(at / grid.columns) * grid.row + byId('grid').getBoundingClientRect().top;
    scrollBy(0, top - innerHeight / 2);
    makeCards();
  }
  cards.get(at).firstChild.focus({preventScroll: true});
  cards.get(at).scrollIntoView({block: 'nearest'});
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId('panel').open) return;
  const typing = event.target.matches('input');
  if (event.key === '/' && !typing) byId('query').focus();
  else if (event.target.closest('#grid')) {
    const page = Math.max(1, Math.floor(innerHeight / grid.row) - 1) * grid.columns, last = view.results.length - 1;
    const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns, PageUp: -page,
      PageDown: page, Home: -last, End: last}[event.key];
    if (step === undefined) return;
    const to = view.at + step, stays = Math.abs(step) === grid.columns && (to < 0 || to > last);
    if (!stays) focusCard(Math.min(last, Math.max(0, to)));
  } else if (event.key === 'ArrowDown' && typing && view.results.length) focusCard(view.at);
  else return;
  event.preventDefault();
}

// ---- the panel

function watchPanel() {
  const panel = byId('panel');
  const leave = () => history.state?.opened ? history.back() : go(view.query, null, true);
  panel.addEventListener('cancel', event => {    // Esc
    event.preventDefault();
    leave();
  });
  panel.addEventListener('click', event => { if (event.target === panel) leave(); });    // beside the panel
  byId('close').onclick = leave;
  byId('previous').onclick = () => step(-1);
  byId('next').onclick = () => step(1);
  panel.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || !['ArrowLeft', 'ArrowRight'].includes(event.key)) return;
    event.preventDefault();
    step(event.key === 'ArrowLeft' ? -1 : 1);
  });
}

const placeOfPhoto = photo => view.results.findIndex(result => result.photo === photo);

// Go to the photo before or after the one in the panel.
function step(by) {
  const to = view.results[placeOfPhoto(view.open) + by];
  if (to) go(view.query, to.photo, true);
}

function closePanel() {
  explain.abort?.abort();
  view.open = null;
  document.documentElement.classList.remove('still');
  byId('panel').close();
  byId('stage').replaceChildren();
}

// Show a photo in the panel. again: also if it is there, because the query is another.
function showPhoto(photo, again) {
  if (photo === view.open && !again) return;
  const panel = byId('panel'), shown = album.photos[photo];
  view.open = photo;
  document.documentElement.classList.add('still');
  byId('caption').textContent = captionOf(shown);
  byId('name').textContent = shown.name;
  byId('stage').replaceChildren(frameOf(photo, shown));
  byId('words').hidden = byId('sentences').hidden = true;
  showPlace();
  if (!panel.open) panel.showModal();
  if (!panel.contains(document.activeElement) || document.activeElement.closest('section')) byId('caption').focus();
  byId('about').scrollTop = 0;
  explain(photo);
}

function showPlace() {
  const at = placeOfPhoto(view.open), score = view.results[at]?.score;
  byId('place').textContent = at < 0 ? '' : `${whole.format(at + 1)} of ${whole.format(view.results.length)}` +
    (score === undefined ? '' : ` · score ${scoreText(score)}`);
  byId('previous').disabled = at <= 0;
  byId('next').disabled = at < 0 || at === view.results.length - 1;
}

// The photo with room for regions. It has its final size before it has loaded.
function frameOf(photo, {width, height, caption, name}) {
  const img = element('img', {src: `picture?photo=${photo}`, alt: caption || name, onerror() {
    img.replaceWith(element('p', {class: 'problem'}, 'This photo cannot be shown.'));
  }});
  const frame = element('div', {id: 'frame'}, img);
  frame.style.setProperty('--ratio', width / height);
  return frame;
}

// Fetch and show what the words of the query saw in a photo, and the sentences that fit it.
async function explain(photo) {
  explain.abort?.abort();
  explain.abort = new AbortController();
  const {signal} = explain.abort;
  let answer;
  try {
    answer = await ask(`photo?${new URLSearchParams({photo, q: view.query})}`, signal);
  } catch (error) {
    if (signal.aborted) return;
    byId('sentences').replaceChildren(element('p', {class: 'notice bad text', role: 'alert'}, error.message));
    byId('sentences').hidden = false;
    return;
  }
  if (signal.aborted) return;
  showWords(answer.words);
  byId('sentences').hidden = !answer.sentences.length;
  byId('sentences').replaceChildren(element('h3', {id: 'sentences-title'}, 'Sentences that fit this photo'),
    element('p', {class: 'soft small'}, 'Choose one to search for it.'),
    element('ol', {}, ...answer.sentences.map(({text, score}) => element('li', {},
      element('button', {type: 'button', class: 'sentence', onclick: () => searchFor(text)},
      element('span', {class: 'text', dir: 'auto'}, text), ' ',
      element('span', {class: 'soft number'}, scoreText(score)))))));
}

// The words of the query as buttons, and on the photo the region where each was seen.
function showWords(words) {
  let kept = null;    // the word that was clicked
  const best = Math.max(...words.map(({score}) => score));
  const regions = words.map(({word, score, box}, i) => regionOf(word, box, i, score / best));
  const show = i => {
    byId('frame').classList.toggle('focused', i !== null);
    regions.forEach((region, j) => region.classList.toggle('shown', i === j));
  };
  const buttons = words.map(({word, score, box}, i) => element('button', {
    type: 'button', class: `word color-${i % COLORS}`, 'aria-pressed': 'false',
    'aria-label': `${word}, score ${scoreText(score)}, seen in ${placeOf(box)}`,
    onpointerenter: event => event.pointerType !== 'touch' && show(i), onpointerleave: () => show(kept),
    onfocus: () => show(i), onblur: () => show(kept),
    onclick() {
      kept = kept === i ? null : i;
      show(kept);
      buttons.forEach((button, j) => button.setAttribute('aria-pressed', String(j === kept)));
    },
  }, element('b', {class: 'text', dir: 'auto'}, word), element('span', {class: 'soft number'}, scoreText(score))));
  byId('frame').append(...regions);
  byId('words').hidden = !words.length;
  byId('words').replaceChildren(element('h3', {id: 'words-title'}, 'Words of the search'),
    element('p', {class: 'soft small'}, 'Point at a word or tap it to see its region.'),
    element('div', {class: 'toolbar'}, ...buttons));
}

// An outline on the photo; share: of the best word's score, which the others are drawn fainter by.
function regionOf(word, [x0, y0, x1, y1], i, share) {
  const region = element('div', {class: `region color-${i % COLORS}`, 'aria-hidden': 'true'},
    element('span', {class: 'text'}, word));
  const percent = value => `${100 * value}%`;
  Object.assign(region.style, {left: percent(x0), top: percent(y0), width: percent(x1 - x0), height: percent(y1 - y0)});
  region.style.setProperty('--strength', Math.min(1, Math.max(FAINTEST, share || 0)));
  return region;
}

start().catch(error => {
  byId('number').textContent = 'The album cannot be shown.';
  notice('bad', error.message);
  throw error;
});
