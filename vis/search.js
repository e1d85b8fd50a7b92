// Runs a regular expression in a worker, which the page can terminate if the search does not finish.
'use strict';

const MOST_MARKS = 50;    // matches in one text

// {source, texts: a list of texts for each image} -> {hits}, four numbers for each match: the index of the image, the
// index of the text, start and end; or {error}. Sends {runs} once when it is ready.
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
