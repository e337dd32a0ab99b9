"""Who may look: whoever reads the link that the program prints. It works once; its use makes a session, and a new link.

There is no password: the program runs as the user whose files it shows, and only that user's terminal sees the link.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable

from client.decisions import local_user
from web.sessions import Session, Sessions

COOKIE = "pp_client_session"  # of its own: a browser keeps one jar for all ports of a host
IDLE_SECONDS = 4 * 3600.0
ROLE = "merchant"


class Login:
    """The one-time token, and the sessions that came of it.

    Args:
        on_link: is given each new token, to be shown to the person at the terminal.
    """

    def __init__(self, *, on_link: Callable[[str], None]) -> None:
        self.sessions = Sessions(idle_seconds=IDLE_SECONDS)
        self._on_link, self._lock = on_link, threading.Lock()
        self._token = ""
        self.renew()

    def renew(self) -> None:
        """Another token; the one before is worth nothing from now on."""
        with self._lock:
            self._token = secrets.token_urlsafe(32)
            self._on_link(self._token)

    def use(self, token: str) -> str | None:
        """The cookie of a new session; None where the token is not the newest, or was used."""
        with self._lock:
            right = bool(self._token) and hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode())
            if right:
                self._token = ""
        if not right:
            return None
        cookie, _ = self.sessions.begin(local_user(), ROLE)
        self.renew()
        return cookie

    def session(self, cookie: str | None) -> Session | None:
        """Whose browser it is."""
        return self.sessions.find(cookie)
