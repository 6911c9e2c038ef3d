"""What a site may be called: names go into file names, tables and messages."""

from __future__ import annotations

import re

SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
SITE_NAME_RULE = "a letter or digit, then up to 63 letters, digits, spaces, '.', '_' or '-'"
