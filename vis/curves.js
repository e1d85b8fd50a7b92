// A chart of many curves. uPlot draws the axes, the scales and the rectangle of the zoom; the curves are drawn here,
// because each has x values of its own. A few curves are coloured and named, the others are grey, and the one under the
// pointer is highlighted. Knows nothing of training.
'use strict';

const NEAR = 40;             // pixels from the pointer within which a curve is highlighted
const LABEL_HEIGHT = 15;
const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif';

// The index of the last of the rising xs that is at most x; -1 if all are greater.
function indexBefore(xs, x) {
  let low = 0, high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

// [minimum, maximum] of all numbers in lists, or fallback if there are none.
function extent(lists, fallback) {
  let low = Infinity, high = -Infinity;
  for (const list of lists) {
    for (const value of list) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : fallback;
}

const MARKS = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7],
               [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]];    // times powers of ten

// Round tick values for a logarithmic axis, at least 1 / most of its length apart, from the coarsest series of MARKS
// that gives enough of them; if none does, the axis is divided evenly.
function logMarks(low, high, most) {
  const apart = Math.log(high / low) / most;
  for (const steps of MARKS) {
    const marks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const step of steps) marks.push(Number((step * 10 ** power).toPrecision(3)));
    const inside = [];
    for (const mark of marks)
      if (mark >= low && mark <= high && !(Math.log(mark / inside.at(-1)) < apart)) inside.push(mark);
    if (inside.length >= Math.min(4, most / 2)) return inside;
  }
  return [0, 1, 2, 3].map(part => low + (high - low) * part / 3);
}

class CurveChart {
  // options: format(y) -> text; describe(curve, index) -> lines of text for a point. Optional: onHover(key or null),
  // onPick(key), onZoom(range of x or null).
  constructor(figure, options) {
    this.options = options;
    this.curves = [];                  // {key, name, label, color, strong, xs, ys}; see update
    this.settings = {log: false, xTitle: '', xFormat: String};
    this.zoom = {x: null, y: null};    // [low, high], or null for the whole range
    this.hovered = null;               // {curve, index} that is highlighted; this.tells: whether its tip is shown, too
    this.measure();
    this.plot = element('div', {class: 'plot', tabindex: '0', role: 'group', 'aria-roledescription': 'chart',
                                'aria-describedby': 'chart-keys'});
    this.tip = element('div', {class: 'tip', hidden: true});
    this.spoken = element('div', {class: 'unseen', 'aria-live': 'polite'});
    figure.append(this.plot, this.spoken);
    this.plot.append(this.tip);
    this.plot.addEventListener('keydown', event => this.onKey(event));
    this.plot.addEventListener('blur', () => this.hover(null));
    new ResizeObserver(() => this.resize()).observe(this.plot);
    document.addEventListener('schemechange', () => this.build());
    this.build();
  }

  // curves: key; name in full; label, the text at the end of the line, or null; color, a CSS colour; strong, whether it
  // is drawn thick; xs and ys, typed arrays of the same length, xs ascending; and whatever describe needs.
  update(curves, settings) {
    const rebuilt = settings.log !== this.settings.log || settings.xTitle !== this.settings.xTitle;
    if (settings.xTitle !== this.settings.xTitle) this.zoom = {x: null, y: null};
    if (settings.log !== this.settings.log) this.zoom.y = null;
    this.curves = curves;
    this.settings = settings;
    if (this.hovered) {
      const curve = curves.find(other => other.key === this.hovered.curve.key && other.xs.length);
      this.hovered = curve ? {curve, index: Math.min(this.hovered.index, curve.xs.length - 1)} : null;
    }
    this.measure();
    if (rebuilt) this.build();
    else this.redraw();
  }

  measure() {
    this.xAll = extent([[0], ...this.curves.map(curve => curve.xs)], [0, 1]);    // always includes 0
    this.yAll = extent(this.curves.map(curve => curve.ys), [1, 10]);
  }

  xRange() {
    const [low, high] = this.zoom.x ?? this.xAll;
    return high > low ? [low, high] : [low - .5, high + .5];
  }

  yRange() {
    const [low, high] = this.zoom.y ?? this.yAll;
    if (this.zoom.y) return [low, high];
    if (this.settings.log) return [low / 1.04, high * 1.04];
    const edge = (high - low || Math.abs(high) || 1) * .05;
    return [Math.max(low - edge, low >= 0 ? 0 : -Infinity), high + edge];
  }

