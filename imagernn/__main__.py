"""The command line: imagernn COMMAND …, or python -m imagernn COMMAND …, calls the main(argv) of that command's module.

Knows where each command is and a sentence about it; imports the chosen one alone, so that it starts fast.
"""

import importlib.util
import sys
from pathlib import Path

from imagernn.errors import PACKAGE, InputError, script

COMMANDS = {    # name: module, or script of the checkout; sentence
    'train': ('driver.py', 'Train a captioning model on pictures and sentences.'),
    'caption': ('predict_on_images.py', 'Caption photos with a trained model.'),
    'evaluate': ('eval_sentence_predictions.py',
                 'Caption a split of a data set; compute its perplexity and the captions\' scores.'),
    'score': ('eval/score_captions.py', 'Score captions from any system against reference captions.'),
    'extract': ('imagernn.extract_features', 'Extract features from pictures with a convolutional network.'),
    'view': ('imagernn.view', 'Show captioned pictures in a browser, or compare two models\' captions.'),
    'monitor': ('imagernn.monitor', 'Show the learning curves of training runs in a browser, live.'),
    'train-ranker': ('imagernn.ranking.train', 'Train a model that ranks images and sentences.'),
    'evaluate-ranker': ('imagernn.ranking.evaluate',
                        'Rank the images and sentences of a split; say which word is where.'),
    'train-text': ('imagernn.textgen.train', 'Train a language model on a text, by characters or words.'),
    'sample-text': ('imagernn.textgen.sample', 'Write text with a trained language model, or score a text.'),
    'text-page': ('imagernn.textgen.page', 'Watch a language model write in a browser; see what its units do.'),
    'train-translator': ('imagernn.translation.train', 'Train a translation model on pairs of sentences.'),
    'translate': ('imagernn.translation.translate', 'Translate lines of text with a trained model.'),
    'translation-page': ('imagernn.translation.page',
                         'Watch a model translate, with its attention, in a browser.'),
    'score-translations': ('imagernn.translation.score', 'Score translations by BLEU, with intervals.'),
    'sweep': ('imagernn.sweep.__main__', 'Search over the flags of any trainer with many runs.'),
    'album': ('imagernn.album', 'Search and browse a folder of photos in a browser.'),
    'find': ('imagernn.find', 'Find the photos in a folder that a sentence describes.'),
    'publish': ('imagernn.publish', 'Make a small copy of a checkpoint to share.'),
    'classify': ('imagernn.convnet.classify', 'Name the ImageNet classes that a network sees in pictures.'),
    'train-convnet': ('imagernn.convnet.train', 'Train a small convolutional network on digits or drawn scenes.'),
    'prepare-coco': ('data/prepare_coco.py', 'Make dataset.json from the annotations of MS COCO.'),
    'prepare-flickr': ('data/prepare_flickr.py', 'Make dataset.json from Flickr8K or Flickr30K.'),
    'pictures-from-words': ('data/pictures_from_words.py',
                            'Add images to a data set of which only captions are known.'),
    'make-scenes': ('data/make_scenes.py', 'Draw a small data set of scenes to try everything on.'),
}


@script
def main(argv=None):
    """Run the command that argv (default: sys.argv[1:]) names first. Returns its exit code.

    Sets sys.argv to the command's own, from which argparse takes the name in the usage line.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ['--help']
    if name in ('-h', '--help'):
        print(overview())
        return 0
    if name not in COMMANDS:
        raise InputError(f'imagernn has no command {name!r}; choose one of {", ".join(COMMANDS)}')
    sys.argv = [str(Path(sys.argv[0]).parent / f'imagernn {name}'), *rest]
    return module_of(name).main(rest)


def module_of(name):
    """The module of a command. A script is in the root of a checkout, and in imagernn/scripts/ once installed."""
    where, _ = COMMANDS[name]
    if not where.endswith('.py'):
        return importlib.import_module(where)
    path = next(folder / where for folder in (PACKAGE / 'scripts', PACKAGE.parent) if (folder / where).is_file())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def overview():
    """The text of --help: all commands, a sentence each."""
    width = max(map(len, COMMANDS))
    return '\n'.join(['usage: imagernn COMMAND [ARGUMENTS]', '', 'Image captioning with recurrent networks in numpy.',
                      '', *(f'  {name:{width}}  {sentence}' for name, (_, sentence) in COMMANDS.items()),
                      '', 'imagernn COMMAND --help explains the arguments of a command.'])


if __name__ == '__main__':
    __spec__ = None    # else argparse from Python 3.14 on ignores sys.argv[0]
    sys.exit(main())
