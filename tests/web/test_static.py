"""The static files: what is not ours is what we say it is, and nothing asks anybody else for anything."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

STATIC = Path(__file__).parents[2] / "web" / "static"
TEMPLATES = [
    path
    for folder in ("web", "client/pages", "server/dashboard")
    for path in (STATIC.parents[1] / folder).rglob("*.j2")
]
_ROW = re.compile(r"\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|")
_INLINE = re.compile(r"\son[a-z]+=|\sstyle=|<style|javascript:", re.IGNORECASE)


def test_the_vendored_files_are_those_whose_hashes_stand_beside_them():
    rows = dict(_ROW.findall((STATIC / "vendor" / "README.md").read_text(encoding="utf-8")))
    scripts = {path.name for path in (STATIC / "vendor").glob("*.js")}
    assert set(rows) == scripts
    assert len(rows) == 1
    for name, expected in rows.items():
        assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == expected


def test_no_style_script_or_page_of_ours_names_another_host():
    ours = [*STATIC.glob("*"), *TEMPLATES]
    named = {
        path.name: found
        for path in ours
        if path.is_file()
        and (found := re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}", path.read_text(encoding="utf-8")))
    }
    assert {name: found for name, found in named.items() if found != ["http://www.w3.org"]} == {}


def test_no_page_has_a_style_or_a_script_of_its_own_in_it():
    assert len(TEMPLATES) > 10
    assert {
        path.name: found for path in TEMPLATES if (found := _INLINE.findall(path.read_text(encoding="utf-8")))
    } == {}
    scripts = [tag for path in TEMPLATES for tag in re.findall(r"<script[^>]*>", path.read_text(encoding="utf-8"))]
    assert {tag for tag in scripts if "src=" not in tag} <= {'<script type="application/json">'}
