// What all pages use: elements built from text, never from markup, numbers as text, and the switch between light and
// dark colours.
'use strict';

const byId = id => document.getElementById(id);
const whole = new Intl.NumberFormat('en');
const numberOf = (n, thing) => `${whole.format(n)} ${thing}${n === 1 ? '' : 's'}`;

// element('p', {class: 'soft', onclick: f}, 'text', child, ...): functions and booleans are set as properties, other
// values as attributes. Children that are not elements become text; null and undefined ones are omitted.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === 'function' || typeof value === 'boolean') made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

// A button that switches the colour scheme from the system's to light to dark; the choice is remembered if the browser
// allows it. The event 'schemechange' on document notifies code that draws with colours of its own.
function schemeButton() {
  const schemes = {'': 'Colours: system', light: 'Colours: light', dark: 'Colours: dark'};
  const show = scheme => {
    if (scheme) document.documentElement.dataset.scheme = scheme;
    else delete document.documentElement.dataset.scheme;
    button.textContent = schemes[scheme];
    document.dispatchEvent(new Event('schemechange'));
  };
  const button = element('button', {type: 'button', onclick() {
    const names = Object.keys(schemes), now = document.documentElement.dataset.scheme ?? '';
    const next = names[(names.indexOf(now) + 1) % names.length];
    try { localStorage.setItem('scheme', next); } catch { /* then it is not remembered */ }
    show(next);
  }});
  let saved = '';
  try { saved = localStorage.getItem('scheme') ?? ''; } catch { /* a page from a file may have no storage */ }
  show(saved in schemes ? saved : '');
  matchMedia('(prefers-color-scheme: dark)').addEventListener(
    'change', () => show(document.documentElement.dataset.scheme ?? ''));
  return button;
}