  build() {
    this.resolvedColors = new Map();
    const style = getComputedStyle(this.plot), color = name => this.resolved(`var(--${name})`);
    const [ink, soft, line, card] = ['ink', 'soft', 'line', 'card'].map(color);
    this.colors = {ink, soft, card};
    this.uplot?.destroy();
    this.over = null;
    const log = this.settings.log;
    const axis = {stroke: soft, font: FONT, labelFont: FONT, labelSize: 20, labelGap: 0, ticks: {show: false},
                  grid: {stroke: line, width: 1}};
    const width = this.plot.clientWidth || 300, height = parseFloat(style.getPropertyValue('--plot-height'));
    this.labelWidth = width > 400 ? Math.min(130, width / 4.5) : 0;
    this.uplot = new uPlot({
      width, height,
      padding: [12, this.labelWidth || 10, 0, 0],
      legend: {show: false},
      cursor: {points: {show: false}, drag: {x: true, y: true, uni: 12, dist: 5, setScale: false},
               bind: {dblclick: () => () => { this.setZoom(null, null); return null; }}},
      scales: {x: {time: false, range: () => this.xRange()}, y: {distr: log ? 3 : 1, range: () => this.yRange()}},
      axes: [
        {...axis, label: this.settings.xTitle, size: 28, space: 60,
         values: (_, marks) => marks.map(this.settings.xFormat)},
        {...axis, size: 56, space: 30, filter: (_, marks) => marks,
         ...(log ? {splits: (_, index, low, high) => logMarks(low, high, (height - 50) / 24)} : {}),
         values: (_, marks) => marks.map(mark => mark === null ? '' : this.options.format(mark))},
      ],
      series: [{}, {paths: () => null, points: {show: false}}],
      hooks: {
        draw: [uplot => this.draw(uplot)],
        setSelect: [uplot => this.onSelect(uplot)],
        setCursor: [uplot => this.onCursor(uplot)],
      },
    }, [[0, 1], [1, 1]], this.plot);
    this.over = element('canvas', {class: 'over', 'aria-hidden': 'true'});
    this.uplot.over.append(this.over);
    this.uplot.over.addEventListener('click', () => {      // uPlot suppresses the click that ends a drag
      if (this.hovered) this.options.onPick?.(this.hovered.curve.key);
    });
    this.uplot.over.addEventListener('mouseleave', () => this.hover(null));
    this.plot.append(this.tip);
  }

  // A CSS colour with var() and light-dark() resolved, as a canvas requires.
  resolved(color) {
    if (!this.resolvedColors.has(color)) {
      this.tip.style.color = color;
      this.resolvedColors.set(color, getComputedStyle(this.tip).color);
      this.tip.style.color = '';
    }
    return this.resolvedColors.get(color);
  }

  resize() {
    if (this.plot.clientWidth && this.plot.clientWidth !== this.uplot.width) this.build();
  }

  redraw() {
    this.uplot.redraw(false, true);
    this.uplot.setData([[0, 1], [1, 1]], true);    // makes the scales ask for their ranges; both calls draw once
  }

  // Functions that map x and y to pixels of a canvas, within the rectangle left, top, width, height.
  pixels({left, top, width, height}) {
    const {x, y} = this.uplot.scales, transform = this.settings.log ? Math.log : value => value;
    const [bottom, ceiling] = [transform(y.min), transform(y.max)];
    const xScale = width / (x.max - x.min), yScale = height / (ceiling - bottom);
    return [value => left + (value - x.min) * xScale, value => top + height - (transform(value) - bottom) * yScale];
  }

  trace(context, curve, toX, toY) {
    const {min, max} = this.uplot.scales.x, {xs, ys} = curve;
    const first = Math.max(0, indexBefore(xs, min)), last = Math.min(xs.length - 1, indexBefore(xs, max) + 1);
    let atX = -Infinity, atY = 0;
    context.beginPath();
    for (let i = first; i <= last; i++) {
      const x = toX(xs[i]), y = toY(ys[i]);
      if (x - atX < 1 && Math.abs(y - atY) < 1 && i < last) continue;    // within the same pixel
      context.lineTo(x, y);
      atX = x;
      atY = y;
    }
    context.stroke();
  }

