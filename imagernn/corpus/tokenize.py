"""Captions -> tokens: as the COCO evaluation makes them, as Karpathy's data sets were made, and for any other language.

Knows the rules of the Penn Treebank tokenizer that the official evaluation (coco-caption; package pycocoevalcap) runs.
Knows nothing of vocabularies or scores.
"""

# The official evaluation passes captions, one per line, through the English tokenizer of Stanford CoreNLP 3.4.1, a Java
# program, lower-cases the tokens, and removes those in a list of punctuation. ptb_tokenize does the same without Java.
#
# The program is a lexer. At each position, the rule with the longest match, including the context that the rule asks
# for, makes the next token; if several matches are equally long, the first rule does. RULES work in the same way. They
# were found by trying strings on the Java program, every character up to U+FFFF among them, with its published token
# classes (PTBLexer) as a guide. benchmarks/ptb_check.py compares the two.
#
# These differences remain. None of them concerns ordinary captions:
# - A line end other than \n (\r, \v, \f, U+2028, U+2029) is white space here. In the Java program it ends the caption,
#   and every later caption gets the tokens of the one before it.
# - The quoted attribute of a tag ends with its caption here. In the Java program it may continue into the next
#   captions, with the same effect.
# - Letters, digits and marks that were added or changed after Unicode 6.1 (such as Georgian capitals and the small
#   letters of Cherokee) are classified by Python's unicodedata here. The Java program drops them.
# - In words that a rule spells out, such as "'tis", the Java program takes the dotted capital I and the dotless i for
#   an i.
# - A capital sigma that a letter follows in its token, but not directly (ΟΔΟΣ-A), becomes ς here and σ there.
# - An address whose path is a single emoji ends before it here, because an emoji counts as two characters there.
# - Lone surrogates are dropped here. They stop the official evaluation.

import re
import unicodedata
from functools import cache
from itertools import groupby

from imagernn.errors import InputError

# What coco-caption removes. It holds no brackets: once lower-cased, "-lrb-" is a token like any other.
PUNCTUATION = frozenset(("''", "'", '``', '`', '.', '?', '!', ',', ':', '-', '--', '...', ';'))
APOSTROPHES_AND_JOINERS = "'’\xad\u200c\u200d"    # the last three, invisible in print, stand inside words


def tokenize(captions, how):
    """Captions, a list of str -> their tokens, a list of lists of str. how: a key of TOKENIZERS.

    Raises ValueError for an unknown key, and for a single string in place of the list.
    """
    if how not in TOKENIZERS:
        raise ValueError(f'tokenizer {how!r}: expected one of {", ".join(TOKENIZERS)}')
    if isinstance(captions, str):
        raise ValueError('captions is a single string; expected a list of strings')
    return TOKENIZERS[how](captions)


def ptb_tokenize(captions):
    """Captions, a list of str -> the lists of tokens that pycocoevalcap's PTBTokenizer makes of them.

    As there, the end of a caption can depend on the next one ("plan B." loses its full stop before "The …"), and the
    very last caption lacks the line end that some rules ask for. So tokenize a set together, in its order. A few
    tokens, such as phone numbers and the fraction "1 1/2", contain a no-break space. The time is linear in the length.
    """
    found = []
    following = ''    # the text after the caption, as far as a rule may look
    for caption in reversed(captions):
        caption = caption.replace('\n', ' ')
        tokens = _plain_tokens(caption)
        found.append(_tokens(caption, following) if tokens is None else tokens)
        following = f'\n{caption[:LONGEST_CONTEXT]}{following}'[:LONGEST_CONTEXT]
    return found[::-1]


def karpathy_tokenize(caption):
    """The words of a caption as in the data sets that Karpathy published, a list of str.

    The caption is lower-cased, apostrophes are deleted, and every run of characters outside [a-z0-9#&] separates words:
    "The dog's t-shirt." gives the, dogs, t, shirt. Letters other than a to z are lost; see notes_on_letters. These are
    exactly the tokens of all 40,000 sentences of his Flickr8K.
    """
    return re.sub('[^a-z0-9#&]+', ' ', caption.lower().replace("'", '')).split()


