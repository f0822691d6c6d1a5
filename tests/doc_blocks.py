"""Fenced blocks of a Markdown page: how each is run, and how the output that is shown is compared.

The language of a block says what it is: `bash` and `python` are run, `output` is what the block before wrote
to standard output (`...` stands for any text), `text` is not code, and a block with a title, of any language,
is the file of that name. Comments that readers do not see say the rest:

    <!-- invisible-code-block: bash ... -->   a block that sets the scene
    <!-- skip: next "needs a GPU" -->         the next block is not run; `test_docs.py` lists the reasons
    <!-- exit-status: 1 -->                   the next block's exit status, where it is not 0
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import SkipTest

from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, RawFencedCodeBlockLexer

INFO = re.compile(r'(?P<language>[^\n]*?)(?: title="(?P<title>[^"]+)")?[ \t]*\n')
FENCED = RawFencedCodeBlockLexer(INFO)
HIDDEN = DirectiveInHTMLCommentLexer("invisible-code-block", r"(?:bash|python)")
EXIT_STATUS = DirectiveInHTMLCommentLexer("exit-status", r"\d+")
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PREAMBLE = """
pip() { test "$1" = install; }  # pages are run where everything is installed; .ci/run installs
"""


def run_page(page: Path) -> None:
    """Run the blocks of a page in order, in the working folder, but for those that it says to skip."""
    for example in Document.parse(str(page), blocks, SkipParser(), exit_statuses).examples():
        with contextlib.suppress(SkipTest):
            example.evaluate()


def blocks(document: Document) -> Iterator[Region]:
    for region in FENCED(document):
        language, title = region.lexemes["language"], region.lexemes["title"]
        evaluate = partial(write, name=title) if title else EVALUATORS.get(language)
        if evaluate is None:
            line = document.text.count("\n", 0, region.start) + 1
            allowed = ", ".join(sorted(EVALUATORS))
            raise ValueError(f"{document.path}:{line}: language must be one of {allowed}, got {language!r}")
        yield Region(region.start, region.end, region.lexemes["source"], evaluate)
    for region in HIDDEN(document):
        evaluate = EVALUATORS[region.lexemes["arguments"]]
        yield Region(region.start, region.end, region.lexemes["source"], evaluate)


def exit_statuses(document: Document) -> Iterator[Region]:
    for region in EXIT_STATUS(document):
        yield Region(region.start, region.end, int(region.lexemes["arguments"]), expect_status)


def expect_status(example: Example) -> None:
    example.document.namespace["exit_status"] = example.parsed


def write(example: Example, name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(example.parsed, encoding="utf-8")


def run_bash(example: Example) -> str | None:
    expected = example.namespace.pop("exit_status", 0)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", PREAMBLE + example.parsed],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        text=True,
        check=False,
    )
    example.namespace["printed"] = done.stdout
    if done.returncode != expected:
        printed = f"{done.stdout}\n{done.stderr[-3000:]}"
        return f"{example.parsed}\nexit status {done.returncode}, not {expected}:\n{printed}"
    return None


def run_python(example: Example) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        PythonEvaluator()(example)
    example.namespace["printed"] = printed.getvalue()


def compare(example: Example) -> str | None:
    printed = example.namespace["printed"]
    if doctest.OutputChecker().check_output(example.parsed, printed, SAME):
        return None
    return f"shown:\n{example.parsed}\nprinted:\n{printed}"


def leave(example: Example) -> None:
    """Not code."""


EVALUATORS: dict[str, Callable[[Example], str | None]] = {
    "bash": run_bash,
    "python": run_python,
    "output": compare,
    "text": leave,
}
