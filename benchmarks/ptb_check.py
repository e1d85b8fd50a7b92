"""Compare our Penn Treebank tokenizer with the Java one of the official COCO evaluation, caption by caption.

    pip install -e '.[metrics]'    # pycocoevalcap, which contains Stanford's tokenizer; it also needs Java
    python benchmarks/ptb_check.py captions_val2017.json data/flickr8k/dataset.json --random 20000

A file is COCO's annotations, a dataset.json (its raw sentences), or plain text with one caption per line. Prints how
many captions get the same tokens, how long each side took, and the captions that differ.
"""

import argparse
import importlib.util
import json
import random
import shutil
import sys
import time
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # a checkout need not be installed

from imagernn.corpus.tokenize import ptb_tokenize
from imagernn.errors import InputError, script
from imagernn.formats.writing import write_text

PIECES = [*"""
    a an A I the The dog Dog DOG cats women's don't can't DON'T won’t it's It’s dogs' gonna cannot Cannot wanna gotta
    lemme gimme 'tis ’tis 'twas y'all Y’all 'n' rock'n'roll o'clock O'Brien ma'am c'mon 'em ’em 'til 'cause '50s ’90s
    '90 '99ers l'eau d'or colour theatre who'd've they'll you're
    Mr. Mrs. Dr. Mr dr St. st. Ave. U.S. u.s. U.S U.S.A. a.m. A.M. p.m p.m. e.g. i.e., etc. etc vs. vs No. no. Inc. Co.
    Jr. Ill. ill. Miss. miss. in. ft. lb. oz. approx. fig. pp. Ph.D. B.A. T.V. t.v. x. B. I. non-U.S. U.S.-U.K.
    1 2 3 10 12 100 1000 1,000 1,000.50 3.5 .5 5. -5 +5 1st 2nd 3D 3-D 1980s 1/2 3/4 10/12/2014 10-12-14 12:30 12:30pm
    5:00 50% $5 $5.50 US$ 5¢ £5 €5 ¥ #1 # 5'6" 555-1234 1-800-555-1234 555.123.4567 ½ ¼ ⅔ ² ³ x² H₂O 5x7 No.5 5,000,000
    t-shirt well-known x-ray pro- anti- pro-life black-and-white and/or he/she w/ w/o 24/7 km/h AT&T R&B Q&A B&W r&b &
    &amp; A&amp;W &lt; &gt; &quot; &apos; &nbsp; &mdash; &ndash; &eacute; caf&eacute; &#39; &foo;
    . , ; : ! ? ... .. .... ….. … ?! !! - -- --- ---- ----- – — ― _ __ ( ) [ ] { } < > << >> " ' '' ` `` “ ” ‘ ’ „ « » ´
    / \\ | ~ ^ + = == * ** @ @@ ## % ° ™ © ® × • · ♥ ☺ ❤ ❤️ 🐶 🇺🇸 👍🏽 ★ → ¯ ¡ ¿
    http://www.example.com/a?b=c www.example.com WWW.Example.Com example.com example.org/x.html https://example.net/x.
    joe@example.com joe.smith@example.com, <joe@example.com> @joe #dog #dog5 node.js foo.jpg IMG_1234.JPG a.pdf 5.txt
    1.2.jpg :) :-) ;) :D :P :( >:( =) ^_^ -_- (^_^) o_O <3 :/ :'( <b> </b> <br/> <!-- x --> <i> c++ C# f#
    café naïve Ångström über ÉCOLE привет 日本語 한국어 हिन्दी العربية cafe\u0301 soft\xadhyphen zero\u200bwidth x\u200dy
    \ufeffbom \x07 \x00 \x7f ß ﬁ Ⅷ ① ٣٤""".split(),
    '555 123 4567', '(555) 123-4567', '1 1/2', '. . .', '. . . .', 'a b', '<a href="x y">', 'I. The', "rock 'n' roll"]
