// What the pages of pictures share: a long list of articles of which only those near the window exist, the search in
// it by a regular expression, and the keys. Knows nothing of what the articles show.
'use strict';

const NEAR = '1200px 0px';           // distance from the window within which articles exist
const SEARCH_WAITS = 200;            // ms after the last key
const SEARCH_ENDS = 2000;            // ms that a search may take once its worker runs

const percent = new Intl.NumberFormat('en', {style: 'percent', maximumSignificantDigits: 2});

// ---- the page

// The data: inside the page if it was exported, else from the server.
async function loadData() {
  const data = byId('data') ? JSON.parse(byId('data').textContent) : await (await fetch('results.json')).json();
  byId('data')?.remove();                                      // may be megabytes, and is not needed any more
  return data;
}

const notice = text => byId('notices').append(element('p', {class: 'notice text'}, text));

// Show the page by calling start, or else what is wrong with it.
function startPage(start) {
  start().catch(error => {
    notice(`The page cannot be shown: ${error.message}. Reload it; if it was served, start imagernn.view again.`);
    throw error;
  });
}

// Fill the element 'settings' with a table of what each file was made with. files: of {settings: [[part, name, value],
// ...]}; names: of the columns if there are several.
function showSettings(files, names) {
  const rows = new Map();
  files.forEach((file, i) => file.settings.forEach(([part, name, value]) => {
    const key = `${part} ${name}`;
    rows.set(key, rows.get(key) ?? {part, name, values: files.map(() => '')});
    rows.get(key).values[i] = value;
  }));
  if (!rows.size) return;
  const table = element('table', {}, files.length > 1 ? element('tr', {}, element('th', {}), element('th', {}),
    ...files.map((_, i) => element('th', {scope: 'col'}, names[i]))) : null);
  for (const {part, name, values} of rows.values()) {
    table.append(element('tr', {class: new Set(values).size > 1 ? 'differs' : ''}, element('td', {class: 'soft'}, part),
      element('th', {scope: 'row'}, name), ...values.map(value => element('td', {class: 'text'}, value))));
  }
  byId('settings').append(element('div', {class: 'card wide'}, table));
  byId('settings').hidden = false;
}

// A choice between options, each [value, text].
function select(label, options, onchange) {
  const made = element('select', {'aria-label': label, onchange});
  made.append(...options.map(([value, text]) => element('option', {value}, text)));
  return made;
}

// A button that is pressed or not. onclick is called with which of the two.
function press(text, onclick, pressed) {
  const button = element('button', {type: 'button', 'aria-pressed': String(pressed), onclick() {
    button.setAttribute('aria-pressed', String(button.getAttribute('aria-pressed') !== 'true'));
    onclick(button.getAttribute('aria-pressed') === 'true');
  }}, text);
  return button;
}

// A picture, or what is wrong with it. url: where it is, if that is not image.picture; more: attributes of the <img>.
function pictureOf(image, alt, url = image.picture, more = {}) {
  const problem = text => element('span', {class: 'problem text'}, text);
  if (image.problem) return problem(image.problem);
  const img = element('img', {src: url, alt, decoding: 'async', ...more, async onerror() {
    let reason = `${image.name}: cannot be shown`;
    try { reason = await (await fetch(url)).text(); } catch { /* the server was stopped */ }
    img.replaceWith(problem(reason));
  }});
  return img;
}

// The text in pieces, with what a search found in <mark>.
function marked(text, ranges) {
  const made = [];
  let at = 0;
  for (const [start, end] of ranges ?? []) {
    made.push(text.slice(at, start), element('mark', {}, text.slice(start, end)));
    at = end;
  }
  return [...made, text.slice(at)];
}

// ---- search

// A search field. texts() gives for each item a list of {of, text}, where of says which text it is. found is called
// with null if the field is empty, or with a Map: index of an item -> Map: which text -> [[start, end], ...].
// field.search(wait) searches in a worker, after wait ms unless it is called again before.
function searchField(label, texts, found) {
  const busy = on => byId('cards')[on ? 'setAttribute' : 'removeAttribute']('aria-busy', 'true');
  const field = element('input', {type: 'search', placeholder: 'Search: a word or a regular expression',
    'aria-label': `${label}, a word or a regular expression`, 'aria-describedby': 'count', spellcheck: 'false',
    oninput: () => field.search(SEARCH_WAITS)});
  const finish = hits => {
    busy(false);
    found(hits);
  };
  let end = () => {};
  field.search = wait => {
    end();
    busy(true);
    const timer = setTimeout(() => {
      const source = field.value, all = source ? texts() : [];
      field.removeAttribute('aria-invalid');
      if (!source) return finish(null);
      const worker = new Worker(searchAddress());
      const say = text => {
        end();
        busy(false);
        field.setAttribute('aria-invalid', 'true');
        byId('count').textContent = text;
      };
      let limit;
      end = () => { clearTimeout(limit); worker.terminate(); };
      worker.onerror = () => say('The search does not run in this browser.');
      worker.onmessage = ({data: {runs, error, hits}}) => {
        if (runs) {    // the time counts from here, since the script may load late, after many pictures
          limit = setTimeout(() => say('This expression takes too long; simplify it.'), SEARCH_ENDS);
          return;
        }
        if (error) return say(`Not a regular expression: ${error.split(': ').pop()}`);
        end();
        finish(rangesOf(hits, all));
      };
      worker.postMessage({source, texts: all.map(list => list.map(({text}) => text))});
    }, wait);
    end = () => clearTimeout(timer);
  };
  return field;
}

