"""Perplexity from a sum of log-probabilities.

Knows neither models nor captions: the caller has summed the log-probabilities and counted the words.
"""

import math


def perplexity(logprob, num_words):
    """Perplexity per word: 2 to the mean of −log2 p, which is the same as e to the mean of −ln p.

    logprob: the sum of ln p over the words, in nats; num_words: how many words these are, END included.
    Returns a float; inf where the mean is 700 nats or more, close to the largest exponent that a float can hold.
    Raises ZeroDivisionError for no words.
    Source: ppl2 of NeuralTalk.
    """
    mean = -logprob / num_words  # nats per word
    return math.exp(mean) if mean < 700 else math.inf
