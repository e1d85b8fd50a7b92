"""Chromium for whoever looks at the pages: their tests, their benchmark, their screenshots. Playwright drives it."""

import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from imagernn.errors import InputError

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FLAGS = ('--no-sandbox', '--disable-gpu')    # for machines without a user of its own or a screen
OURS = ('127.0.0.1', 'localhost')
# [[contrast, the start of the text, classes], ...] of every text, over the nearest background that is not transparent
CONTRASTS = '''() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                          return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const linear = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = colour => rgb(colour).slice(0, 3).reduce((sum, c, i) => sum + linear(c) * [.2126, .7152, .0722][i], 0);
  const ground = node => getComputedStyle(node).backgroundColor;
  const under = node => { while (node.parentElement && rgb(ground(node))[3] < 255) node = node.parentElement;
                          return ground(node); };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; text = walker.nextNode();) {
    const node = text.parentElement;
    if (!text.textContent.trim() || !node.checkVisibility() || ['SCRIPT', 'OPTION'].includes(node.tagName)) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(under(node))].sort((x, y) => y - x);
    found.push([(a + .05) / (b + .05), text.textContent.slice(0, 40), node.className]);
  }
  return found; }'''


@contextmanager
def chromium(*flags):
    """A Playwright Browser. InputError where Playwright or Chromium is not installed."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise InputError("Playwright is not installed; give it by: pip install -e '.[browser]'") from None
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise InputError(f'none of {", ".join(NAMES)} is installed; on Debian: apt install chromium')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def chromium_or_skip():
    """The same for a module's fixture: its tests are skipped, with the reason, where there is no browser."""
    try:
        with chromium() as browser:
            yield browser
    except InputError as reason:
        pytest.skip(str(reason))


@contextmanager
def watched_page(browser, **options):
    """A Page in a context of its own, options as of Browser.new_context.

    AssertionError at the end if it wrote an error to the console, threw one, or asked anything of another machine.
    """
    context, complaints = browser.new_context(**options), []
    page = context.new_page()
    page.set_default_timeout(10_000)                                            # ms
    page.on('console', lambda said: said.type == 'error' and complaints.append(f'console: {said.text}'))
    page.on('pageerror', lambda error: complaints.append(f'uncaught: {error}'))
    page.on('request', lambda request: _is_outside(request.url) and complaints.append(f'request: {request.url}'))
    try:
        yield page
        assert not complaints
    finally:
        context.close()


def _is_outside(url):
    address = urlsplit(url)
    return address.scheme not in ('file', 'data', 'blob', 'about') and address.hostname not in OURS
