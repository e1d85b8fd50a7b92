"""How much of a data set's text a vocabulary knows."""

from imagernn.corpus.vocab import MOST_DROPPED, coverage, threshold_for
from imagernn.errors import InputError


def known_words(provider, split, lookup, max_images=None):
    """How much of a split's text a vocabulary knows, by its lookup_table: a Coverage. InputError if no word at all."""
    found = coverage(provider.word_counts(split, max_images), lookup)
    if found.num_tokens and found.unknown_tokens == found.num_tokens:
        raise InputError(f'{provider.folder}: the vocabulary has none of the {found.num_words} different words of the '
                         f'{split} split; expected sentences in the language and tokenization of the training')
    return found


def words_report(provider, lookup, params):
    """How much of the text of the training and val splits is not in the vocabulary: a line to print, and warnings.

    lookup: the vocabulary's lookup_table. A warning, one for each split of which much is dropped, suggests a lower
    threshold where that helps.
    """
    train = known_words(provider, 'train', lookup)
    val = known_words(provider, 'val', lookup, params['eval_max_images'])
    warnings = []
    for split, found in (('train', train), ('val', val)):
        if found.unknown_share > MOST_DROPPED:
            lower = threshold_for(provider.word_counts('train'), MOST_DROPPED)
            helps = lower < params['word_count_threshold'] and not params['resume'] and not params['init_model_from']
            warnings.append(f'{found.unknown_tokens} of {found.num_tokens} tokens of the {split} split are not in the '
                            'vocabulary and are dropped'
                            + (f'. Try --word_count_threshold {lower}' if helps else ''))
    return (f'the vocabulary has {train.num_words - train.unknown_words} of {train.num_words} different words; '
            f'the others, {train.unknown_share:.1%} of the text, are dropped'), warnings
