"""Who may import whom, as docs and design draw it. Reads the sources; imports nothing of ours."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ("latticework.lang.ir", "latticework.lang.errors", "latticework.lang.events")

MAY_IMPORT = {  # folder or file -> the modules of ours it may import, with what is below them; longest match counts
    "kernels": ("latticework.kernels",),
    "runtime": (
        "latticework.kernels",
        "latticework.runtime",
        *CONTRACTS,
        "latticework.lang.check",
        "latticework.lang.choices",
        "latticework.lang.passes",
        "latticework.lang.samples",
    ),
    "runtime/cli.py": ("latticework",),  # the command line is a user of all of it
    "runtime/bench.py": ("latticework",),
    "runtime/demo.py": ("latticework",),
    "runtime/terminal.py": ("latticework",),
    "runtime/replaying.py": ("latticework",),
    "lang": ("latticework.lang",),
    "lang/backends": ("latticework.lang", "latticework.runtime"),
    "lang/ir.py": (*CONTRACTS, "latticework.lang.check", "latticework.lang.graph"),  # what programs are asked for
    "lang/graph.py": (*CONTRACTS, "latticework.lang.check"),
    "lang/check.py": CONTRACTS,
    "lang/passes.py": (*CONTRACTS, "latticework.lang.check"),
    "lang/errors.py": CONTRACTS,
    "lang/events.py": CONTRACTS,
    "lang/choices.py": CONTRACTS,
    "lang/samples.py": CONTRACTS,
}

FINDS_THE_PACKAGE = {"runtime/link/child.py", "runtime/constrain/child.py"}  # `import latticework`: where it lies

MAY_IMPORT_TORCH = (
    "kernels",
    "runtime/model",
    "runtime/attention",
    "runtime/device",
    "runtime/sample",
    "runtime/cache/kv.py",
    "runtime/engine.py",
    "runtime/settle.py",
)


def sources() -> list[str]:
    folders = (ROOT / "kernels", ROOT / "runtime", ROOT / "lang")
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Every module imported anywhere in the file; `from a import b` counts as a.b, which may be a module."""
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source} imports relatively"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def inside(name: str, places: tuple[str, ...], separator: str) -> bool:
    return any(name == place or name.startswith(place + separator) for place in places)


@pytest.mark.parametrize("source", sources())
def test_a_file_imports_only_what_its_layer_allows(source: str) -> None:
    layer = max((place for place in MAY_IMPORT if inside(source, (place,), "/")), key=len)
    for module in imported(source):
        if module == "latticework" and source in FINDS_THE_PACKAGE:
            continue
        if module.split(".")[0] == "latticework":
            assert inside(module, MAY_IMPORT[layer], "."), f"{source} imports {module}"


@pytest.mark.parametrize("source", sources())
def test_torch_is_imported_only_where_tensors_live(source: str) -> None:
    if not inside(source, MAY_IMPORT_TORCH, "/"):
        heavy = [module for module in imported(source) if module.split(".")[0] in ("torch", "triton")]
        assert not heavy, f"{source} imports {heavy[0]}"


@pytest.mark.parametrize("source", [source for source in sources() if source.startswith("lang/")])
def test_the_language_imports_no_pydantic(source: str) -> None:
    assert not [module for module in imported(source) if module.split(".")[0] == "pydantic"]


def test_the_layers_have_no_init_of_their_own() -> None:
    assert not [folder for folder in ("lang", "runtime", "kernels") if (ROOT / folder / "__init__.py").exists()]
