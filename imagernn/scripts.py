"""The scripts outside this package, as modules of it: imagernn.scripts.driver, imagernn.scripts.data.make_scenes.

In a checkout they are the scripts themselves, in its root; once installed, the copies that setup.py put in scripts/.
"""

from pathlib import Path

_installed = Path(__file__).resolve().with_suffix('')
__path__ = [str(_installed if _installed.is_dir() else _installed.parents[1])]
