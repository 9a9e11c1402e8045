"""Several modules of this project as one file that imports none of them.

1. From the roots, which travel whole, what they name is collected across modules: top-level definitions as they stand
   in the sources, and of classes the methods that something collected names. `__post_init__`, which checks a config,
   stays behind.
2. Modules are laid behind those they import, each under a comment that says where it is from.
3. Imports of the project go; what was imported under another name (`as`), or is replaced, is called by its own.

What has no place in one file is told: a module imported whole, a name that two modules define or none does.
"""

import ast
import functools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

PROJECT = "mfa_train"
LEFT_BEHIND = "__post_init__"


class CannotTravel(Exception):
    """What a module does that one file has no place for: found by the tests of every variant."""


class Place(NamedTuple):
    """Of a definition."""

    module: str
    name: str


@dataclass(frozen=True, eq=False)
class Module:
    """A source file, read and not run."""

    name: str
    lines: list[str]
    docstring: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    """By name, in their order: the statement, and the docstring behind an assignment."""
    ours: dict[str, Place] = field(default_factory=dict)
    """What it imports of the project, by the name it has here."""
    others: dict[str, str] = field(default_factory=dict)
    """The line that imports a name of another package."""


@functools.cache
def read(name: str) -> Module:
    """The project's module of this name."""
    text = Path(_origin(name)).read_text(encoding="utf-8")
    tree = ast.parse(text)
    module = Module(name, text.splitlines(), ast.get_docstring(tree) or "")
    behind: list[ast.stmt] = []
    for statement in tree.body:
        match statement:
            case ast.ImportFrom(names=aliases, module=source):
                for alias in aliases:
                    if str(source).split(".")[0] == PROJECT:
                        module.ours[alias.asname or alias.name] = Place(str(source), alias.name)
                    else:
                        module.others[alias.asname or alias.name] = f"from {source} import {ast.unparse(alias)}"
            case ast.Import(names=aliases):
                module.others.update({alias.asname or alias.name: f"import {ast.unparse(alias)}" for alias in aliases})
            case ast.Expr():
                behind.append(statement)
            case _:
                behind = [statement]
                module.definitions.update(dict.fromkeys(_bound(statement), behind))
    return module


def source(module: str) -> str:
    """The text of one module, as it is, without its docstring."""
    text = Path(_origin(module)).read_text(encoding="utf-8")
    return _without_orders("".join(text.splitlines(keepends=True)[ast.parse(text).body[0].end_lineno :]).lstrip("\n"))


def bundle(roots: Sequence[str], instead: Mapping[Place, Place | str], beside: Mapping[str, str]) -> str:
    """The text of the modules `roots` with all that they need.

    `instead`: what stands in the place of a definition, another one or a name that is there anyway. `beside`: modules
    that lie beside the file, by their names there. Raises CannotTravel.
    """
    collected = _Collected(roots, instead, beside)
    order: list[str] = []
    for root in roots:
        collected.lay(root, order)
    return "\n\n\n".join([collected.imports(), *(collected.text(read(module)) for module in order)]) + "\n"