  draw(uplot) {
    const {ctx: context, bbox} = uplot, ratio = bbox.width / uplot.over.clientWidth;
    const [toX, toY] = this.pixels(bbox);
    context.save();
    context.beginPath();
    context.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    context.clip();
    context.lineJoin = 'bevel';                            // the fastest by far
    for (const curve of [...this.curves].reverse()) {      // the first curves on top of the others
      context.strokeStyle = this.resolved(curve.color);
      context.lineWidth = (curve.strong ? 2 : 1) * ratio;
      this.trace(context, curve, toX, toY);
    }
    context.restore();
    this.drawEnds(context, bbox, toX, toY, ratio);
    this.drawOver();
  }

  // A dot at the end of strong curves and of single points; the labels right of the plot, moved apart if they overlap.
  drawEnds(context, bbox, toX, toY, ratio) {
    const {min, max} = this.uplot.scales.x, {min: low, max: high} = this.uplot.scales.y, labels = [];
    context.save();
    context.font = FONT.replace('12px', `${12 * ratio}px`);
    context.textBaseline = 'middle';
    context.textAlign = 'left';
    for (const curve of this.curves) {
      const at = Math.min(curve.xs.length - 1, indexBefore(curve.xs, max));
      if (at < 0) continue;
      const x = curve.xs[at], y = curve.ys[at];
      if (x >= min && y >= low && y <= high && (curve.label || curve.xs.length === 1 || curve.strong)) {
        context.fillStyle = this.resolved(curve.color);
        context.beginPath();
        context.arc(toX(x), toY(y), 3 * ratio, 0, 7);
        context.fill();
      }
      if (curve.label && this.labelWidth)
        labels.push({text: curve.label, color: this.resolved(curve.color),
                     y: Math.min(Math.max(toY(y), bbox.top), bbox.top + bbox.height)});
    }
    labels.sort((a, b) => a.y - b.y);
    for (let i = 1; i < labels.length; i++) labels[i].y = Math.max(labels[i].y, labels[i - 1].y + LABEL_HEIGHT * ratio);
    let floor = bbox.top + bbox.height;
    for (const label of labels.reverse()) {
      label.y = Math.min(label.y, floor);
      floor = label.y - LABEL_HEIGHT * ratio;
      context.fillStyle = label.color;
      context.fillText(shortened(context, label.text, (this.labelWidth - 12) * ratio),
                       bbox.left + bbox.width + 8 * ratio, label.y);
    }
    context.restore();
  }

  // Draw the highlighted curve on a canvas of its own above the others, which then need not be drawn again.
  drawOver() {
    if (!this.over) return;                        // uPlot draws once before the canvas exists
    const ratio = devicePixelRatio, {over} = this.uplot;
    this.over.width = over.clientWidth * ratio;
    this.over.height = over.clientHeight * ratio;
    this.tip.hidden = !this.hovered || !this.tells;
    if (!this.hovered) return;
    const {curve, index} = this.hovered, context = this.over.getContext('2d');
    const [toX, toY] = this.pixels({left: 0, top: 0, width: this.over.width, height: this.over.height});
    context.lineJoin = 'round';
    for (const [color, width] of [[this.colors.card, 7], [this.colors.ink, 3]]) {
      context.strokeStyle = color;
      context.lineWidth = width * ratio;
      this.trace(context, curve, toX, toY);
    }
    const x = toX(curve.xs[index]), y = toY(curve.ys[index]);
    context.fillStyle = this.colors.ink;
    context.beginPath();
    context.arc(x, y, 5 * ratio, 0, 7);
    context.fill();
    if (this.tells) this.placeTip(x / ratio, y / ratio);
  }

  placeTip(x, y) {
    const {curve, index} = this.hovered, {over} = this.uplot, [name, ...lines] = this.options.describe(curve, index);
    this.tip.replaceChildren(element('b', {class: 'text'}, name), ...lines.map(line => element('div', {}, line)));
    const most = this.plot.clientWidth - this.tip.offsetWidth, toTheRight = x < over.clientWidth / 2;
    let left = over.offsetLeft + x + (toTheRight ? 14 : -14 - this.tip.offsetWidth);
    let top = Math.min(over.offsetTop + y + 10, over.offsetTop + over.clientHeight - this.tip.offsetHeight);
    if (left < 0 || left > most)         // no room beside the point: use the half of the plot without it
      [left, top] = [most, y > over.clientHeight / 2 ? 0 : over.offsetTop + over.clientHeight - this.tip.offsetHeight];
    this.tip.style.left = `${Math.max(0, left)}px`;
    this.tip.style.top = `${Math.max(0, top)}px`;
  }

  // Highlight a point of a curve, {curve, index}, and show its tip; null for none.
  hover(point) {
    const before = this.hovered?.curve.key ?? null, after = point?.curve.key ?? null;
    this.hovered = point;
    this.tells = true;
    this.drawOver();
    if (before !== after) this.options.onHover?.(after);
  }

