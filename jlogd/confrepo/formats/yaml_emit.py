"""Plain values to YAML that every reader takes for the same, whether it speaks YAML 1.1 or 1.2.

    key: value          text is quoted unless it is a plain word to all versions
    text: |-            several lines, when nothing in them needs an escape
      first
      second
    list:
      - a: 1
        b: 2

The bytes depend on the value only, on no library's version: nodes of one fleet may have several.
"""

import json
import re
from collections.abc import Iterator

from jlogd.confrepo.formats.values import Written
from jlogd.confrepo.formats.yaml_text import OTHERWISE_READ, float_text

# Words that no version gives another meaning, and that no indicator is in.
_WORDS = re.compile(r"[A-Za-z/][A-Za-z0-9_./@%+=~-]*(?: [A-Za-z0-9_./@%+=~-]+)*")
_RESERVED = re.compile(r"(?i:true|false|null|nan|inf)")
# Several lines as a block: printable, the first not indented, at most one newline at the end.
_BLOCK = re.compile(
    r"(?! )[ -~\u00a1-\u2027\u202a-\ud7ff\ue000-\ufdcf\ufdf0-\ufefe\uff00-\ufffd\U00010000-\U0001f9ff\n]*"
)
_ESCAPED = re.compile(r"[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]")
_SIMPLE_KEY_MAX = 1000  # characters; the specification wants 1,024 with everything
_WIDTH = 1000  # of plain text


def emit(value: object) -> bytes:
    """One document, without markers."""
    if isinstance(value, dict | list) and value:
        return ("\n".join(_lines(value, "")) + "\n").encode()
    return (_scalar(value) + "\n").encode()


def _lines(value: object, indent: str) -> Iterator[str]:
    """A map or list that is not empty."""
    if isinstance(value, dict):
        for key, inner in value.items():
            text = _scalar(key)
            head = f"{indent}{text}:" if len(text) <= _SIMPLE_KEY_MAX else f"{indent}? {text}\n{indent}:"
            yield from _entry(head, inner, indent)
    elif isinstance(value, list):
        for inner in value:
            yield from _item(inner, indent)


def _entry(head: str, value: object, indent: str) -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        yield head
        yield from _lines(value, indent + "  ")
    else:
        yield from _after(head, value, indent)


def _item(value: object, indent: str) -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        lines = _lines(value, indent + "  ")
        yield f"{indent}- {next(lines)[len(indent) + 2 :]}"
        yield from lines
    else:
        yield from _after(f"{indent}-", value, indent)


def _after(head: str, value: object, indent: str) -> Iterator[str]:
    """A scalar or something empty behind ``head``."""
    if isinstance(value, str) and not isinstance(value, Written) and _is_block(value):
        yield f"{head} |" if value.endswith("\n") else f"{head} |-"
        yield from (f"{indent}  {line}" if line else "" for line in value.removesuffix("\n").split("\n"))
    else:
        yield f"{head} {_scalar(value)}"


def _is_block(text: str) -> bool:
    return "\n" in text and text[0] != "\n" and not text.endswith("\n\n") and _BLOCK.fullmatch(text) is not None


def _scalar(value: object) -> str:
    if isinstance(value, Written):
        return value.text
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    if isinstance(value, float):
        return float_text(value)
    if isinstance(value, dict | list):
        return "{}" if isinstance(value, dict) else "[]"
    return json.dumps(value)


def _is_plain(text: str) -> bool:
    return (
        len(text) <= _WIDTH
        and _WORDS.fullmatch(text) is not None
        and _RESERVED.fullmatch(text) is None
        and OTHERWISE_READ.fullmatch(text) is None
    )


def _quoted(text: str) -> str:
    escaped = json.dumps(text, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", escaped)