def words_tokenize(caption):
    """The words of a caption in any language, a list of str: runs of letters, accents and digits, in lower case.

    Apostrophes are deleted: "The dog's t-shirt." gives the, dogs, t, shirt. Each Chinese or Japanese character is a
    word, because these languages put no spaces between words; text that was divided into words before needs the
    tokenizer 'none'.
    """
    return ''.join(map(_as_part_of_a_word, unicodedata.normalize('NFC', caption).lower())).split()


@cache
def _as_part_of_a_word(character):
    if character in APOSTROPHES_AND_JOINERS:
        return ''
    if unicodedata.category(character)[0] not in 'LMN':    # letters, marks such as accents, numbers
        return ' '
    alone = unicodedata.name(character, '').startswith(('CJK ', 'HIRAGANA ', 'KATAKANA'))
    return f' {character} ' if alone else character


def notes_on_letters(captions, all_tokens, tokenizer):
    """A list of at most one note: in how many captions the tokenizer loses letters, and in how many most of them.

    captions: a list of str; all_tokens: what tokenize makes of them; tokenizer: by which key of TOKENIZERS. A letter is
    one of any alphabet. Raises InputError if more than half of the letters of all captions are lost.
    """

    def letters(text):
        return sum(map(str.isalpha, text))

    lost = {}    # number of a caption -> how many letters it loses; no tokenizer loses those of ASCII
    for number, caption in enumerate(captions):
        if not caption.isascii() and (count := letters(caption) - letters(''.join(all_tokens[number]))) > 0:
            lost[number] = count
    if not lost:
        return []
    mostly = [number for number, count in lost.items() if 2 * count > letters(captions[number])]
    shown = [*mostly, *lost][0]
    share = sum(lost.values()) / sum(map(letters, captions))
    example = f'"{captions[shown]:.60}" becomes "{" ".join(all_tokens[shown]):.60}"'
    advice = 'choose --tokenizer words, which keeps letters of every script'
    if share > .5:
        raise InputError(f'the tokenizer {tokenizer} would lose {100 * share:.0f} % of the letters of the captions: '
                         f'{example}; {advice}, or none if the text is divided into words by spaces')
    most = f', {len(mostly):,} of them most of their letters' if mostly else ''
    return [f'{len(lost):,} of {len(captions):,} captions lose letters that the tokenizer {tokenizer} does not '
            f'keep{most}: {example}; to keep them, {advice}']


TOKENIZERS = {
    'ptb': ptb_tokenize,
    'karpathy': lambda captions: [karpathy_tokenize(caption) for caption in captions],
    'words': lambda captions: [words_tokenize(caption) for caption in captions],
    'none': lambda captions: [caption.split() for caption in captions],
}


# ---- parts of the rules: characters ----------------------------------------------------------------------------------
# LETTER, DIGIT, MARK, SYMBOL and SPACE are the insides of character classes, to be used as in [{LETTER}{DIGIT}]; the
# other parts are patterns or lists of words.

def _class_of(test):
    """The inside of a class of the characters up to U+FFFF that pass a test. No rule has a letter beyond these."""
    codes = [code for code in range(0x10000) if test(chr(code))]
    runs = [[code for _, code in run] for _, run in groupby(enumerate(codes), lambda pair: pair[1] - pair[0])]
    return ''.join(f'\\u{run[0]:04x}-\\u{run[-1]:04x}' for run in runs)


def _ranges(text):
    """The inside of a class of code points, given as in '0300-036F 0375'."""
    return ''.join(f'\\u{part[:4]}-\\u{part[-4:]}' for part in text.split())


LETTER = _class_of(str.isalpha) + _ranges('1885-1886')
DIGIT = _class_of(str.isdecimal)
# accents, vowel signs and the like, which continue a word as letters do, but not a hyphened one
MARK = '\xad' + _ranges(
    '02C2-02C5 02D2-02DF 02E5-02EB 02ED 02EF-036F 0375 0378-0379 0384-0385 03F6 0483-0487 055A-055F 0591-05BD 05BF '
    '05C1-05C2 05C4-05C5 05C7 0615-061A 064B-065E 0670 06D6-06E4 06E7-06ED 06FD-06FE 070F 0711 0730-074C 07A6-07B0 '
    '07EB-07F3 0900-0903 093C 093E-094E 0951-0955 0962-0963 0981-0983 09BC 09BE-09C4 09C7-09C8 09CB-09CD 09D7 '
    '09E2-09E3 0A01-0A03 0A3C 0A3E-0A4F 0A81-0A83 0ABC 0ABE-0ACF 0B82 0BBE-0BC2 0BC6-0BC8 0BCA-0BCD 0C01-0C03 '
    '0C3E-0C56 0D3E-0D44 0D46-0D48 0E31 0E34-0E3A 0E47-0E4E 0EB1 0EB4-0EBC 0EC8-0ECD')
