"""Chromium for whoever looks at the pages: their tests, their benchmark, their screenshots. Playwright drives it."""

import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from imagernn.errors import InputError

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FLAGS = ('--no-sandbox', '--disable-gpu')    # for machines without a user of its own or a screen
OURS = ('127.0.0.1', 'localhost')


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
