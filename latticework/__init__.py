"""Latticework: structured generation, from a Python function down to the kernels."""

import os

# lang/, runtime/ and kernels/ are linked into this folder. A checkout that lost its links (some archives, Windows)
# finds them one level up.
if not os.path.isdir(os.path.join(__path__[0], "lang")):
    __path__.append(os.path.dirname(__path__[0]))
