"""Scores of captions and translations against references that people wrote: plain functions of token lists.

ngrams.py      captions as integers, their n-grams, and the input check that all metrics share
bleu.py        BLEU-1 to 4 as the COCO tools compute it, and as NeuralTalk's multi-bleu.perl prints it; BLEU of
               translations as sacrebleu computes it
rouge.py       ROUGE-L
cider.py       CIDEr-D and CIDEr
meteor.py      METEOR, where Java and the extra [metrics] are installed
scores.py      all of these at once, from per-image statistics that can be summed over images
bootstrap.py   confidence intervals of the scores, and comparisons of systems
retrieval.py   how far up the right ones come in a ranking: recalls, from a matrix of scores
perplexity.py  perplexity from a sum of log-probabilities: a score of a model, so it takes no captions

Except in perplexity.py and retrieval.py, the arguments are candidates, a list of n token lists (one per image), and
references, a list of n lists of token lists (one or more per image). Tokens are compared as they are, without
lower-casing or stemming.
"""

from imagernn.metrics.bleu import CorpusBleu, MultiBleu, coco_bleu, corpus_bleu, multi_bleu, multi_bleu_of
from imagernn.metrics.bootstrap import Comparison, compare, intervals
from imagernn.metrics.cider import cider
from imagernn.metrics.meteor import MeteorUnavailable, meteor
from imagernn.metrics.rouge import rouge_l
from imagernn.metrics.scores import CaptionStatistics, caption_scores, caption_statistics, per_image, scores_of

__all__ = ['CaptionStatistics', 'Comparison', 'CorpusBleu', 'MeteorUnavailable', 'MultiBleu', 'caption_scores',
           'caption_statistics', 'cider', 'coco_bleu', 'compare', 'corpus_bleu', 'intervals', 'meteor', 'multi_bleu',
           'multi_bleu_of', 'per_image', 'rouge_l', 'scores_of']
