"""Latticework: structured generation, from a Python function down to the kernels.

    import latticework as lw

Importing this loads the language only: no torch, no model, no sockets. `Runtime`, `connect` and `Engine` are
loaded when they are first used.
"""

import os
from typing import TYPE_CHECKING, Any

# lang/, runtime/ and kernels/ are linked into this folder. A checkout that lost its links (some archives, Windows)
# finds them one level up.
if not os.path.isdir(os.path.join(__path__[0], "lang")):
    __path__.append(os.path.dirname(__path__[0]))

from latticework.lang.api import (
    assistant,
    assistant_begin,
    assistant_end,
    gen,
    gen_int,
    gen_string,
    image,
    select,
    system,
    system_begin,
    system_end,
    user,
    user_begin,
    user_end,
    video,
)
from latticework.lang.asynchronous import AsyncBranches, AsyncState
from latticework.lang.backends.default import flush_cache, get_server_info, global_config, set_default_backend
from latticework.lang.choices import (
    greedy_token_selection,
    probability,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from latticework.lang.comparing import Difference
from latticework.lang.compiled import CompiledProgram
from latticework.lang.errors import (
    AddressInUse,
    BrokenModel,
    BudgetTooSmall,
    Busy,
    Cancelled,
    ConnectionLost,
    ConstraintError,
    DeadlineExceeded,
    EngineDied,
    GrammarError,
    InvalidArgument,
    InvalidValue,
    LatticeworkError,
    LimitExceeded,
    ModelError,
    ModelNotFound,
    NeedsValue,
    ProgramError,
    PromptTooLong,
    QuotaExceeded,
    RegexError,
    RuntimeFailure,
    SchemaError,
    UnknownVariable,
    Unsupported,
    UnsupportedModel,
)
from latticework.lang.function import Function, function
from latticework.lang.ir import After, Choices, Gbnf, JsonSchema, Lark, Program, Regex, Sampling, Tag, Triggered
from latticework.lang.reasoning import separate_reasoning
from latticework.lang.replay import Replayed, replay
from latticework.lang.state import Branches, State

if TYPE_CHECKING:
    from latticework.lang.backends.offline import Engine, Result
    from latticework.lang.backends.openai import OpenAI
    from latticework.lang.backends.runtime import Runtime, RuntimeEndpoint, connect
    from latticework.lang.backends.scripted import Scripted
    from latticework.lang.show import show_program, show_replayed, show_run

__all__ = [
    "AddressInUse",
    "After",
    "AsyncBranches",
    "AsyncState",
    "Branches",
    "BrokenModel",
    "BudgetTooSmall",
    "Busy",
    "Cancelled",
    "Choices",
    "CompiledProgram",
    "ConnectionLost",
    "ConstraintError",
    "DeadlineExceeded",
    "Difference",
    "Engine",
    "EngineDied",
    "Function",
    "Gbnf",
    "GrammarError",
    "InvalidArgument",
    "InvalidValue",
    "JsonSchema",
    "Lark",
    "LatticeworkError",
    "LimitExceeded",
    "ModelError",
    "ModelNotFound",
    "NeedsValue",
    "OpenAI",
    "Program",
    "ProgramError",
    "PromptTooLong",
    "QuotaExceeded",
    "Regex",
    "RegexError",
    "Replayed",
    "Result",
    "Runtime",
    "RuntimeEndpoint",
    "RuntimeFailure",
    "Sampling",
    "SchemaError",
    "Scripted",
    "State",
    "Tag",
    "Triggered",
    "UnknownVariable",
    "Unsupported",
    "UnsupportedModel",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "connect",
    "flush_cache",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_info",
    "global_config",
    "greedy_token_selection",
    "image",
    "probability",
    "replay",
    "select",
    "separate_reasoning",
    "set_default_backend",
    "show_program",
    "show_replayed",
    "show_run",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
    "video",
]

_LAZY = {
    "Engine": "latticework.lang.backends.offline",
    "OpenAI": "latticework.lang.backends.openai",
    "Result": "latticework.lang.backends.offline",
    "Runtime": "latticework.lang.backends.runtime",
    "RuntimeEndpoint": "latticework.lang.backends.runtime",
    "connect": "latticework.lang.backends.runtime",
    "Scripted": "latticework.lang.backends.scripted",
    "show_program": "latticework.lang.show",
    "show_replayed": "latticework.lang.show",
    "show_run": "latticework.lang.show",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'latticework' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
