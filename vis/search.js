// A thread of its own for a regular expression: where it never comes to an end, the page can end the thread.
'use strict';

const MOST_MARKS = 50;    // in one text

// {source, texts: for each image a list of texts} -> {hits}: for each match four numbers, the image, the text's place
// in its list, start and end; or {error}. Before that, once: {runs}.
onmessage = ({data: {source, texts}}) => {
  let pattern;
  try {
    pattern = new RegExp(source, 'giu');
  } catch (error) {
    postMessage({error: error.message});
    return;
  }
  const hits = [];
  texts.forEach((list, image) => list.forEach((text, place) => {
    let marks = 0;
    for (const match of text.matchAll(pattern)) {
      hits.push(image, place, match.index, match.index + match[0].length);
      if (++marks === MOST_MARKS) break;
    }
  }));
  postMessage({hits: Int32Array.from(hits)});
};
postMessage({runs: true});
