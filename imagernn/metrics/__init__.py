"""How good captions are, against captions that people wrote. Plain functions of token lists; no model is known here.

ngrams.py   n-gram counts, and the check of the input that all metrics share
bleu.py     BLEU-1..4 as the COCO tools compute it, and as NeuralTalk's multi-bleu.perl prints it
rouge.py    ROUGE-L
cider.py    CIDEr-D
meteor.py   METEOR, where Java and the [metrics] extra are installed

All take candidates, a list of n token lists (one an image), and references, a list of n lists of token lists (at least
one an image, any number). Tokens are compared as they are.
"""

from imagernn.metrics.bleu import MultiBleu, coco_bleu, multi_bleu
from imagernn.metrics.cider import cider
from imagernn.metrics.meteor import MeteorUnavailable, meteor
from imagernn.metrics.rouge import rouge_l

__all__ = ['MeteorUnavailable', 'MultiBleu', 'caption_scores', 'cider', 'coco_bleu', 'meteor', 'multi_bleu', 'rouge_l']


def caption_scores(candidates, references):
    """The COCO scores of a set of captions that need nothing but Python.

    candidates, references: n token lists, n lists of token lists (see ngrams.check_captions).
    Returns a dict of floats: Bleu_1..Bleu_4 and ROUGE_L as fractions; CIDEr, of which 10 is the most.
    Raises ValueError for input that cannot be scored.
    Source: the names and conventions of pycocoevalcap 1.2; the papers stand with each metric.
    """
    bleu, _ = coco_bleu(candidates, references)
    scores = {f'Bleu_{n}': float(score) for n, score in enumerate(bleu, start=1)}
    scores['ROUGE_L'], _ = rouge_l(candidates, references)
    scores['CIDEr'], _ = cider(candidates, references)
    return scores
