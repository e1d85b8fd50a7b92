"""What a ranker found in a split, as the contents of a ranking_struct.json, which imagernn.view shows.

Knows scores and what the page shows of them; knows nothing of models.
"""

import numpy as np

TOP = 5    # images of a sentence, and sentences of an image


def ranking_struct(scores, image_of, img_paths, sentences, known, ground=None, boxes=None, params=None, trained=None,
                   measures=None):
    """The contents of a ranking_struct.json, a dict of lists, texts and numbers.

    scores: (M, N), each of M images with each of N sentences. image_of: (N,), the image that a sentence describes.
    img_paths: M texts. sentences: N lists of tokens. known: for each sentence, the places of the tokens that the model
    knows. ground: None, or function(image, sentence) -> (regions (T,), scores (T,)), which region each known token fits
    best and how well; a further entry is for END. boxes: (R, 4), x0, y0, x1, y1 of the regions as shares of the width
    and height, or None: then only the words' scores are kept. params, trained: the flags of the evaluation and of the
    model. measures: {'sentence to image': {'R@1': percent, ...}, ...}; a number beside such a dict stands for itself.

    Of equal scores, those of what belongs together come last: a model that scores everything alike finds nothing.
    Raises ValueError if the shapes do not agree.
    """
    M, N = scores.shape
    if not (len(image_of) == len(sentences) == len(known) == N and len(img_paths) == M):
        raise ValueError(f'scores {scores.shape} with {len(img_paths)} img_paths and {len(image_of)} image_of, '
                         f'{len(sentences)} sentences, {len(known)} known; expected (img_paths, sentences)')
    image_of = np.asarray(image_of)

    def pair(key, place, image, sentence):
        found = {key: int(place), 'score': round(float(scores[image, sentence]), 4)}
        if ground is not None:
            regions, word_scores = ground(image, sentence)
            found['scores'] = np.round(np.asarray(word_scores, float), 3).tolist()
            if boxes is not None:
                found['regions'] = np.asarray(regions).tolist()
        return found

    def of_image(i):
        order, rank = ranked(scores[i], image_of == i)
        return {'img_path': img_paths[i], 'rank': rank, 'sentences': [pair('sentence', s, i, s) for s in order[:TOP]]}

    def of_sentence(s):
        true = int(image_of[s])
        order, rank = ranked(scores[:, s], np.arange(M) == true)
        found = {'tokens': list(sentences[s]), 'known': [int(place) for place in known[s]], 'image': true, 'rank': rank,
                 'images': [pair('image', i, i, s) for i in order[:TOP]]}
        return found if rank <= TOP else {**found, 'true_image': pair('image', true, true, s)}

    return {'params': params or {}, 'checkpoint_params': trained or {}, 'measures': measures or {},
            'regions': [] if boxes is None else np.round(np.asarray(boxes, float), 4).tolist(),
            'images': [of_image(i) for i in range(M)], 'sentences': [of_sentence(s) for s in range(N)]}


def ranked(scores, right):
    """Places by score, the highest first, and the rank of the first that is right, or None if none is.

    scores, right: (n,), numbers and booleans. Of equal scores, right ones come last.
    """
    order = np.lexsort((right, -scores))
    return order, int(right[order].argmax()) + 1 if right.any() else None
