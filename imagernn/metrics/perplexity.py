"""Perplexity from the sum of the logarithms of the words' probabilities."""

import math


def perplexity(logprob, num_words):
    """2 to the mean −log2 p a word (END among them), from the sum of ln p. Infinite where a float cannot hold it."""
    mean = -logprob / num_words
    return math.exp(mean) if mean < 700 else math.inf
