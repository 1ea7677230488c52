"""Texts of URIs and errors, without what may be a secret."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*@")
_SECRET = re.compile(
    r"(?i)(?<=[?&])([\w-]*(?:secret|token|password|signature|key|sig)[\w-]*=)[^&\s'\"]+"
)
# What stands where a port would, and is none: parts of a password that is not written as one.
_NO_PORT = re.compile(
    r"(?<=://)(?!\[)([^/@:\s'\"]*):(?!\d{1,5}(?![^/?#\s'\",;)]))(?:[^\s'\"@]*(?=@)|[^/\s'\"]*)"
)
# What stands where a fragment would: behind the suffix of a file, or where no suffix follows.
_FRAGMENT = re.compile(
    r"(://[^\s'\"#]*)#(?:(?<=\.\w\w#)|(?<=\.\w{3}#)|(?<=\.\w{4}#)|(?<=\.\w{5}#)|(?<=\.\w{7}#)"
    r"|(?![^\s'\"]*[./]))[^\s'\"/]+"
)
# Options in texts and representations; not folders such as /key=5/.
_OPTION = re.compile(
    r"(?i)((?<![/\w.-])['\"]?[\w-]*(?:secret|token|passw(?:or)?d|signature|credential|key|sig)"
    r"[\w-]*(?:['\"]\s*:|\s*=(?!=))\s*)(?:'[^']*'|\"[^\"]*\"|[^&\s'\",;)}\]>]+)"
)


def without_secrets(text: str) -> str:
    """A text of URIs without their users, passwords, keys and signatures."""
    return _FRAGMENT.sub(r"\1#***", _NO_PORT.sub(r"\1:***", without_users(text)))


def without_users(text: str) -> str:
    """A URI without its user, and without the secrets of its query."""
    return _SECRET.sub(r"\1***", _USER.sub("", text))


def masked(text: str) -> str:
    """Any text without the secrets of URIs, and of options such as `token=`."""
    return _OPTION.sub(r"\1***", without_secrets(text))
