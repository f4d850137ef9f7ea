"""What `import latticework` costs and offers."""

import json
import subprocess
import sys
from pathlib import Path

import latticework as lw

ROOT = Path(__file__).resolve().parent.parent


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running `code`."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_loads_no_model_library_no_socket_and_no_pydantic() -> None:
    loaded = modules_after("import latticework")
    heavy = {"torch", "transformers", "tokenizers", "numpy", "pydantic", "zmq", "rich", "fastapi", "triton", "lark"}
    assert not loaded & heavy


def test_the_folders_are_known_only_under_the_packages_name() -> None:
    loaded = modules_after(
        "import latticework as lw, latticework.lang.show, latticework.lang.backends.scripted\n"
        "import latticework.runtime.request\n"
    )
    assert not loaded & {"lang", "runtime", "kernels"}
    assert "latticework.lang.state" in loaded


def test_a_whole_program_on_the_scripted_backend_needs_no_model_library() -> None:
    loaded = modules_after(
        "import latticework as lw, dataclasses\n"
        "@dataclasses.dataclass\n"
        "class P: x: int\n"
        "@lw.function\n"
        "def f(s):\n"
        "    s += lw.user('hi') + lw.gen('p', schema=P)\n"
        "with lw.Scripted({'p': '{\"x\":1}'}) as backend:\n"
        "    assert f.run(backend=backend).value('p') == P(1)\n"
    )
    assert not loaded & {"torch", "transformers", "tokenizers", "numpy", "pydantic", "zmq"}


def test_every_public_name_is_there_once_and_sorted() -> None:
    assert lw.__all__ == sorted(set(lw.__all__))
    assert dir(lw) == lw.__all__
    for name in lw.__all__:
        assert getattr(lw, name) is not None


def test_every_error_is_public() -> None:
    from latticework.lang import errors

    found = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)} - {"ErrorData"}
    assert found <= set(lw.__all__)