GLUE = [' '] * 10 + [''] * 6 + ['  ', '\t', "'", '-', '.', '. ', ',', ',', '/', '\xa0', '"', "'s", '_', ':', '!', "n't"]
CHARACTERS = ('aAbnNtTsSdDeElLmMrRyYxXuU.k015 9 ..,,\'\'’’`‘“”"--__//&;:()[]{}<>@#$%*+=!?~^\\|  \t\xa0éÉñ日ा½²₂…—–\xad'
              '\u200b🐶ʼ´¢£€')


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('files', nargs='*', help='Files of captions: COCO annotations, dataset.json or plain text.')
    parser.add_argument('--random', type=int, default=0,
                        help='The number of random captions to compare too. Half of them consist of words, numbers, '
                             'addresses and punctuation that are hard to tokenize, half of single characters.')
    parser.add_argument('--seed', type=int, default=0, help='The seed of the random captions.')
    parser.add_argument('--show', type=int, default=20, help='The number of differences to print per file.')
    parser.add_argument('--write', default='', help='Write the captions with their tokens from Java to this file. '
                                                    'tests/ptb_examples.json was made in this way.')
    return parser


@script
def main(argv=None):
    args = build_parser().parse_args(argv)
    if not java_is_there():
        raise InputError("Java or pycocoevalcap is not installed; install Java, and pip install -e '.[metrics]'")
    sets = {path: read_captions(path) for path in args.files}
    if args.random > 0:
        sets[f'random, seed {args.seed}'] = hard_captions(args.random, args.seed)
    if not sets:
        raise InputError('there is nothing to compare; name a file of captions, or use --random 20000')
    examples = []
    for name, captions in sets.items():
        if not captions:
            raise InputError(f'{name}: contains no captions; name another file')
        java, java_time = timed(java_tokens, captions)
        ours, our_time = timed(ptb_tokenize, captions)
        examples += zip(captions, java, strict=True)
        different = [i for i in range(len(captions)) if java[i] != ours[i]]
        equal = len(captions) - len(different)
        print(f'{name}: {equal:,} of {len(captions):,} captions the same ({100 * equal / len(captions):.3f} %); '
              f'Java {java_time:.1f} s, ours {our_time:.1f} s')
        for i in different[:args.show]:
            print(f'  {captions[i]!r}\n    Java {java[i]}\n    ours {ours[i]}')
    if args.write:
        lines = ',\n'.join(json.dumps([caption, ' '.join(tokens)], ensure_ascii=False) for caption, tokens in examples)
        write_text(args.write, f'[\n{lines}\n]\n')
    return 0


def java_is_there():
    """Whether both Java and pycocoevalcap are installed."""
    return bool(shutil.which('java') and importlib.util.find_spec('pycocoevalcap'))


def java_tokens(captions):
    """Tokenize captions with pycocoevalcap: a list of str -> a list of token lists.

    The captions must not contain line ends other than \\n; see corpus/tokenize.py.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    found = PTBTokenizer().tokenize({i: [{'caption': caption}] for i, caption in enumerate(captions)})
    return [[token for token in found[i][0].split(' ') if token] for i in range(len(captions))]


def hard_captions(number, seed):
    """A list of number random strings that are hard to tokenize."""
    rng = random.Random(seed)
    pieces = [''.join(rng.choice(PIECES) + rng.choice(GLUE) for _ in range(rng.randint(1, 6)))
              for _ in range(number - number // 2)]
    return pieces + [''.join(rng.choices(CHARACTERS, k=rng.randint(1, 12))) for _ in range(number // 2)]


def read_captions(path):
    """All captions of a file, a list of str. Raises InputError for a file of another kind."""
    try:
        text = Path(path).read_text(encoding='utf-8')
        if not path.endswith('.json'):
            return text.removesuffix('\n').split('\n')
        content = json.loads(text)
        if 'annotations' in content:
            return [annotation['caption'] for annotation in content['annotations']]
        return [sentence['raw'] for image in content['images'] for sentence in image['sentences']]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected COCO's annotations, a dataset.json with raw sentences, or text in UTF-8 "
                         f'({error!r}); name another file') from None


def timed(function, *arguments):
    """The result of a call, and the seconds that it took."""
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start


if __name__ == '__main__':
    sys.exit(main())
