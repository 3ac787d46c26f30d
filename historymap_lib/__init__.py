"""historymap: which of today's buildings already stood when an old aerial photo was taken?"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("historymap")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