class _Collected:
    """What travels."""

    def __init__(self, roots: Sequence[str], instead: Mapping[Place, Place | str], beside: Mapping[str, str]):
        self.roots, self.instead, self.beside = roots, instead, beside
        self.places = dict.fromkeys(Place(root, name) for root in roots for name in read(root).definitions)
        """In the order in which they were found."""
        self.named: set[str] = set()
        """Every name, attribute and keyword in what travels."""
        self.needed: dict[str, set[str]] = {}
        """The modules that each module needs."""
        self.lines: dict[str, str] = {}
        """Imports, by the name they bind."""
        known = -1
        while known != (known := len(self.places) + len(self.named)):
            for place in list(self.places):
                for statement in read(place.module).definitions[place.name]:
                    for node in self._kept(statement, read(place.module)):
                        self._meet(node, read(place.module))

    def lay(self, module: str, order: list[str], needing: tuple[str, ...] = ()) -> None:
        """Appends the modules that `module` needs, then itself."""
        if module in needing:
            raise CannotTravel(f"{' → '.join([*needing, module])}: a circle")
        if module not in order:
            for needed in sorted(self.needed.get(module, set()) - {module}):
                self.lay(needed, order, (*needing, module))
            order.append(module)

    def imports(self) -> str:
        """Of other packages: the standard library's, others', and what lies beside the file."""
        modules = sorted({line for line in self.lines.values() if line.startswith("import ")})
        names: dict[str, set[str]] = {}
        for line in self.lines.values():
            if line.startswith("from "):
                _, source, _, name = line.split(" ", 3)
                names.setdefault(source, set()).add(name)
        modules += [f"from {source} import {', '.join(sorted(found))}" for source, found in sorted(names.items())]
        groups: list[list[str]] = [[], [], []]
        for line in modules:
            source = line.split(" ")[1]
            groups[2 if source[0] == "." else source.split(".")[0] not in sys.stdlib_module_names].append(line)
        return "\n\n".join("\n".join(group) for group in groups if group)

    def text(self, module: Module) -> str:
        """What travels of a module, under a comment of where it is from and what it says of itself."""
        says = ["{}.py".format(module.name.replace(".", "/")), "", *module.docstring.splitlines()]
        comment = "\n".join(f"# {line}".rstrip() for line in says)
        pieces, before = [comment], None
        for name, statements in module.definitions.items():
            if Place(module.name, name) in self.places and statements is not before:
                pieces.append(self._as_written(statements, module))
                before = statements
        return "\n\n".join([pieces[0], "\n\n\n".join(pieces[1:])]) if len(pieces) > 1 else comment

    def _resolved(self, place: Place) -> Place | str:
        """Where the definition stands: re-exports followed, replacements made."""
        while (found := self.instead.get(place)) is not None or place.module not in self.beside:
            if isinstance(found, str):
                return found
            if found is None:
                module = read(place.module)
                if place.name in module.definitions:
                    return place
                if place.name not in module.ours:
                    raise CannotTravel(f"{place.module} defines no {place.name} that could be taken alone")
                found = module.ours[place.name]
            place = found
        return place

    def _meet(self, node: ast.AST, module: Module) -> None:
        match node:
            case ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                self.named.add(name)
            case ast.Name(id=name):
                self.named.add(name)
                if name in module.others:
                    self._import(name, module.others[name], module)
                elif name in module.definitions:
                    self._add(Place(module.name, name), module)
                elif name in module.ours and isinstance(found := self._resolved(Place(module.name, name)), Place):
                    self._add(found, module)
            case ast.Import() | ast.ImportFrom():
                raise CannotTravel(f"{module.name} imports within a function (line {node.lineno})")

    def _add(self, place: Place, needing: Module) -> None:
        if place.module in self.beside:
            self._import(place.name, f"from .{self.beside[place.module]} import {place.name}", needing)
            return
        self.needed.setdefault(needing.name, set()).add(place.module)
        if twin := next((one for one in self.places if one.name == place.name and one.module != place.module), None):
            raise CannotTravel(f"{twin.module} and {place.module} both define {place.name}: rename one")
        self.places[place] = None

    def _import(self, name: str, line: str, needing: Module) -> None:
        if self.lines.setdefault(name, line) != line:
            raise CannotTravel(f"{needing.name} has `{line}` where another module has `{self.lines[name]}`")

    def _kept(self, statement: ast.stmt, module: Module) -> Iterator[ast.AST]:
        """The nodes of what travels of a definition."""
        left = {id(one) for one in self._left(statement, module)}
        waiting: list[ast.AST] = [statement]
        while waiting:
            node = waiting.pop()
            if id(node) not in left:
                yield node
                waiting.extend(ast.iter_child_nodes(node))

    def _left(self, statement: ast.stmt, module: Module) -> Iterator[ast.stmt]:
        """What stays behind of a class and the classes in it: methods and constants that nothing names."""
        if not isinstance(statement, ast.ClassDef) or module.name in self.roots:
            return
        for inner, behind in zip(statement.body, [*statement.body[1:], None]):
            match inner:
                case ast.FunctionDef(name=name):
                    special = re.fullmatch("__.*__|forward", name) and name != LEFT_BEHIND
                    travels = special or name in self.named
                case ast.AnnAssign(target=ast.Name(id=name), annotation=kind):
                    travels = name in self.named or not ast.unparse(kind).startswith("ClassVar")
                case _:
                    travels = True
            if travels:
                yield from self._left(inner, module)
                continue
            yield inner
            if isinstance(behind, ast.Expr):
                yield behind

    def _as_written(self, statements: list[ast.stmt], module: Module) -> str:
        """The definition's own lines, without what stays behind."""
        first, last = _first_line(statements[0]), _last_line(statements[-1])
        lines = dict(enumerate(module.lines[first - 1 : last], start=first))
        for statement in statements:
            names = [node for node in self._kept(statement, module) if isinstance(node, ast.Name)]
            for name in sorted(names, key=lambda name: name.col_offset, reverse=True):
                line = lines[name.lineno].encode()  # columns count bytes
                line = line[: name.col_offset] + self._called(name.id, module).encode() + line[name.end_col_offset :]
                lines[name.lineno] = line.decode()
            for gone in self._left(statement, module):
                start = _first_line(gone)
                while not lines.get(start - 1, "").strip() or lines[start - 1].lstrip().startswith("#"):
                    start -= 1  # with the space and the comments in front
                for number in range(start, _last_line(gone) + 1):
                    lines.pop(number, None)
            for node in self._kept(statement, module):
                if isinstance(node, ast.ClassDef) and not any(_first_line(one) in lines for one in node.body):
                    lines[_first_line(node.body[0])] = " " * node.body[0].col_offset + "pass"
        return _without_orders("\n".join(lines[number] for number in sorted(lines)))

    def _called(self, name: str, module: Module) -> str:
        """There, what the module calls `name`."""
        if name in module.definitions or name not in module.ours:
            return name
        found = self._resolved(Place(module.name, name))
        return found if isinstance(found, str) else found.name


def _without_orders(text: str) -> str:
    """Without what is said to mypy."""
    return re.sub(" +# type: ignore.*", "", text)


def _origin(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module
    return spec.origin


def _first_line(statement: ast.stmt) -> int:
    return min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", ()))])


def _last_line(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno


def _bound(statement: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return []
