"""A real browser that watches what a page does: its console, broken security rules, requests to others, axe-core."""

from __future__ import annotations

import base64
import hashlib
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
DESKTOP, PHONE = (1280, 900), (360, 740)
LOCALES = {"en": "en-GB", "zh": "zh-CN"}
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-extensions", "--disable-default-apps"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no name is ever looked up
)
_WATCH = """document.addEventListener("securitypolicyviolation", (event) => {
  ppViolation(`${event.violatedDirective} at ${event.sourceFile}:${event.lineNumber} ${event.sample}`);
});"""
_PAINTED = """new Promise((done) => new PerformanceObserver((list) => {
  for (const paint of list.getEntriesByName("first-contentful-paint")) done(paint.startTime);
}).observe({ type: "paint", buffered: true }))"""
_ALL_DRAWN = (
    """() => [...document.querySelectorAll("figure.chart:has(script) .canvas")].every((each) => each.dataset.drawn)"""
)
_SERIOUS = ("serious", "critical")


@contextmanager
def running_chromium(*, authority: bytes | None = None) -> Iterator[Browser]:
    """Debian's Chromium, headless; the test is skipped, and says why, where there is none.

    Playwright's loop runs in this thread while the block does: a server under test needs a thread or a process.

    Args:
        authority: PEM of one that it trusts beside those of the world; servers have to send it with their own.
    """
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; install it with: apt-get install chromium")
    with sync_playwright() as playwright:
        trusted = [_trusting(authority)] if authority else []
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=[*_ARGUMENTS, *trusted])
        try:
            yield browser
        finally:
            browser.close()


@dataclass(kw_only=True)
class WatchedPage:
    """A page of one site, and all that it did and should not have.

    Attributes:
        origin: "http://127.0.0.1:8480"; everything else is another host.
        script: whether scripts run at all.
        console: errors and warnings of the console, and errors that no script caught.
        violations: of the Content-Security-Policy.
        strangers: addresses elsewhere that were asked for.
    """

    page: Page
    origin: str
    script: bool = True
    console: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def goto(self, path: str) -> Page:
        """Opens a path of the site, and waits until its scripts have run and its figures are drawn."""
        self.page.goto(self.origin + path, wait_until="load")
        if self.script:
            self.page.wait_for_function(_ALL_DRAWN)
        return self.page

    @property
    def faults(self) -> list[str]:
        """All of them, with what they are; empty where all is well."""
        named = {"console": self.console, "policy": self.violations, "request to": self.strangers}
        return [f"{name}: {each}" for name, found in named.items() for each in found]

    def axe(self) -> list[str]:
        """What axe-core finds serious or critical on the page as it is now: rule, places and what is wrong."""
        answer: dict[str, Any] = _evaluate(self.page, f"{AXE_SCRIPT};axe.run({{resultTypes: ['violations']}})")
        return [
            f"{found['id']} ({found['impact']}): {node['target']} {node.get('failureSummary', '')}"
            for found in answer["violations"]
            if found["impact"] in _SERIOUS
            for node in found["nodes"]
        ]

    def sideways(self) -> int:
        """How many pixels the page as a whole can be scrolled to the side; 0 as it should be."""
        return int(_evaluate(self.page, "document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def tab_stops(self, *, most: int = 200) -> list[str]:
        """What the Tab key reaches from the top of the page, as it is announced; "NO FOCUS SEEN: " goes before what
        shows no outline."""
        found: list[str] = []
        self.page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
        for _ in range(most):
            self.page.keyboard.press("Tab")
            stop = _evaluate(self.page, _STOP)
            if stop is None:
                return found
            found.append(stop)
        raise AssertionError(f"Tab did not come to an end of the page within {most} stops: {found[-5:]}")

    def first_paint(self, path: str, *, below: float, seconds: float = 60.0) -> float:
        """Milliseconds until something of the page is seen: the median of seven loads, the first with nothing kept.

        While it is not below `below`, others may be using the machine: for so many seconds it is loaded again, and the
        newest seven count.
        """
        loads, end = [self._painted(path) for _ in range(7)], time.monotonic() + seconds
        while statistics.median(loads[-7:]) >= below and time.monotonic() < end:
            loads.append(self._painted(path))
        return statistics.median(loads[-7:])

    def _painted(self, path: str) -> float:
        return float(_evaluate(self.goto(path), _PAINTED))

    def shot(self, path: Path) -> None:
        """Writes a picture of the whole page."""
        self.page.screenshot(path=str(path), full_page=True)


@contextmanager
def watched_page(
    browser: Browser,
    origin: str,
    *,
    language: Literal["en", "zh"] = "en",
    dark: bool = False,
    size: tuple[int, int] = DESKTOP,
    script: bool = True,
    cookies: dict[str, str] | None = None,
) -> Iterator[WatchedPage]:
    """A browser of its own kind: language, colour scheme and size as asked, no motion; `script` may be switched off."""
    context = browser.new_context(
        locale=LOCALES[language],
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        viewport={"width": size[0], "height": size[1]},
        java_script_enabled=script,
        accept_downloads=True,
    )
    context.set_default_timeout(15_000)
    try:
        if cookies:
            context.add_cookies([{"name": name, "value": value, "url": origin} for name, value in cookies.items()])
        page = context.new_page()
        watched = WatchedPage(page=page, origin=origin, script=script)
        context.expose_binding("ppViolation", lambda _, text: watched.violations.append(text))
        context.add_init_script(_WATCH)
        page.on(
            "console",
            lambda said: watched.console.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: watched.console.append(str(error)))
        page.on("request", lambda asked: watched.strangers.append(asked.url) if _elsewhere(asked.url, origin) else None)
        yield watched
    finally:
        context.close()


_STOP = """(() => {
  const at = document.activeElement;
  if (!at || at === document.body || at === document.documentElement) return null;
  const style = getComputedStyle(at);
  const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 && at.getClientRects().length > 0;
  const name = at.getAttribute("aria-label") || at.innerText || at.value || at.name || at.id || at.tagName;
  return (seen ? "" : "NO FOCUS SEEN: ") + at.tagName.toLowerCase() + " " + name.trim().slice(0, 60);
})()"""


def _trusting(authority: bytes) -> str:
    key = x509.load_pem_x509_certificate(authority).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"


def _evaluate(page: Page, expression: str) -> Any:
    """The value of an expression, which may be long and use `eval`: a debugger's right, whatever the page's policy."""
    session = page.context.new_cdp_session(page)
    try:
        answer = session.send(
            "Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True}
        )
    finally:
        session.detach()
    if "exceptionDetails" in answer:
        raise AssertionError(f"the page's script failed: {answer['exceptionDetails']['text']}")
    return answer["result"].get("value")


def _elsewhere(address: str, origin: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme not in ("data", "blob", "about") and f"{parts.scheme}://{parts.netloc}" != origin
