"""YAML files, of people and of runs, as plain data: within a bounded size and depth, no tags that make objects. What is
wrong with one is said in a line, with the file and the line in it."""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from mfa_train.archive import AnyPath
from mfa_train.config.quantities import MOST_DIGITS
from mfa_train.errors import ConfigError
from mfa_train.words import first_line

MOST_BYTES = 4 * 2**20
MOST_DEPTH = 50
MOST_NODES = 100_000
"""With every alias spelled out."""
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq", "merge", "value")}
FLOAT = re.compile(
    r"""[-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+(?:_[0-9]+)*[eE][-+]?[0-9]+
                       |[-+]?\.[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)""",
    re.X,
)
INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)")
NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class _Loader(yaml.CSafeLoader):
    """`1e-4` is a number, as in YAML 1.2; `2026-11-28`, `24:00:00` and `007` are text."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would take for a number."""

    def text(self, value: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", value, style='"' if NOT_SHOWN.search(value) else None)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if not tag.endswith((":float", ":int", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^(?:{INT.pattern})$"), list("-+0123456789"))
for one in (_Loader, _Dumper):
    one.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(f"^(?:{FLOAT.pattern})$", re.X), list("-+0123456789.")
    )
_Dumper.add_representer(str, _Dumper.text)


def to_yaml(tree: dict) -> str:
    """Plain data as text that `read_yaml` gives back exactly."""
    return yaml.dump(
        tree, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False, width=math.inf
    )


def read_yaml(path: AnyPath) -> dict:
    """The mapping in the file; empty where the file is. Raises ConfigError, naming file and line."""
    try:
        node = _composed(text := _text(path))
        if node is not None and not isinstance(node, yaml.MappingNode):
            what = "a list" if isinstance(node, yaml.SequenceNode) else "text"
            raise _Wrong(node.start_mark.line + 1, f"{what}, where keys with values are expected, as `seed: 1`")
        return {} if node is None else _constructed(node)
    except _Wrong as wrong:
        line, problem = wrong.args
    except OSError as error:
        line, problem = 0, f"cannot be read ({error.strerror})"
    except yaml.reader.ReaderError as error:  # counts characters
        line = text.count("\n", 0, error.position) + 1
        problem = f"the character {error.character!r}, which no text file holds"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, problem = mark.line + 1, _said(error, text.split("\n"), mark)
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # a number that is none, as 0x_
        line, problem = 0, first_line(error)
    raise ConfigError(f"{shown(path)}{f', line {line}' if line else ''}: {problem}")


def read_value(text: str) -> Any:
    """What `read_yaml` makes of a value that stands in a file as `text`; the text itself where it can't be read."""
    try:
        node = _composed(text)
        return text if node is None else _constructed(node)
    except (_Wrong, ValueError, RecursionError, yaml.YAMLError):
        return text


def shown(path: AnyPath) -> AnyPath:
    """As a person at this folder would type it."""
    return path.relative_to(Path.cwd()) if isinstance(path, Path) and path.is_relative_to(Path.cwd()) else path


def line_of(path: Path, keys: list[str]) -> int | None:
    """The line where a file that `read_yaml` reads has the value of nested `keys`, or the first of them that it has
    alone; None where it has not even the first."""
    node, line = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader), None
    for place, key in enumerate(keys):
        named = (key, ".".join(keys[place:]))
        found = [pair for pair in node.value if pair[0].value in named] if isinstance(node, yaml.MappingNode) else []
        if not found:
            return line if line and not isinstance(node, yaml.MappingNode) else None
        line, node = found[0][0].start_mark.line + 1, found[0][1]
        if found[0][0].value != key:  # with dots in it
            break
    return line


class _Wrong(Exception):
    """`(line, problem)`; line 0: of the file as a whole."""


def _text(path: AnyPath) -> str:
    if path.is_dir():
        raise _Wrong(0, "a folder, where a file is expected")
    if not path.is_file():
        raise _Wrong(0, "no file" if path.exists() else "no such file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise _Wrong(0, f"larger than {MOST_BYTES // 2**20} MiB")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Wrong(1, "saved as UTF-16; save it as UTF-8")
    if content.startswith(b"\xef\xbb\xbf"):
        raise _Wrong(1, "it begins with a byte order mark; save it as UTF-8 without one")
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise _Wrong(
            content.count(b"\n", 0, error.start) + 1,
            f"the byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8",
        ) from None


def _composed(text: str) -> yaml.Node | None:
    _check_depth(text)
    node = yaml.compose(text, Loader=_Loader)
    if node is not None:
        _size(node, {})
    return node


def _constructed(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_depth(text: str) -> None:
    """Before anything is built, as what builds it recurses."""
    depth = 0
    for events, event in enumerate(yaml.parse(text, Loader=_Loader), start=1):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH or events > 2 * MOST_NODES:
            much = f"nested more than {MOST_DEPTH} deep" if depth > MOST_DEPTH else f"more than {MOST_NODES:,} values"
            raise _Wrong(event.start_mark.line + 1, much)


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """How many nodes it is with every alias spelled out; each is checked once."""
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = math.inf  # an alias within itself
    line = node.start_mark.line + 1
    if node.tag not in TAGS:
        raise _Wrong(
            line, f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not read here; write plain values"
        )
    if isinstance(node, yaml.ScalarNode):
        if node.tag.endswith((":int", ":float")) and len(node.value) > MOST_DIGITS:
            raise _Wrong(line, f"a number of {len(node.value):,} digits")
        children = []
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, _ in node.value:
            if (named := (key.tag, str(key.value))) in seen and not key.tag.endswith(":merge"):
                raise _Wrong(
                    key.start_mark.line + 1, f"the key {key.value} stands twice in one mapping; remove one of them"
                )
            seen.add(named)
        children = [one for pair in node.value for one in pair]
    else:
        children = node.value
    size = 1 + sum(_size(child, sizes) for child in children)
    if size > MOST_NODES:
        raise _Wrong(line, f"its aliases make more than {MOST_NODES:,} values")
    sizes[id(node)] = size
    return size


def _said(error: yaml.MarkedYAMLError, lines: list[str], mark: yaml.Mark) -> str:
    """What the parser says, or what most likely is the matter."""
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "a tab where YAML wants spaces"
    opened = error.context_mark
    since = f" (what begins in line {opened.line + 1})" if opened and opened.line != mark.line else ""
    return f"{error.context + ', ' if error.context else ''}{error.problem}{since}"
