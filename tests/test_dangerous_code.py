"""No code of ours unpickles, evaluates or executes what it reads; and keys are compared as hashes alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from dangerous_code import dotted, findings_in

ROOT = Path(__file__).parents[1]
FOLDERS = ("cli", "clients/python/src", "engine", "gate", "kernels", "server", "translator")
ALLOWED = {
    # The bench's senders are its own children, and nobody else holds their pipes.
    "cli/load.py: import multiprocessing",
    "cli/load.py: import multiprocessing.connection",
    "cli/load.py: import multiprocessing.context",
    "cli/load.py: import multiprocessing.synchronize",
    # Of a server: its clients need show no certificate.
    "translator/tls.py: ssl.CERT_NONE: no verification",
}
SECRETS = {"api_key", "digest", "key_bytes", "password", "secret", "shown", "token_secret"}


def modules() -> list[Path]:
    return [
        path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "_pb2" not in path.name
    ]


@pytest.mark.check("S06")
def test_nothing_of_ours_runs_what_it_reads() -> None:
    assert len(modules()) > 100
    found = {
        f"{path.relative_to(ROOT)}: {what}" for path in modules() for what in findings_in(path.read_text())
    }
    assert found == ALLOWED


@pytest.mark.check("S06")
@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import os, pickle as p",
        "from multiprocessing.connection import Client",
        "import yaml; yaml.safe_load(text)",
        "def f():\n    from cloudpickle import loads",
        "eval(text)",
        "exec(compile(text, 'name', 'exec'))",
        "__import__(name)",
        "import torch; torch.load(path)",
        "torch.load(path, weights_only=False)",
        "from torch import load",
        "numpy.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=wanted)",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
        "await asyncio.create_subprocess_shell(command)",
        "httpx.get(url, verify=False)",
        "context.verify_mode = ssl.CERT_NONE",
        "AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=True)",
        "AutoConfig.from_pretrained(folder, trust_remote_code=False)",
        "AutoTokenizer.from_pretrained(folder, local_files_only=True)",
        "AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=False)",
        "google.protobuf.json_format.ParseDict(body, message)",
        "jinja2.Environment().from_string(text)",
    ],
)
def test_the_search_finds_it(code: str) -> None:
    assert findings_in(code)


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "re.compile(pattern)",
        "subprocess.run(command, check=True)",
        "httpx.get(url, verify=True)",
        "json.load(file)",
        "jinja2.sandbox.ImmutableSandboxedEnvironment()",
        "AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)",
    ],
)
def test_the_search_finds_nothing_where_nothing_is(code: str) -> None:
    assert not findings_in(code)


def comparisons_of_secrets(source: str) -> list[str]:
    """Where a secret is compared by == or `in`, whose time tells how much of it was right."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for operator in node.ops)
        and any(_last_name(operand) in SECRETS for operand in (node.left, *node.comparators))
    ]


def _last_name(node: ast.expr) -> str:
    return dotted(node).rpartition(".")[2]


def comparing_calls(source: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and _last_name(node.func) == "compare_digest"
    ]


@pytest.mark.check("S04")
def test_keys_are_compared_as_hashes_alone_and_in_one_place() -> None:
    calls = {path: comparing_calls(path.read_text()) for path in modules()}
    (only,) = (path for path, found in calls.items() if found)
    assert only == ROOT / "gate" / "key_ring.py"
    for call in calls[only]:
        assert [_last_name(argument) for argument in call.args] == ["digest", "digest"]
    assert not [found for path in modules() for found in comparisons_of_secrets(path.read_text())]


@pytest.mark.check("S04")
@pytest.mark.parametrize("code", ["secret == given", "given != key.digest", "self.api_key in keys"])
def test_a_comparison_that_takes_its_time_is_found(code: str) -> None:
    assert comparisons_of_secrets(code)