SYMBOL = r'+%&~^|\\' + _ranges(
    '00A1 00A6-00A9 00AC 00AE-00B4 00B6-00B9 00BF 00D7 00F7 037E 0387 0589 05BE 05C0 05C3 05C6 05F3-05F4 0600-0603 '
    '0606-060C 0614 061B 061E-061F 066A 066D 06D4 0700-070D 07F6-07F8 0964-0965 0E4F 1FBD 2016-2017 2020-2023 '
    '2030-2038 203B 203E-2042 2044 207A-207E 208A-208E 2100-2101 2103-2106 2108-2109 2114 2116-2118 211E-2123 2125 '
    '2127 2129 212E 213A-213B 2140-2144 214A-214D 214F 2190-2BFF 3001-3002 3012 30FB FF01-FF0F FF1A-FF20 FF3B-FF40 '
    'FF5B-FF65')
SPACE = r' \t\xa0\u2000-\u200a\u3000'


# ---- parts of the rules: words ---------------------------------------------------------------------------------------

def _any_case(words):
    """A pattern for any of the words, which spaces separate, ignoring the case of ASCII letters."""
    return f'(?ai:{"|".join(words.split())})'


def _capitalized(words):
    """A pattern for any of the words, ignoring case except for the first letter."""
    return f'(?:{"|".join(word[0] + _any_case(word[1:]) for word in words.split())})'


ENTITY_LETTER = f'&[aeiouAEIOU]{_any_case("acute grave uml")};'    # caf&eacute; is a word
WORD_REST = f'[{LETTER}{MARK}{DIGIT}]*(?:{ENTITY_LETTER}[{LETTER}{MARK}{DIGIT}]*)*'
WORD_PART = f'(?:[{LETTER}{MARK}]|{ENTITY_LETTER}){WORD_REST}'
WORD = f'{WORD_PART}(?:[.!?]{WORD_PART})*'    # "yes!no" is a single word

APOS_ENTITY = _any_case('&apos;')
APOS = f"(?:['’\x92]|{APOS_ENTITY})"
APOS_INSIDE = f"(?:['’\x92`‘\x91‛]|{APOS_ENTITY})"
AUXILIARY = f'{APOS}{_any_case("s m d re ve ll")}'    # it's, I'm, he'd, they're, we've, she'll
NOT = f'[nN]{APOS_INSIDE}[tT]'
OWN_APOSTROPHE = _any_case(r"cont'd\.? nor'easter c'mon e'er s'mores ev'ry li'l nat'l")

NUMBER = f'(?:[{DIGIT}]*(?:[.:,\xad٫٬][{DIGIT}]+)+|[{DIGIT}]+)'    # 1,000.50 12:30 .5
ALNUM = f'[{LETTER}{DIGIT}]'
NAME_PREFIX = f'(?:[dDoOlL]{APOS_INSIDE}{ALNUM})?'    # of d'Avignon, O'Brien
THING = f'{NAME_PREFIX}{ALNUM}+(?:[-_֊‐‑]{NAME_PREFIX}{ALNUM}+)*'
ACRONYM = r'[A-Za-z](?:\.[A-Za-z])+'
HYPHENED_START = r'[A-Za-z0-9][A-Za-z0-9.,\xad]*'
HYPHENED = rf'{HYPHENED_START}(?:-(?:{ACRONYM}\.|[A-Za-z0-9\xad]+))+'    # 1,000-foot, non-U.S.
SLASH_PART = r'[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}'
JOINED_CAPITALS = f'[A-Z]+(?:(?:[+&]|{_any_case("&amp;")})[A-Z]+)+'
OWN_FULL_STOP = r'(?:\.(?=[,;:、]))?'    # a full stop before one of these marks belongs to the word

