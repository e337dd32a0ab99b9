"""The project's pages and deployment files, and the command lines of ours that stand in them."""

from __future__ import annotations

import argparse
import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import client.cli
import server.cli
import simulations.cli

ROOT = Path(__file__).parents[2]
PROGRAMS = ("pp-server", "pp-client", "pp-sim")
SERVICES = {"platform": "pp-server", "bakery": "pp-client", "florist": "pp-client", "grocer": "pp-client"}
_VARIABLES = {"EPSILON": "3", "DELTA": "1e-5", "DECLARED_CUSTOMERS": "250", "PERIOD_ENDS": "2026-12-31"}
_PROGRAM = (
    re.compile(  # as the word that a line runs: NAME=value, sudo, docker compose exec and a folder may stand before
        r"\s*(?:[A-Z_]+=\S+ )*(?:sudo (?:-u \S+ )?)?(?:docker compose exec (?:-T )?\S+ )?(?:ExecStart=)?(?:[\w./-]*/)?"
        rf"({'|'.join(PROGRAMS)})(?=\s|$)"
    )
)
_OF_COMPOSE_RUN = ("--rm", "--no-TTY")  # its flags without a value; those with one are --volume and --entrypoint


def pages() -> list[Path]:
    """Every page that people read."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def parser_of(program: str) -> argparse.ArgumentParser:
    """The parser that the program itself uses."""
    module = {"pp-server": server.cli, "pp-client": client.cli, "pp-sim": simulations.cli}[program]
    return module._parser()


def code_blocks(page: str) -> Iterator[str]:
    """What a Markdown page shows as code: indented by four spaces, or in a fence with a language. Without, it is a
    drawing."""
    fenced = re.findall(r"^```[a-z]+\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    yield from fenced
    yield from re.findall(r"(?:(?<=\n\n)|\A)((?: {4}.*\n)+)", rest + "\n")


def inline_code(page: str) -> list[str]:
    """The spans between single backticks."""
    without_fences = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", without_fences)]


def command_lines(text: str) -> list[list[str]]:
    """Each call of one of our programs in shell text, program first; those through Docker Compose included."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [words for line in joined.splitlines() for words in _calls(line)]


def _calls(line: str) -> Iterator[list[str]]:
    if (run := re.match(r"\s*docker compose (?:--file \S+ )?run (.*)", line)) is not None:
        words = _words(run[1])
        while words and words[0].startswith("--"):
            if words[0] == "--entrypoint":
                return
            words = words[1:] if words[0] in _OF_COMPOSE_RUN else words[2:]
        services = SERVICES if words[0] in SERVICES else {words[0]: "pp-client"}  # "$name" is a merchant
        yield [services[words[0]], *words[1:]]
    elif (found := _PROGRAM.match(line)) is not None:
        yield [found[1], *_words(line[found.end() :])]


def _words(text: str) -> list[str]:
    """As a shell splits them, up to a pipe, redirection, `&`, `;` or comment; our scripts' variables filled in."""
    for name, value in _VARIABLES.items():
        text = text.replace(f"${name}", value)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = []
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            break
        words.append(word)
    return words


def fault_of_call(words: list[str]) -> str:
    """What the program's own parser says about the call; "" where it takes it."""
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            parser_of(words[0]).parse_args(words[1:])
    except SystemExit as end:
        return said.getvalue().strip().splitlines()[-1] if end.code else ""
    return ""


def fault_of_mention(words: list[str]) -> str:
    """The same for a command that is only named: every word before the first flag that has to be a command is one,
    and every flag is one of it. Arguments may be missing."""
    parser = parser_of(words[0])
    for word in words[1:]:
        commands = _subcommands(parser)
        if word.startswith("--"):
            if word.partition("=")[0] not in parser._option_string_actions:
                return f"{' '.join(words)}: no flag {word}"
        elif commands:
            if word not in commands:
                return f"{' '.join(words)}: no command {word}"
            parser = commands[word]
    return ""


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