  // Highlight the curve with this key without a tip; for callers outside.
  highlight(key) {
    const curve = this.curves.find(other => other.key === key && other.xs.length);
    this.hovered = curve ? {curve, index: curve.xs.length - 1} : null;
    this.tells = false;
    this.drawOver();
  }

  onCursor(uplot) {
    const {left, top} = uplot.cursor;
    if (left === null || left < 0) return;
    this.hover(this.nearest(left, top));
  }

  // The point of the curve that passes nearest to a position in the plot, in CSS pixels; null if none is within NEAR.
  nearest(left, top) {
    const {over, scales} = this.uplot, size = {left: 0, top: 0, width: over.clientWidth, height: over.clientHeight};
    const [toX, toY] = this.pixels(size), x = scales.x.min + left / size.width * (scales.x.max - scales.x.min);
    let best = null, least = NEAR;
    for (const curve of this.curves) {
      const {xs, ys} = curve, before = indexBefore(xs, x), after = Math.min(before + 1, xs.length - 1);
      if (!xs.length) continue;
      const at = Math.max(before, 0), part = after > at ? (x - xs[at]) / (xs[after] - xs[at]) : 0;
      const y = toY(ys[at]) + part * (toY(ys[after]) - toY(ys[at]));
      const aside = before < 0 || after === at ? Math.abs(toX(xs[at]) - left) : 0;
      const distance = Math.hypot(y - top, aside);
      if (distance < least) {
        least = distance;
        best = {curve, index: part > .5 ? after : at};
      }
    }
    return best;
  }

  onSelect(uplot) {
    const {left, top, width, height} = uplot.select;
    if (!width && !height) return;
    const whole = [uplot.over.clientWidth, uplot.over.clientHeight];
    const range = (scale, from, to) => [uplot.posToVal(from, scale), uplot.posToVal(to, scale)];
    const x = width > 3 && width < whole[0] - 1 ? range('x', left, left + width) : this.zoom.x;
    const y = height > 3 && height < whole[1] - 1 ? range('y', top + height, top) : this.zoom.y;
    uplot.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
    this.setZoom(x, y);
  }

  setZoom(x, y, said = true) {
    this.zoom = {x, y};
    this.redraw();
    if (said) this.options.onZoom?.(x);
  }

  // Keys: up and down change the curve, left and right move along it, + and - zoom, 0 and Escape show all.
  onKey(event) {
    const step = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity}[event.key];
    const drawn = this.curves.filter(curve => curve.xs.length), now = drawn.indexOf(this.hovered?.curve);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      if (!drawn.length) return;
      const next = now < 0 ? 0 : (now + (event.key === 'ArrowDown' ? 1 : -1) + drawn.length) % drawn.length;
      const curve = drawn[next], x = this.hovered ? this.hovered.curve.xs[this.hovered.index] : Infinity;
      this.hover({curve, index: Math.max(0, indexBefore(curve.xs, x))});
    } else if (step && this.hovered) {
      const {curve, index} = this.hovered;
      this.hover({curve, index: Math.min(Math.max(index + step, 0), curve.xs.length - 1)});
    } else if (event.key === '+' || event.key === '-') {
      this.zoomBy(event.key === '+' ? .5 : 2);
    } else if (event.key === '0' || event.key === 'Escape') {
      this.setZoom(null, null);
    } else if (event.key === 'Enter' && this.hovered) {
      this.options.onPick?.(this.hovered.curve.key);
    } else {
      return;
    }
    event.preventDefault();
    if (!this.hovered) return;
    this.spoken.textContent = this.options.describe(this.hovered.curve, this.hovered.index).join(', ');
  }

  // Show a range of x that is factor times as wide, around the highlighted point or else the middle.
  zoomBy(factor) {
    const [low, high] = this.xRange(), [least, most] = this.xAll;
    const centre = this.hovered ? this.hovered.curve.xs[this.hovered.index] : (low + high) / 2;
    const width = (high - low) * factor;
    if (width >= most - least) return this.setZoom(null, null);
    const from = Math.min(Math.max(centre - width / 2, least), most - width);
    this.setZoom([from, from + width], this.zoom.y);
  }
}

// Text shortened to at most this width, with an ellipsis.
function shortened(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  const letters = [...text];
  while (letters.length && context.measureText(letters.join('') + '…').width > width) letters.pop();
  return letters.join('') + '…';
}
