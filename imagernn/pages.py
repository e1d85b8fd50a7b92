"""A page of pictures with their captions, as one HTML file beside the pictures. Everything from data is text."""

import html
import os
from pathlib import Path
from urllib.parse import quote

from imagernn.files import write_text

PAGE = '''<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }}
  body {{ margin: 1.5rem; }}
  h1 {{ font-size: 1.3rem; margin: 0; }}
  main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; margin-top: 1rem; }}
  figure {{ margin: 0; padding: .6rem; border: 1px solid #8886; border-radius: .5rem; overflow-wrap: anywhere; }}
  img {{ display: block; width: 100%; min-height: 3rem; border-radius: .3rem; }}
  figcaption {{ margin-top: .5rem; font-weight: 600; }}
  small, details {{ font-weight: 400; font-size: .85rem; }}
  ul {{ margin: .3rem 0 0; padding-left: 1.1rem; }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
<main>
{cards}
</main>
</html>
'''
CARD = '''<figure><img src="{src}" alt="{caption}" loading="lazy">
<figcaption>{caption} <small>(log p {logprob:.2f})</small></figcaption>{lists}</figure>'''
LIST = '<details><summary>{name}</summary><ul>{items}</ul></details>'


def write_gallery(path, title, blobs, summary='', base='.'):
    """Write a page of result_struct.json's imgblobs.

    summary: the line under the title; base: what relative picture paths are relative to.
    Raises InputError where the file cannot be written.
    """
    cards = '\n'.join(_card(blob, Path(base), Path(path).parent) for blob in blobs)
    write_text(path, PAGE.format(title=html.escape(title), summary=html.escape(summary), cards=cards))


def _card(blob, base, page_folder):
    lists = {'references': [reference['text'] for reference in blob.get('references', [])],
             'n-best': [f'{found["text"]} ({found["logprob"]:.2f})' for found in blob.get('nbest', [])]}
    picture = base / blob['img_path']
    try:
        src = quote(Path(os.path.relpath(picture, page_folder)).as_posix(), errors='replace')
    except ValueError:                                # on another drive of Windows
        src = picture.resolve().as_uri()
    return CARD.format(
        src=html.escape(src), caption=html.escape(blob['candidate']['text']),
        logprob=blob['candidate']['logprob'],
        lists=''.join(LIST.format(name=name, items=''.join(f'<li>{html.escape(text)}</li>' for text in items))
                      for name, items in lists.items() if items))
