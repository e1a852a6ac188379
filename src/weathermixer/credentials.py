"""Keeping credentials out of what is said and written.

They belong into the environment or the files where Amazon's and Google's own tools look for them.
An address may carry some all the same: a user and password, or the signature of a link.
"""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(://[^\s?]+)\?[^\s'\")]+")


def without_credentials(text: str) -> str:
    """A text with its addresses as they may be shown: without user, password and signature.

    >>> without_credentials("https://me:secret@host/a.nc?X-Amz-Signature=0f3 cannot be read")
    'https://host/a.nc cannot be read'
    """
    return _QUERY.sub(r"\1", _USER.sub("", text))
