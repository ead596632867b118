"""Finds Python code that could run what it reads, or trust whom it should not. Written for tests."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS_WHAT_IT_READS = frozenset(
    [
        "_pickle",
        "cPickle",
        "cloudpickle",
        "dill",
        "joblib",
        "jsonpickle",
        "marshal",
        "multiprocessing",
        "pickle",
        "pickletools",
        "shelve",
        "yaml",
    ]
)
"""Modules that unpickle, or hand pickles from process to process."""
RUNS_TEXT = frozenset(("eval", "exec", "compile", "__import__"))
FORBIDDEN_CALLS = {
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "asyncio.create_subprocess_shell": "a shell",
    "torch.load": "a pickle",
    "torch.hub.load": "code from elsewhere",
    "runpy.run_path": "code from elsewhere",
    "ssl._create_unverified_context": "no verification",
    "json_format.Parse": "google.protobuf.Any from a caller",
    "json_format.ParseDict": "google.protobuf.Any from a caller",
    "jinja2.Environment": "templates without a sandbox",
    "jinja2.Template": "templates without a sandbox",
}
FORBIDDEN_ARGUMENTS = {
    ("shell", True),
    ("verify", False),
    ("check_hostname", False),
    ("allow_pickle", True),
    ("weights_only", False),
    ("trust_remote_code", True),
    ("use_safetensors", False),
}
NEEDED_ARGUMENTS = {"from_pretrained": {"local_files_only": True, "trust_remote_code": False}}
"""What a call must say, whatever the library's default is today."""


def findings_in(source: str) -> list[str]:
    """What is dangerous in a module's text."""
    return [what for node in ast.walk(ast.parse(source)) for what in _dangers_of(node)]


def _dangers_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (_import(alias.name) for alias in names if _is_dangerous(alias.name))
        case ast.ImportFrom(module=str(module)) if _is_dangerous(module):
            yield _import(module)
        case ast.ImportFrom(module="torch", names=names) if "load" in {alias.name for alias in names}:
            yield "torch.load: a pickle"
        case ast.Attribute(attr="CERT_NONE"):
            yield "ssl.CERT_NONE: no verification"
        case ast.Call():
            yield from _dangers_of_call(node)


def _dangers_of_call(call: ast.Call) -> Iterator[str]:
    name = dotted(call.func)
    if name in RUNS_TEXT:
        yield f"{name}: runs text"
    for forbidden, why in FORBIDDEN_CALLS.items():
        if name == forbidden or name.endswith(f".{forbidden}"):
            yield f"{name}: {why}"
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    for argument, value in FORBIDDEN_ARGUMENTS:
        if argument in given and not _may_not_be(given[argument], value):
            yield f"{name}({argument}={value})"
    for argument, value in NEEDED_ARGUMENTS.get(name.rpartition(".")[2], {}).items():
        if not isinstance(found := given.get(argument), ast.Constant) or found.value is not value:
            yield f"{name} without {argument}={value}"


def dotted(node: ast.expr) -> str:
    """A name with its dots, as far as it is one: of `a.b(c).d`, "?.d"."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{dotted(value)}.{name}"
    return "?"


def _is_dangerous(module: str) -> bool:
    return module.partition(".")[0] in RUNS_WHAT_IT_READS


def _import(module: str) -> str:
    return f"import {module}"


def _may_not_be(node: ast.expr, value: bool) -> bool:
    """Whether an argument is written out as something else than the value."""
    return isinstance(node, ast.Constant) and node.value is not value
