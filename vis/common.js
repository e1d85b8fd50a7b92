// What the pages share: elements made of text, never of markup, and the switch between light and dark.
'use strict';

// element('p', {class: 'soft', onclick: f}, 'text', child, ...): a property where there is one of that name, else an
// attribute. Children that are not elements become text; null ones are left out.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === 'function' || typeof value === 'boolean') made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

// A button that goes from the system's scheme to light to dark; remembered where the browser allows it. The event
// 'schemechange' on document tells those that draw with colours of their own.
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
    try { localStorage.setItem('scheme', next); } catch { /* not remembered then */ }
    show(next);
  }});
  let saved = '';
  try { saved = localStorage.getItem('scheme') ?? ''; } catch { /* a page from a file may not remember */ }
  show(saved in schemes ? saved : '');
  matchMedia('(prefers-color-scheme: dark)').addEventListener(
    'change', () => show(document.documentElement.dataset.scheme ?? ''));
  return button;
}
