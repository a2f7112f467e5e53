"""The docstrings of this house in the form that Sphinx expects.

In the source they are plain: formulas are indented, shapes are written (*batch, n), and many functions list their
arguments without a heading:

    A function.

        f(y) = max_i y_i

    y: (*batch, n).
    Returns (*batch,).

Here formulas become literal blocks; arguments, results, errors and sources become sections, for napoleon to take from
there; and what reStructuredText would take for markup is escaped.
"""

import inspect
import re
from collections.abc import Collection, Iterator
from dataclasses import is_dataclass
from itertools import chain, groupby
from typing import Any, is_typeddict

HEADING = re.compile(r"(Args|Returns|Raises|Source):$")
ENTRY = re.compile(r"(\w+(?:, \w+)*): ")
NEXT_ENTRY = re.compile(r"(?<=[.;]) (?=\w+: )")
CLOSING = re.compile(r"(Returns|Raises|Source):? +")
ERROR = re.compile(r"(?:^|; )(\w+(?:Error|Exception|Warning)\b(?:, \w+(?:Error|Exception|Warning)\b)*):? ?")
MARKUP = re.compile(r"(`[^`]*`)|([*|]|_(?!\w))")

Piece = tuple[str, str]


def parameters(obj: Any) -> Collection[str]:
    """The names that a docstring may explain one by one; none for a record, which explains its fields in sentences."""
    if is_typeddict(obj):
        return obj.__annotations__
    if not callable(obj) or is_dataclass(obj) or (inspect.isclass(obj) and issubclass(obj, Warning)):
        return ()
    return {*inspect.signature(obj).parameters, "options"}


def google(lines: list[str], names: Collection[str]) -> list[str]:
    """A docstring with Google sections, from one in the style of the house."""
    pieces = (piece for paragraph in paragraphs(lines) for piece in split(paragraph, names))
    out: list[str] = []
    for section, texts in groupby(pieces, key=lambda piece: piece[0]):
        between = "\n\n" if section in ("formula", "text") else "\n"
        body = between.join(text for _, text in texts).split("\n")
        if section != "formula":
            body = [MARKUP.sub(lambda found: found[1] or "\\" + found[2], line) for line in body]
        heading = {"formula": ["::", ""], "text": []}.get(section, [f"{section}:"])
        out += [*heading, *(body if section == "text" else (f"    {line}".rstrip() for line in body)), ""]
    return out


def paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """What stands between empty lines."""
    for empty, block in groupby(lines, key=lambda line: not line.strip()):
        if not empty:
            yield list(block)


def split(paragraph: list[str], names: Collection[str]) -> Iterator[Piece]:
    """A paragraph as (section, text): of a formula, of running text, or of the entries of a section."""
    first, *rest = paragraph
    if first.startswith(" "):
        yield "formula", inspect.cleandoc("\n" + "\n".join(paragraph))
    elif heading := HEADING.match(first):
        yield heading[1], inspect.cleandoc("\n" + "\n".join(rest))
    else:
        for section, text in items(paragraph, names):
            yield from [(section, text)] if section != "Raises" else ((section, error) for error in errors(text))


def items(paragraph: list[str], names: Collection[str]) -> Iterator[Piece]:
    """Entries that stand in the text without a heading, each with the lines that belong to it."""
    section, text = "text", ""
    for line in chain.from_iterable(map(NEXT_ENTRY.split, paragraph)):
        entry, closing = ENTRY.match(line), CLOSING.match(line)
        if entry and set(entry[1].split(", ")) <= set(names):
            begins, begin = "Args", line
        elif closing:
            begins, begin = closing[1], line[closing.end() :]
        elif section == "Args" and not line.startswith(" "):  # what belongs to an entry is indented
            begins, begin = "text", line
        else:
            text = f"{text} {line.strip()}".strip()
            continue
        if text:
            yield section, text
        section, text = begins, begin
    yield section, text


def errors(text: str) -> Iterator[str]:
    """'TypeError for this; ValueError for that' as one line for each."""
    parts = ERROR.split(text)
    yield from (f"{kind}: {why}" for kind, why in zip(parts[1::2], parts[2::2], strict=True))