# Abbreviations keep their full stop, even directly before another letter ("Inc.x"). Their case does not matter.
ABBREVIATIONS = (
    'al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb '
    'fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn '
    'plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo')
# Those that are words in lower case are abbreviations only if they begin with a capital.
CAPITAL_ABBREVIATIONS = 'Ark Az Del Ill La Mass Miss Ore Pa Tex Wash'
ABBREVIATION = (rf'(?:{_any_case(ABBREVIATIONS)}|{_capitalized(CAPITAL_ABBREVIATIONS)}|{_any_case("ed ph")}\.[Dd]|'
                '[Pp]{1,2}[Tt][ey][Ss]?)')    # Ph.D., Pty.
TITLES = (    # these keep it, too, but "Mr.x" is a single word
    'a b c d e f g h i j k l m n o p q r s t u v w x y z adj adm adv alex assoc asst atty attys ave brig capt cf cie '
    'cmdr col comdr cpl det dr drs elec ens ft gen gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms '
    'msgr mt natl pfc ph pres prof profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm')
NUMBER_ABBREVIATIONS = 'art ca fig figs no nos op pp prop'    # only before a digit
US_AND = _any_case(r'(?:canada|sino|korean|eu|japan|non)-u\.s u\.s\.-(?:u\.k|u\.s\.s\.r)')    # non-U.S, U.S.-U.K
STARTERS = (    # words that begin a sentence
    r'A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mr\. Ms\. '
    'Now Once One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet '
    'You')
SPECIAL = _any_case(r'-(?:rrb|lrb|rcb|lcb|rsb|lsb)- c\.d\.s pro- anti- s(?:&|&amp;)p-500 s(?:&|&amp;)ls')

TAG_NAME = '[A-Za-z][A-Za-z0-9_:.-]*'
TAG = rf'(?:<{TAG_NAME}(?: +{TAG_NAME}(?: *= *(?:\'[^\'\n]*\'|"[^"\n]*"))?)* *(?:/ *)?>|</{TAG_NAME} *>)'
URL_END = r'[^ \t\n\f\r"<>|.!?(){},-]'
URL_PATH = rf'/[^ \t\n\f\r"<>|()]+{URL_END}'
HOST_CHAR = r'[^ \t\n\f\r"<>|.!?(){},]'
HOST = rf'{_any_case("www")}\.(?:{HOST_CHAR}+\.)+[a-zA-Z]{{2,4}}'
HOST_START = rf'{_any_case("www")}\.(?:{HOST_CHAR}+\.)*{HOST_CHAR}*'
DOMAIN = r"""[^ \t\n\f\r"`'<>|.!?(){},-_$]"""    # nor capitals or digits: ",-_" is a range in the Java program, too
EMAIL_START = rf'(?:{_any_case("&lt;")}|<)?[a-zA-Z0-9][^ \t\n\f\r"<>|(){{}}\xa0]*'
EMAIL_PART = r'[^ \t\n\f\r"<>|(){}.\xa0]+'
FILE_PART = f'(?:[{LETTER}{MARK}{DIGIT}]|{ENTITY_LETTER}){WORD_REST}'
FILE_NAME = rf'{FILE_PART}(?:\.{FILE_PART})*'
EXTENSIONS = _any_case('bat bmp bz2 c cgi class cpp dll docx? exe gif gz h html? jar java jpe?g mov mp3 pdf php pl png '
                       'ppt ps py sql tar txt wav x xml zip')


