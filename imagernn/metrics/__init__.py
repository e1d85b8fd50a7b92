"""How good captions are, against captions that people wrote. Plain functions of token lists; no model is known here.

ptb.py        captions as people write them, cut into tokens
ngrams.py     captions as integers, their n-grams, and the check of the input that all metrics share
bleu.py       BLEU-1..4 as the COCO tools compute it, and as NeuralTalk's multi-bleu.perl prints it
rouge.py      ROUGE-L
cider.py      CIDEr-D and CIDEr
meteor.py     METEOR, where Java and the [metrics] extra are installed
scores.py     all of them at once, from statistics of each image that may be summed over images
bootstrap.py  how sure a score is, and the difference between two systems

All take candidates, a list of n token lists (one an image), and references, a list of n lists of token lists (at least
one an image, any number). Tokens are compared as they are.
"""

from imagernn.metrics.bleu import MultiBleu, coco_bleu, multi_bleu, multi_bleu_of
from imagernn.metrics.bootstrap import Comparison, compare, intervals
from imagernn.metrics.cider import cider
from imagernn.metrics.meteor import MeteorUnavailable, meteor
from imagernn.metrics.rouge import rouge_l
from imagernn.metrics.scores import CaptionStatistics, caption_scores, caption_statistics, per_image, scores_of

__all__ = ['CaptionStatistics', 'Comparison', 'MeteorUnavailable', 'MultiBleu', 'caption_scores', 'caption_statistics',
           'cider', 'coco_bleu', 'compare', 'intervals', 'meteor', 'multi_bleu', 'multi_bleu_of', 'per_image',
           'rouge_l', 'scores_of']
