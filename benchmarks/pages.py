"""Time the two web pages with far more data than usual, in headless Chromium without a graphics card.

    python benchmarks/pages.py results [--images 5000] [--export]
    python benchmarks/pages.py monitor [--runs 60] [--reports 2000]

Prints times, frame rates and memory. Needs the extra [browser] and Chromium. All data on the pages is synthetic.
"""

import argparse
import contextlib
import datetime
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

import numpy as np
from PIL import Image

from imagernn.errors import script
from imagernn.monitor import monitor_routes
from imagernn.web.server import serving

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / 'tests'))
from browser import chromium  # noqa: E402  where the tests find it too

WIDE = {'width': 1400, 'height': 900}    # the window, in pixels
WORDS = ('a the dog man woman boy girl ball field red blue black white is are running sitting jumping through in on of '
         'with water grass snow street bike beach mountain two people').split()
FIRST_CARDS = '''new MutationObserver((_, observer) => {
  if (!document.querySelector('article')) return;
  observer.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => document.documentElement.dataset.shown = performance.now()));
}).observe(document, {childList: true, subtree: true})'''
FIRST_PAINT = 'performance.getEntriesByName("first-contentful-paint")[0].startTime'
FRAMES = '''async step => {   // scroll by step pixels per frame for 300 frames: the duration of each frame, in ms
  const times = [];
  let last = await new Promise(requestAnimationFrame);
  for (let i = 0; i < 300; i++) {
    scrollBy(0, step);
    const now = await new Promise(requestAnimationFrame);
    times.push(now - last);
    last = now;
  }
  return times;
}'''
TWO_FRAMES = 'requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)))'


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('page', choices=PAGES, help='The page: captions and pictures, or training runs.')
    group = parser.add_argument_group('results page')
    group.add_argument('--images', type=int, default=5000, help='The number of images; each has a card on the page.')
    group.add_argument('--export', action='store_true',
                       help='Time the page as one exported file instead of from a server.')
    group = parser.add_argument_group('training monitor')
    group.add_argument('--runs', type=int, default=60, help='The number of training runs.')
    group.add_argument('--reports', type=int, default=2000, help='The number of reports in each run.')
    return parser


@script
def main(argv=None):
    params = vars(build_parser().parse_args(argv))
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        for name, value in PAGES[params['page']](browser, Path(folder), params).items():
            print(f'{name:52} {value}')
    return 0


def results_page(browser, folder, params):
    """Time the results page: {what was measured: its value}.

    Each card has a picture of 224 × 224, references, an n-best list and word probabilities.
    """
    path = made_up_results(folder, params['images'])
    found = {}
    if params['export']:
        began = time.perf_counter()
        view(path, '--export', folder / 'page.html')
        found['export, s'] = f'{time.perf_counter() - began:.1f}'
        found['exported file, MB'] = f'{(folder / "page.html").stat().st_size / 1e6:.0f}'
    with contextlib.nullcontext((folder / 'page.html').as_uri()) if params['export'] else served(path) as address:
        page = browser.new_context(viewport=WIDE).new_page()
        page.add_init_script(FIRST_CARDS)
        page.goto(address)
        page.wait_for_selector('html[data-shown]')
        found['first paint, ms'] = round(page.evaluate(FIRST_PAINT))
        found['first cards visible, ms'] = round(float(page.get_attribute('html', 'data-shown')))
        for pixels in 40, 400, 4000:
            page.evaluate('scrollTo(0, 0)')
            page.wait_for_timeout(500)
            times = page.evaluate(FRAMES, pixels)
            found[f'frame, scrolling by {pixels} pixels, ms'] = spread(times)
        for value, name in (('logprob 0', 'log probability'), ('score 0 CIDEr', 'CIDEr'), ('shuffle', 'shuffle')):
            found[f'order: {name}, until visible, ms'] = round(page.evaluate(f'''value => new Promise(done => {{
                const select = document.querySelector('[aria-label=Order]'), began = performance.now();
                select.value = value;
                select.dispatchEvent(new Event('change'));
                {TWO_FRAMES} }})''', value))
        for pattern in 'dog', r'\b(red|blue) \w+ing\b', 'e':
            name = f'search for {pattern}, until visible, ms'
            found[name] = round(page.evaluate(f'''pattern => new Promise(done => {{
                const field = document.querySelector('input[type=search]'), began = performance.now();
                new MutationObserver((_, observer) => {{ observer.disconnect(); {TWO_FRAMES} }}).observe(
                  document.getElementById('cards'), {{childList: true}});
                field.value = pattern;
                field.dispatchEvent(new Event('input')); }})''', pattern))
        page.evaluate('scrollTo(0, 0)')
        page.fill('input[type=search]', '')
        page.wait_for_timeout(1000)
        found |= memory(browser, page)
        page.evaluate('''async () => {
            for (const chunk of document.querySelectorAll('.chunk')) {
              chunk.scrollIntoView();
              for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame);
            } }''')
        found |= {f'{name}, after all cards': value for name, value in memory(browser, page).items()}
    return found