// What search.js found, as searchField gives it on.
function rangesOf(hits, texts) {
  const byItem = new Map();
  for (let i = 0; i < hits.length; i += 4) {
    const {of} = texts[hits[i]][hits[i + 1]];
    if (!byItem.has(hits[i])) byItem.set(hits[i], new Map());
    const ranges = byItem.get(hits[i]);
    ranges.set(of, [...ranges.get(of) ?? [], [hits[i + 2], hits[i + 3]]]);
  }
  return byItem;
}

// The URL of the worker's script: a file, or made from the text inside an exported page.
function searchAddress() {
  const inside = byId('search.js');
  return inside ? searchAddress.made ??= URL.createObjectURL(new Blob([inside.textContent])) : 'search.js';
}

// ---- articles: there is an empty chunk for each few of them; chunks near the window are filled, one per frame

// The list in the element 'cards'. size: articles created and removed together; make(place, position): the article of
// an item, the position-th one from 1.
function makeFeed(size, make) {
  const cards = byId('cards'), wanted = new Set();
  let places = [];
  const fill = chunk => {
    if (chunk.childElementCount) return;
    chunk.style.height = '';
    chunk.append(...chunk.places.map((place, i) => make(place, chunk.first + i)));
  };
  // Remove the articles of a chunk, unless one of them has the focus. The chunk keeps its height.
  const empty = chunk => {
    if (!chunk.childElementCount || chunk.contains(document.activeElement)) return;
    chunk.style.height = `${chunk.offsetHeight}px`;
    chunk.replaceChildren();
  };
  const fillNearest = () => {
    const distance = chunk => Math.abs(chunk.getBoundingClientRect().top);
    const nearest = [...wanted].reduce((one, other) => one && distance(one) <= distance(other) ? one : other, null);
    if (!nearest) return;
    wanted.delete(nearest);
    fill(nearest);
    requestAnimationFrame(fillNearest);
  };
  const nearing = new IntersectionObserver(entries => {
    for (const {isIntersecting, target} of entries) {
      if (isIntersecting) wanted.add(target);
      else {
        wanted.delete(target);
        empty(target);
      }
    }
    requestAnimationFrame(fillNearest);
  }, {rootMargin: NEAR});
  return {
    get places() { return places; },
    // Show these items, in this order. fromTop: scroll back to the first one.
    show(these, fromTop) {
      places = these;
      nearing.disconnect();
      wanted.clear();
      const chunks = [];
      for (let i = 0; i < places.length; i += size) {
        const chunk = element('div', {class: 'chunk'});
        chunk.places = places.slice(i, i + size);
        chunk.first = i + 1;
        chunks.push(chunk);
      }
      cards.replaceChildren(...chunks);
      if (chunks.length) fill(chunks[0]);
      if (chunks.length > 1) cards.style.setProperty('--chunk', `${chunks[0].offsetHeight}px`);
      chunks.forEach(chunk => nearing.observe(chunk));
      const top = byId('legend').offsetTop - byId('tools').offsetHeight;    // where the sticky tools begin
      if (fromTop && scrollY > top) scrollTo(0, top);
    },
    // The article at an index of places, created if necessary; undefined beyond the ends.
    article(index) {
      const chunk = cards.children[Math.floor(index / size)];
      if (!chunk || index < 0) return undefined;
      fill(chunk);
      return chunk.children[index % size];
    },
    // The index of an article in places, or -1 for none.
    index: article => article ? Number(article.ariaPosInSet) - 1 : -1,
  };
}

// Keys of the page: / to the search field, j and k to the next and the previous article.
function watchKeys(field, feed) {
  document.addEventListener('keydown', event => {
    if (event.target.matches('input, select, textarea') || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest('dialog')) return;
    if (event.key === '/') {
      event.preventDefault();
      field.focus();
    } else if (event.key === 'j' || event.key === 'k') {
      const article = document.activeElement.closest('article'), at = feed.index(article);
      (article ? feed.article(at + (event.key === 'j' ? 1 : -1)) : document.querySelector('#cards article'))?.focus();
    }
  });
}