# ---- the rules -------------------------------------------------------------------------------------------------------
# Each rule is (kind of token, pattern). The first group of the pattern is the token; the rest is the context. A rule
# that may look far ahead and still fail has a third part, the pattern of its reach: where the rule fails, it would also
# fail everywhere within the text that its reach matches, so it is not tried there. Otherwise some texts would take
# quadratic time.
RULES = [
    ('word', r'((?ai:c\+\+|[cf]#))'),    # programming languages
    ('word', "((?ai:can(?=not)|gon(?=na)|wan(?=na)|got(?=ta)|lem(?=me)|gim(?=me)|'t(?=is|was)))"    # can|not, 't|is
             f'{_any_case("not na ta me is was")}'),
    ('tag', f'({TAG})'),    # <a href="x y">
    ('tag', r'(<[!?][A-Za-z-][^>\n]*>)', r'<[!?][^>\n]*'),    # <!-- x -->
    ('dash', f'({_any_case("&md; &mdash; &ndash;")}|[–—―\x96\x97])'),
    ('ampersand', f'({_any_case("&amp;")})'),
    ('entity', f'(&(?:{_any_case("ht tl ur lr qc ql qr odq cdq")}|#[0-9]+);)'),
    ('word', f'({WORD}){AUXILIARY}'),    # dog|'s
    ('word', rf'([A-Za-z\xad]*[A-MO-Za-mo-z]\xad*){NOT}'),    # do|n't
    ('word', f'({WORD}{OWN_FULL_STOP})'),
    ('apostrophe', f'({APOS}(?:[nN]{APOS}?|{_any_case("em till? cause")}|[2-9]0[sS]))'),    # rock|'n'|roll, 'em, '90s
    ('apostrophe', f'((?:[lLdDjJ]|{_any_case("dunkin somethin ol")}){APOS})'),    # l', ol'
    ('apostrophe', f'([A-HJ-XZn]{APOS_INSIDE}[{LETTER}]{{2,}})'),    # B'gosh, n'ts
    ('apostrophe', f'([{LETTER}]{{2,}}(?<=[aeiouyAEIOUY]){APOS_INSIDE}[aeiouA-Z][{LETTER}]*)'),    # Hawai'i, ma'am
    ('apostrophe', f'({OWN_APOSTROPHE})'),
    ('apostrophe', f'([yY]{APOS})[{LETTER}]'),    # y'|all
    ('address', rf'({_any_case("https?")}://[^ \t\n\f\r"<>|(){{}}]+{URL_END})'),
    ('address', f'({HOST})', HOST_START),
    ('address', f'({HOST}{URL_PATH})', HOST_START),
    ('address', rf'((?:{DOMAIN}+\.)+{_any_case("com net org edu")}(?:{URL_PATH})?)', rf'(?:{DOMAIN}+\.)*{DOMAIN}*'),
    ('address', rf'({EMAIL_START}@(?:{EMAIL_PART}\.)*{EMAIL_PART}(?:{_any_case("&gt;")}|>)?)', EMAIL_START),
    ('address', f'(@[a-zA-Z_][a-zA-Z_0-9]*|#(?:[{LETTER}{MARK}]|{ENTITY_LETTER})+)'),    # @user, #topic
    ('auxiliary', f'({AUXILIARY})[^A-Za-z]'),
    ('auxiliary', f'({NOT})'),
    ('number', f'([{DIGIT}]{{1,2}}[-/][{DIGIT}]{{1,2}}[-/][{DIGIT}]{{2,4}})'),    # 10/12/2014
    ('number', f'([-+]?{NUMBER})'),
    ('number', '([⁺⁻₊₋]?(?:[⁰¹²³⁴-⁹]+|[₀-₉]+))'),
    ('fraction', rf'((?:[{DIGIT}]{{1,4}}[- \xa0])?[{DIGIT}]{{1,4}}(?:\\?/|⁄)[{DIGIT}]{{1,4}})'),    # 1 1/2
    ('fraction', '([¼½¾⅓-⅞])'),
    ('ampersand', f'({SPECIAL}|{_any_case("cap")}{APOS}[nN]|[cC]{APOS}{_any_case("est")})'),    # S&Ls, cap'n, c'est
    ('slashed', rf'({SLASH_PART}(?:\\?/{SLASH_PART}){{1,2}})'),    # and/or, he/she/it
    ('currency', r'([A-Z]*\$|#)'),    # US$
    ('currency', '([¢£¤¥\x80₠€؋฿₤￠￡￥￦])'),
    ('abbreviation', rf'({_any_case(NUMBER_ABBREVIATIONS)}\.)[{SPACE}\n]?[{DIGIT}]'),    # fig. 5
    ('abbreviation', rf'({ABBREVIATION}\.)(?s:..)'),
    ('abbreviation', rf'({ABBREVIATION}\.)'),
    ('abbreviation', rf'((?:{_any_case(TITLES)}|[Mm][ft][Gg])\.)'),
    ('abbreviation', rf'({ACRONYM}\.)'),    # a.m., U.S.
    ('abbreviation', rf'({US_AND}(?:\.|(?=[{SPACE}\n])))'),
    ('letter', rf'([A-Za-z])\.[{SPACE}\n]+(?:{_capitalized(STARTERS)}|{TAG})[{SPACE}\n]'),    # plan B|. The dog …
    ('year', f'({APOS}[0-9][0-9])[{SPACE}\n]'),    # '05
    ('file name', rf'({FILE_NAME}\.{EXTENSIONS})[{SPACE}\n.?!,]', FILE_NAME),    # 1.jpg
    ('phone', r'(\([0-9]{2,3}\)[ \xa0]?[0-9]{3,4}[- \xa0]?[0-9]{3,5})'),    # (555) 123-4567
    ('phone', r'(\+{0,2}[0-9]{2,4}[- \xa0][0-9]{3,4}[- \xa0]?[0-9]{3,5})'),    # 555 123 4567
    ('phone', r'(\+{0,2}[0-9]{2,4}[- \xa0][0-9]{2,4}[- \xa0][0-9]{3,4}[- \xa0]?[0-9]{3,5})'),    # +1 555 123 4567
    ('phone', r'((?:\+{0,2}[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5})'),    # 555.123.4567
    ('quotes', f'("|{_any_case("&quot;")})'),
    ('bracket', rf'([\[\](){{}}<>]|{_any_case("&lt; &gt;")})'),
    ('smiley', r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])[^A-Za-z0-9]"),    # :-)
    ('smiley', r"([-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\))"),    # ^_^ (^_^)
    ('smiley', r'([\^x=~<>]\.\[\^x=~<>\])'),    # as in the Java program: ^.^ is three tokens, but ^.[^x=~<>] is one
    ('hyphens', '(-+)'),
    ('ellipsis', r'(\.{3,5}|(?:\.[ \xa0]){2,4}\.|[\x85…])'),
    ('marks', r'(@+|#+|_+|\*+|(?:\\\*){1,3}|[,;:、]|[?!]+|[.¡¿;։؟۔܀-܂ߺ。]|=|/|<<|>>)'),
    ('hyphened', f'({HYPHENED}{OWN_FULL_STOP})', HYPHENED_START),
    ('thing', f'({THING}{OWN_FULL_STOP})'),    # t-shirt, 3D, O'Brien
    ('ampersand', f'({JOINED_CAPITALS}{OWN_FULL_STOP})'),    # AT&T
    ('quotes', r"(')[A-Za-z][^ \t\n\r\xa0]"),    # opens a quotation; comes before the auxiliary that it could also be
    ('auxiliary', f'({AUXILIARY})'),
    ('quotes', f'([`‘’‚‛“”„‟‹›«»\x91-\x94]{{1,2}}|\'\'|{APOS})'),
    ('symbol', f'([{SYMBOL}])'),
    ('space', f'({_any_case("&nbsp;")})'),
]

