// Where each word of a caption looked: controls for the words, and the light that they throw on the picture. Knows the
// regions and their weights, as packed_attention in imagernn/web/results_page.py packs them; the cards are results.js.
'use strict';

const CELLS = 64;             // of the light, in each direction
const SOFT = .17;             // scale of the logistic curve that blurs the edges of a box, as a share of its side
const DARK = .75;             // opacity of the dark where a word looked least
const FLAT = .5;              // less dark if that is still more than this share of what the brightest place got
const GLIDE = 220;            // ms that the light takes from one word to the next
const SPREAD = 1.5;           // a word looked all over the picture if no weight is above this many equal shares
const TILE = 240;             // pixels of the width of a picture in a strip
const LONGEST_LABEL = 40;     // characters
const EVERYWHERE = 'all over the picture';
const PLACES = [['the upper left', 'the top', 'the upper right'], ['the left', 'the middle', 'the right'],
  ['the lower left', 'the bottom', 'the lower right']];

const share = new Intl.NumberFormat('en', {style: 'percent', maximumSignificantDigits: 2});

// ---- regions and weights

// Boxes [x0, y0, x1, y1] with what lightOf needs of them: the mean over the cells is 1 in columns and in rows, so that
// a weight is spread over the area of its box, whatever that is.
function regionsOf(boxes) {
  const smooth = (from, to) => {
    const end = Math.max(to, from + 1 / CELLS), scale = SOFT * (end - from);
    const inside = x => 1 / (1 + Math.exp((from - x) / scale)) - 1 / (1 + Math.exp((end - x) / scale));
    // what the blur would put outside the picture is reflected at its border
    const values = Float32Array.from({length: CELLS}, (_, i) => [i + .5, -i - .5, 2 * CELLS - i - .5]
      .reduce((sum, at) => sum + inside(at / CELLS), 0));
    const mean = values.reduce((sum, value) => sum + value) / CELLS;
    return values.map(value => value / mean);
  };
  return boxes.map(box => ({box, columns: smooth(box[0], box[2]), rows: smooth(box[1], box[3])}));
}

// How many words of a caption say where they looked, END included.
const lookCount = (regions, caption) => Math.floor(atob(caption.attention).length / (regions.length + 2));

// Where word i of a caption looked: {weights, box: that of the largest weight, most: that weight, place: it in words}.
function lookOf(regions, caption, i) {
  const bytes = Uint8Array.from(atob(caption.attention), one => one.charCodeAt(0));
  const at = i * (regions.length + 2), most = (256 * bytes[at] + bytes[at + 1]) / 65535;
  const weights = Float32Array.from(bytes.subarray(at + 2, at + 2 + regions.length), level => level / 255 * most);
  const {box} = regions[weights.indexOf(Math.max(...weights))];
  const everywhere = regions.length > 1 && most < SPREAD / regions.length;
  return {weights, box, most, place: everywhere ? EVERYWHERE : placeOf(box)};
}

// A box in words. What counts is where it lies between the borders that it could reach, so that a large box in a corner
// is there as much as a small one.
function placeOf([x0, y0, x1, y1]) {
  const third = (from, to) => {
    const room = 1 - (to - from), at = room < .25 ? .5 : from / room;
    return at < .333 ? 0 : at > .667 ? 2 : 1;
  };
  return x1 - x0 > .75 && y1 - y0 > .75 ? 'the whole picture' : PLACES[third(y0, y1)][third(x0, x1)];
}

// A sentence for screen readers.
function lookText(name, {most, place}) {
  return place === EVERYWHERE ? `${name} looked ${place}, at most ${share.format(most)} in one place` :
    `${name} looked mostly at ${place}, ${share.format(most)}`;
}

// The weights over each cell, added up: CELLS rows of CELLS values from 0, dark, to 1, the brightest. Large regions
// put some weight everywhere, so the contrast is raised, but attention that is much the same everywhere stays bright.
function lightOf(regions, weights) {
  const light = new Float32Array(CELLS * CELLS);
  regions.forEach(({columns, rows}, r) => {
    if (weights[r]) rows.forEach((row, y) => {
      for (let x = 0; x < CELLS; x++) light[y * CELLS + x] += weights[r] * row * columns[x];
    });
  });
  const [lowest, highest] = [Math.min, Math.max].map(of => light.reduce((one, other) => of(one, other)));
  const fall = Math.max(highest - lowest, (1 - FLAT) * highest);
  return light.map(value => 1 - (highest - value) / fall);
}

// ---- drawing

