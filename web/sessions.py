"""Who is logged in, in memory alone: a restart logs everybody out, and no file can be stolen."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

COOKIE = "pp_session"


@dataclass(kw_only=True)
class Session:
    """One browser that is logged in.

    Attributes:
        user, role: who, as the program calls it.
        form_token: what every form has to bring back (CSRF).
        began, seen: seconds of a clock that never goes back.
    """

    user: str
    role: str
    form_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    began: float
    seen: float

    def allows_form(self, token: str) -> bool:
        """Whether a form comes from a page that this session was shown."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.form_token.encode())


class Sessions:
    """All sessions. Only hashes of their tokens are kept: what is in memory logs nobody in.

    Args:
        idle_seconds, longest_seconds: a session ends after so long without a request, and so long after its login.
        most: beyond it the one that was idle longest is ended.
    """

    def __init__(
        self,
        *,
        idle_seconds: float = 1800,
        longest_seconds: float = 12 * 3600,
        most: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._idle, self._longest, self._most, self._clock = idle_seconds, longest_seconds, most, clock
        self._sessions: dict[bytes, Session] = {}
        self._lock = threading.Lock()

    def begin(self, user: str, role: str) -> tuple[str, Session]:
        """A new session and the token that stands for it, for the cookie."""
        token, now = secrets.token_urlsafe(32), self._clock()
        session = Session(user=user, role=role, began=now, seen=now)
        with self._lock:
            self._forget_old(now)
            while len(self._sessions) >= self._most:
                del self._sessions[min(self._sessions, key=lambda key: self._sessions[key].seen)]
            self._sessions[_key(token)] = session
        return token, session

    def find(self, token: str | None, *, in_use: bool = True) -> Session | None:
        """The session of a token; None where there is none, or it is over.

        Args:
            in_use: whether a person asks; what a page asks for by itself does not keep a session from ending.
        """
        if not token:
            return None
        with self._lock:
            now = self._clock()
            self._forget_old(now)
            session = self._sessions.get(_key(token))
            if session and in_use:
                session.seen = now
            return session

    def end(self, token: str | None) -> None:
        """Logs one browser out."""
        with self._lock:
            self._sessions.pop(_key(token or ""), None)

    def end_user(self, user: str) -> None:
        """Logs all browsers of somebody out."""
        with self._lock:
            self._sessions = {key: session for key, session in self._sessions.items() if session.user != user}

    def _forget_old(self, now: float) -> None:
        over = [
            key
            for key, session in self._sessions.items()
            if now - session.seen > self._idle or now - session.began > self._longest
        ]
        for key in over:
            del self._sessions[key]


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
