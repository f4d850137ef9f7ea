"""Nothing that ships can run code from a wire, a cache or a weight file: read off the syntax tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(
    path for folder in ("lang", "runtime", "kernels", "latticework") for path in (ROOT / folder).rglob("*.py")
)
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
BANNED_ATTRIBUTES = {"recv_pyobj", "send_pyobj", "allow_pickle"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shipped_file_can_run_foreign_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not BANNED_MODULES & {alias.name.split(".")[0] for alias in node.names}, f"line {node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.split(".")[0] not in BANNED_MODULES, f"line {node.lineno}"
            if node.module.split(".")[0] == "jinja2":
                assert not {"Environment", "Template", "SandboxedEnvironment"} & {a.name for a in node.names}
        elif isinstance(node, ast.Call):
            _check_call(node)
        elif isinstance(node, ast.Attribute):
            assert node.attr not in BANNED_ATTRIBUTES, f"line {node.lineno}"


def _check_call(node: ast.Call) -> None:
    if isinstance(node.func, ast.Name):
        assert node.func.id not in BANNED_CALLS, f"line {node.lineno}"
    elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        assert (node.func.value.id, node.func.attr) != ("torch", "load"), f"line {node.lineno}"
    for keyword in node.keywords:
        if keyword.arg == "trust_remote_code":
            assert isinstance(keyword.value, ast.Constant), f"line {node.lineno}"
            assert keyword.value.value is False, f"line {node.lineno}"