def monitor_page(browser, folder, params):
    """Time the training monitor with many runs that have long histories: {what was measured: its value}."""
    made_up_runs(folder, params['runs'], params['reports'])
    actions = {
        'redraw all curves': 'show()',
        'fetch all runs again and redraw': 'for (const run of runs.values()) run.curves.clear(); show()',
        'zoom': 'charts[0].chart.zoomBy(.8)',
        'toggle the log scale': 'view.log = !view.log; show()',
        'toggle a filter': "view.filter = view.filter ? '' : 'adam'; show()",
        'point at a run': 'point([...runs.keys()][Math.floor(Math.random() * runs.size)])',
    }
    found = {}
    with serving(monitor_routes(folder)) as address:
        page = browser.new_context(viewport=WIDE).new_page()
        began = time.perf_counter()
        page.goto(address)
        page.wait_for_function(f"() => document.querySelectorAll('#table tbody tr').length === {params['runs']}")
        found['read, send and show all runs, s'] = f'{time.perf_counter() - began:.1f}'
        page.wait_for_timeout(1000)
        for name, action in actions.items():
            times = [page.evaluate(f'''() => new Promise(done => {{
                const began = performance.now();
                {action};
                {TWO_FRAMES} }})''') for _ in range(20)]
            found[f'{name}, until visible, ms'] = spread(times)
        found |= memory(browser, page)
        page.goto('about:blank')
    return found


PAGES = {'results': results_page, 'monitor': monitor_page}


def made_up_runs(folder, n, reports):
    """Write n status files to folder, with one report per minute and an evaluation at every fortieth report."""
    words, start = random.Random(0), datetime.datetime.now() - datetime.timedelta(minutes=reports)
    for run in range(n):
        floor, rate, val, history = words.uniform(14, 26), words.uniform(4, 20), -1., []
        for i in range(1, reports + 1):
            train = floor + 150 * math.exp(-rate * i / reports) + words.random()
            val = train * 1.1 + 3 * i / reports if i % 40 == 0 else val
            history.append({'time': (start + datetime.timedelta(minutes=i)).isoformat(), 'iter': [12 * i, 12 * reports],
                            'epoch': [50 * i / reports, 50], 'time_per_batch': words.uniform(.08, .1), 'val_ppl2': val,
                            'train_ppl2': train * words.uniform(.9, 1.1), 'smooth_train_ppl2': train})
        settings = {'solver': words.choice(['adam', 'rmsprop']), 'hidden_size': words.choice([256, 512]), 'run': run}
        status = {'params': settings, 'state': 'running', 'reason': None, 'history': history}
        (folder / f'node{run % 8}_run{run}_status.json').write_text(json.dumps(status), encoding='utf-8')


def made_up_results(folder, n):
    """Write a result_struct.json of n images to folder, and their pictures: 50 files of noise under n names."""
    rng, words = np.random.default_rng(0), random.Random(0)

    def caption():
        text = words.choices(WORDS, k=words.randint(6, 16))
        logprobs = [round(-words.expovariate(1), 6) for _ in range(len(text) + 1)]
        return {'text': ' '.join(text), 'logprob': sum(logprobs), 'word_logprobs': logprobs}

    blobs = []
    for i in range(n):
        path = folder / f'{i}.jpg'
        if i < 50:
            low = Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8))
            low.resize((224, 224), Image.Resampling.BICUBIC).save(path, quality=90)
        else:
            path.hardlink_to(folder / f'{i % 50}.jpg')
        nbest = [caption() for _ in range(5)]
        blobs.append({'img_path': path.name, 'imgid': i, 'candidate': nbest[0], 'nbest': nbest,
                      'references': [{'text': caption()['text']} for _ in range(5)],
                      'scores': {'Bleu_4': words.random(), 'ROUGE_L': words.random(), 'CIDEr': 2 * words.random()}})
    path = folder / 'result_struct.json'
    path.write_text(json.dumps({'params': {'dataset': 'made up', 'split': 'test', 'beam_size': 5},
                                'checkpoint_params': {'generator': 'lstm', 'hidden_size': 512}, 'imgblobs': blobs,
                                'gtppl': 15., 'scores': {'Bleu_4': .2, 'CIDEr': .5}}), encoding='utf-8')
    return path


def view(*flags):
    """Run python -m imagernn.view with these flags."""
    subprocess.run([sys.executable, '-m', 'imagernn.view', *map(str, flags)], cwd=ROOT, check=True, stdout=sys.stderr)


@contextlib.contextmanager
def served(path):
    """The address at which imagernn.view serves a result file while the with-block runs."""
    with subprocess.Popen([sys.executable, '-m', 'imagernn.view', str(path), '--no_browser'], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE) as process:
        try:
            yield next(word for word in process.stdout.readline().split() if word.startswith('http'))
        finally:
            process.terminate()


def spread(times):
    """Median, 99th percentile and maximum, as text."""
    return f'median {np.median(times):.0f}, 99 % {np.percentile(times, 99):.0f}, max {max(times):.0f}'


def memory(browser, page):
    """Memory of the tab: JavaScript's heap after garbage collection, DOM nodes, private memory of the processes."""
    session = page.context.new_cdp_session(page)
    session.send('HeapProfiler.collectGarbage')
    session.send('Performance.enable')
    metrics = {each['name']: each['value'] for each in session.send('Performance.getMetrics')['metrics']}
    found = {'heap, MB': f'{metrics["JSHeapUsedSize"] / 1e6:.0f}', 'nodes': int(metrics['Nodes'])}
    if Path('/proc/self/smaps_rollup').exists():
        processes = browser.new_browser_cdp_session().send('SystemInfo.getProcessInfo')['processInfo']
        found['private memory, MB'] = sum(private_mb(each['id']) for each in processes if each['type'] == 'renderer')
    return {f'tab: {name}': value for name, value in found.items()}


def private_mb(pid):
    """Megabytes of memory that a process shares with no other."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text(encoding='utf-8').splitlines()
    return round(sum(int(line.split()[1]) for line in lines if line.startswith('Private_')) / 1e3)


if __name__ == '__main__':
    sys.exit(main())