// Darken a canvas where the light is low.
function drawDark(canvas, light, strength = 1) {
  const small = drawDark.canvas ??= element('canvas', {width: CELLS, height: CELLS});
  const pixels = new ImageData(CELLS, CELLS);
  light.forEach((value, i) => { pixels.data[4 * i + 3] = 255 * DARK * strength * (1 - value); });
  small.getContext('2d').putImageData(pixels, 0, 0);
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

// Give a canvas the size of a picture as its parent shows it. Returns the pixels of the canvas in one of the page.
function fit(canvas, {naturalWidth, naturalHeight}) {
  const unit = Math.min(devicePixelRatio, 3), {clientWidth, clientHeight} = canvas.parentElement;
  const scale = unit * Math.min(clientWidth / naturalWidth, clientHeight / naturalHeight);
  Object.assign(canvas, {width: Math.ceil(scale * naturalWidth), height: Math.ceil(scale * naturalHeight)});
  return unit;
}

// Outline a box. unit: pixels of the canvas in one of the page. Returns the width of the line, and its left and top.
function outline(canvas, [x0, y0, x1, y1], unit) {
  const context = canvas.getContext('2d'), {width, height} = canvas, {color} = getComputedStyle(canvas);
  const line = 1.5 * unit, left = x0 * width + line, top = y0 * height + line;
  context.beginPath();
  context.roundRect(left, top, (x1 - x0) * width - 2 * line, (y1 - y0) * height - 2 * line, 3 * unit);
  for (const [strokeStyle, lineWidth] of [['#000a', 2 * line], [color, line]]) {
    Object.assign(context, {strokeStyle, lineWidth});
    context.stroke();
  }
  return [line, left, top];
}

// Outline a box, with a label at its upper edge.
function drawBox(canvas, box, label, unit) {
  const context = canvas.getContext('2d'), {width} = canvas, {color, fontFamily} = getComputedStyle(canvas);
  const [line, left, top] = outline(canvas, box, unit);
  context.font = `600 ${13 * unit}px ${fontFamily}`;
  const [w, h] = [Math.min(context.measureText(label).width + 12 * unit, width - 2 * line), 20 * unit];
  const x = Math.min(left - line / 2, width - w - line / 2), y = top > h ? top - h + line / 2 : top - line / 2;
  context.fillStyle = color;
  context.beginPath();
  context.roundRect(x, y, w, h, 3 * unit);
  context.fill();
  Object.assign(context, {fillStyle: '#101316', textBaseline: 'middle'});
  context.fillText(label, x + 6 * unit, y + h / 2 + unit, w - 12 * unit);
}

// ---- the light on a card's picture: that of one word at a time

// The element of the word, the canvas over the picture, and what is drawn there; see shine.
const shining = {word: null, canvas: null, look: null, label: '', light: null, strength: 0, frame: 0};

// Show where a word looked, or clear the picture if word is null. word.looked() gives {look: as lookOf, light: from
// lightOf, word and figure: its label, said: a sentence for screen readers, file: '' or 'A' or 'B'}.
function shine(word) {
  if (word === shining.word) return;
  shining.word?.classList.remove('looking');
  shining.word = word;
  const said = byId('looked');
  if (!word) {
    said.textContent = '';
    return glide(shining.light, 0);
  }
  word.classList.add('looking');
  const {look, light, word: text, figure, said: sentence, file} = word.looked();
  const picture = word.closest('article').querySelector('.picture');
  said.textContent = sentence;
  if (shining.canvas?.parentElement !== picture) {
    shining.canvas?.remove();
    shining.canvas = element('canvas', {class: `light ${file}`, 'aria-hidden': 'true'});
    Object.assign(shining, {light, strength: 0});
    picture.append(shining.canvas);
  }
  shining.canvas.className = `light ${file}`;
  shining.look = look;
  shining.label = `\u2068${text.slice(0, LONGEST_LABEL)}\u2069 ${figure}`;
  glide(light, 1);
}

// Go over from what is drawn to another light and strength, at once if the system asks for reduced motion.
function glide(light, strength) {
  cancelAnimationFrame(shining.frame);
  const from = {light: shining.light, strength: shining.strength}, began = performance.now();
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  const step = now => {
    const part = still ? 1 : Math.min(1, Math.max(0, now - began) / GLIDE), eased = part * (2 - part);
    shining.light = eased < 1 ? from.light.map((value, i) => value + eased * (light[i] - value)) : light;
    shining.strength = from.strength + eased * (strength - from.strength);
    drawShining();
    if (part < 1) shining.frame = requestAnimationFrame(step);
    else if (!strength) {
      shining.canvas?.remove();
      shining.canvas = null;
    }
  };
  if (shining.canvas) step(began);
}

function drawShining() {
  const {canvas, light, strength, look, label} = shining, picture = canvas.parentElement;
  const img = picture?.querySelector('img');
  if (!img) return;    // the picture cannot be shown
  if (!img.naturalWidth) {
    img.addEventListener('load', () => shining.canvas === canvas && drawShining(), {once: true});
    return;
  }
  const unit = fit(canvas, img);
  drawDark(canvas, light, strength);
  canvas.getContext('2d').globalAlpha = strength;
  drawBox(canvas, look.box, label, unit);
}

// ---- the words as controls

// Turn the elements of a line's words into controls, which the Tab key enters once. looked(i) gives what shine needs.
function lookControls(line, words, looked, label) {
  line.classList.add('looks');
  line.setAttribute('role', 'toolbar');
  line.setAttribute('aria-label', label);
  words.forEach((word, i) => {
    word.classList.add('look');
    word.setAttribute('role', 'button');
    word.tabIndex = i ? -1 : 0;
    word.looked = () => looked(i);
  });
}

// React to what happens to words inside the element of all cards.
function watchLooks(cards) {
  const wordAt = event => event.target.closest('.look');
  const focused = () => document.activeElement?.closest('.look') ?? null;
  let hovered = null, again = null;    // the word under the pointer; that which a click would hide
  cards.after(element('p', {class: 'unseen', role: 'status', id: 'looked'}));
  cards.addEventListener('pointerover', event => {
    if (event.pointerType === 'touch') return;
    if (wordAt(event)) shine(hovered = wordAt(event));
    else if (hovered && event.target.closest('.looks') !== hovered.closest('.looks')) leave();    // not between words
  });
  cards.addEventListener('pointerleave', () => hovered && leave());
  const leave = () => {
    hovered = null;
    shine(focused());
  };
  cards.addEventListener('focusin', event => {
    const word = wordAt(event);
    if (!word) return;
    word.closest('.looks').querySelectorAll('.look').forEach(one => { one.tabIndex = one === word ? 0 : -1; });
    shine(word);
  });
  cards.addEventListener('focusout', event => { if (wordAt(event)) shine(hovered); });
  cards.addEventListener('pointerdown', event => { again = focused() === shining.word ? focused() : null; });
  cards.addEventListener('click', event => {
    const word = wordAt(event);
    if (!word) return;
    if (again === word) word.blur();
    else {
      word.focus({preventScroll: true});
      shine(word);
    }
    again = null;
  });
  document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'Escape') {
      hovered = null;
      return shine(null);
    }
    const word = event.target.closest?.('.look');
    if (!word) return;
    const words = [...word.closest('.looks').querySelectorAll('.look')], at = words.indexOf(word);
    const forward = getComputedStyle(word.closest('[dir]')).direction === 'rtl' ? -1 : 1;
    const next = {ArrowRight: at + forward, ArrowLeft: at - forward, Home: 0, End: words.length - 1}[event.key];
    if (next !== undefined) {
      const to = words[Math.min(Math.max(next, 0), words.length - 1)];
      to.focus();
      shine(to);    // also if it had the focus, and its light was cleared
    } else if (event.key === 'Enter' || event.key === ' ') shine(shining.word === word ? null : word);
    else return;
    event.preventDefault();
  });
  addEventListener('resize', () => shining.canvas && drawShining());
}

// ---- all words of a caption side by side

// looks: as of shine. img: the element of the picture, which may still have to load, or null.
function lookStrip(looks, img) {
  const canvases = looks.map(() => element('canvas', {'aria-hidden': 'true', width: TILE, height: 0}));
  const draw = () => canvases.forEach((canvas, i) => {
    canvas.height = Math.min(2, img.naturalHeight / img.naturalWidth) * TILE;    // no picture makes a huge one
    canvas.getContext('2d').drawImage(img, 0, 0, canvas.width, canvas.height);
    drawDark(canvas, looks[i].light);
  });
  if (img?.naturalWidth) draw();
  else img?.addEventListener('load', draw, {once: true});
  return element('ol', {class: 'strip'}, ...looks.map(({word, look}, i) => element('li', {}, img ? canvases[i] : null,
    element('b', {class: 'text', dir: 'auto'}, word), ' ',
    element('span', {class: 'soft number'}, `${look.place.replace(/^the /, '')} ${share.format(look.most)}`))));
}