BRACKETS = str.maketrans({'(': '-LRB-', ')': '-RRB-', '[': '-LSB-', ']': '-RSB-', '{': '-LCB-', '}': '-RCB-'})
ROUND_BRACKETS = str.maketrans({'(': '-LRB-', ')': '-RRB-'})
QUOTES = str.maketrans({**dict.fromkeys('\x91‘‛‹', '`'), **dict.fromkeys('\x92’›', "'"),
                        **dict.fromkeys('\x93“«', '``'), **dict.fromkeys('\x94”»', "''"), '"': "''"})
CURRENCIES = str.maketrans({'¢': 'cents', '£': '#', **dict.fromkeys('\x80¤₠€', '$')})
FRACTIONS = str.maketrans({'¼': '1/4', '½': '1/2', '¾': '3/4', '⅓': '1/3', '⅔': '2/3', ' ': '\xa0'})


def _without_soft_hyphens(token):
    return token.replace('\xad', '') or '-'


def _latex_quotes(token):
    return token.replace('&apos;', "'").replace('&quot;', '"').translate(QUOTES)    # "&QUOT;" stays, as in Java


def _with_ampersand(token):
    return re.sub('(?i)&amp;', '&', token)


# How tokens of a kind are written, if not as in the caption. All tokens are lower-cased afterwards.
WRITTEN = {
    'word': _without_soft_hyphens,
    'number': _without_soft_hyphens,
    'hyphened': _without_soft_hyphens,
    'quotes': _latex_quotes,
    'auxiliary': _latex_quotes,
    'ampersand': _with_ampersand,
    'tag': lambda token: token.replace(' ', '\xa0'),
    'phone': lambda token: token.replace(' ', '\xa0').translate(ROUND_BRACKETS),
    'smiley': lambda token: token.translate(ROUND_BRACKETS),
    'bracket': lambda token: {'&lt;': '<', '&gt;': '>'}.get(token.lower(), token).translate(BRACKETS),
    'fraction': lambda token: token.translate(FRACTIONS),
    'currency': lambda token: token.translate(CURRENCIES),
    'dash': lambda token: '--',
    'hyphens': lambda token: '--' if len(token) in (3, 4) else token,
    'ellipsis': lambda token: '...',
    'space': lambda token: '',
}


