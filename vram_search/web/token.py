"""The token of the service, and the sessions and the read-only link that follow from it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vram_search.errors import InputError

Role = Literal["owner", "viewer"]
"""An owner may do everything; a viewer may only read."""
SESSION_SECONDS = 30 * 86400
_TOKEN_BYTES = 32


@dataclass(frozen=True)
class Credentials:
    """The owner's token, and everything that is derived from it.

    Sessions are signed with the token, so they survive a restart and end when the token changes.
    """

    token: str

    @property
    def viewer_token(self) -> str:
        """The token of a read-only link."""
        return self._signature("viewer")

    def role_of(self, token: str) -> Role | None:
        """The role that a token gives; None if it is wrong. Takes the same time for every text."""
        given = token.encode()
        is_owner = hmac.compare_digest(given, self.token.encode())
        is_viewer = hmac.compare_digest(given, self.viewer_token.encode())
        return "owner" if is_owner else "viewer" if is_viewer else None

    def session(self, role: Role) -> str:
        """The value of a session's cookie."""
        payload = f"{role}.{int(time.time()) + SESSION_SECONDS}"
        return f"{payload}.{self._signature(payload)}"

    def role_of_session(self, cookie: str) -> Role | None:
        """The role of a session's cookie; None if it is forged or has expired."""
        payload, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(payload).encode()):
            return None
        role, _, expires = payload.partition(".")
        if int(expires) < time.time():
            return None
        return "owner" if role == "owner" else "viewer"

    def _signature(self, text: str) -> str:
        return hmac.new(self.token.encode(), text.encode(), hashlib.sha256).hexdigest()


def load_token(file: Path) -> tuple[Credentials, bool]:
    """Reads the token's file, or makes it at the first start, readable by its owner alone.

    Returns:
        The credentials, and True if the file was made.

    Raises:
        InputError: other users may read the file, it is empty, or it cannot be read or written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            token = secrets.token_urlsafe(_TOKEN_BYTES)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(token + "\n")
            return Credentials(token), True
        if os.name != "nt" and stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise InputError(
                f"the token file {file} can be read by other users",
                f"run: chmod 600 '{file}', or delete it for a new token",
            )
        token = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(
            f"the token file {file} cannot be used: {error.strerror}", "check its permissions"
        ) from None
    if len(token) < _TOKEN_BYTES:
        raise InputError(f"the token file {file} holds no token", "delete it for a new token")
    return Credentials(token), False