# ---- the search for tokens -------------------------------------------------------------------------------------------

SPLIT_WORDS = frozenset('cannot gonna wanna gotta lemme gimme'.split())
KEEP_FULL_STOP = frozenset(f'{ABBREVIATIONS} {CAPITAL_ABBREVIATIONS} {TITLES} {NUMBER_ABBREVIATIONS} mfg mtg pty ptys '
                           'pte ptes ppty pptys ppte pptes'.lower().split())
LONGEST_CONTEXT = 100    # characters of the next captions: no rule asks for more

# Most captions consist of words of ASCII letters, hyphens and commas. The groups are the last word and what follows it.
PLAIN_CAPTION = re.compile(r'(?:[A-Za-z]+(?:-[A-Za-z]+)*,? +)*([A-Za-z]+(?:-[A-Za-z]+)*)( ?\.? *)')
PLAIN_WORD = re.compile(r'([A-Za-z]+),?[ \n]')    # the rules would take the same, except for SPLIT_WORDS
SPACES = re.compile(f'[ \\t\\n][{SPACE}]*')    # the other kinds of space can begin an address
LINE_ENDS = str.maketrans(dict.fromkeys('\r\v\f\u2028\u2029', '\n'))


@cache
def _compiled():
    """RULES with compiled patterns: (kind, match, match of the reach or None). Compiling them takes 0.2 s, once."""
    return [(kind, re.compile(pattern).match, re.compile(*reach).match if reach else None)
            for kind, pattern, *reach in RULES]


def _plain_tokens(caption):
    """The tokens of a caption so simple that it needs none of the rules; None for any other."""
    found = PLAIN_CAPTION.fullmatch(caption)
    if not found or found[2].startswith('.') and found[1].lower() in KEEP_FULL_STOP:
        return None
    words = caption.lower().replace(',', ' ').replace('.', ' ').split()
    return words if SPLIT_WORDS.isdisjoint(words) else None


def _tokens(caption, following):
    """The tokens of any caption, lower-cased and without PUNCTUATION. following: the text after the caption."""
    text = (caption + following).translate(LINE_ENDS)
    tokens = [token.lower() for token in _lexed(text, len(caption))]
    tokens[-1:] = [token.rstrip() for token in tokens[-1:]]    # as in coco-caption: an address may end in a space
    return [token for token in tokens if token and token not in PUNCTUATION]


def _lexed(text, end_of_caption):
    """Yield the tokens of text up to end_of_caption. Characters that no rule matches are dropped."""
    rules = _compiled()
    hopeless = {}    # a rule's number -> the place from which it may be tried again
    place = 0
    while place < end_of_caption:
        if found := SPACES.match(text, place):
            place = found.end()
            continue
        found = PLAIN_WORD.match(text, place)
        if found and found[1].lower() not in SPLIT_WORDS:
            place = found.end(1)
            yield found[1]
            continue
        longest = None
        longest_end = place
        for number, (kind, match, reach) in enumerate(rules):
            if reach and place < hopeless.get(number, 0):
                continue
            found = match(text, place)
            if found and found.end() > longest_end:
                longest, longest_kind, longest_end = found, kind, found.end()
            elif reach and not found and (failed := reach(text, place)):
                hopeless[number] = failed.end()
        if longest is None:
            place += 1
            continue
        place = longest.end(1)
        token = longest[1]
        yield WRITTEN[longest_kind](token) if longest_kind in WRITTEN else token
