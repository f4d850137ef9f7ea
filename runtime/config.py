"""Every setting, once. The command line, the docs table and the child processes' start message derive from here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from latticework.lang.errors import InvalidArgument

DEFAULT_MODEL = "smollm2"

AtLeastOne = Annotated[int, Meta(ge=1)]


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the engine process needs to know."""

    model: Annotated[str, Meta(description="'smollm2', 'tiny', a folder, a .gguf file or a hub id")] = DEFAULT_MODEL
    load_format: Annotated[
        Literal["auto", "dummy"],
        Meta(
            description="auto: the model's files; dummy: random weights of a shape, which `model` names: a folder with "
            "a config.json, llama-3.1-8b or qwen3-0.6b"
        ),
    ] = "auto"
    device: Annotated[
        str,
        Meta(
            description="auto, cpu, cuda or cuda:N; auto: the first GPU if there is one, else the CPU",
            pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        ),
    ] = "auto"
    memory_fraction: Annotated[
        float, Meta(description="of the GPU memory free at the start, for weights and KV pool together", gt=0, le=1)
    ] = 0.9
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32", "float64"],
        Meta(
            description="weights and KV; auto: bfloat16 where the processor has it, else float32 on a CPU and float16 "
            "on a GPU"
        ),
    ] = "auto"
    model_impl: Annotated[
        Literal["auto", "native", "transformers"],
        Meta(description="whose layers run; auto: native families, transformers for other decoders"),
    ] = "auto"
    quantization: Annotated[
        Literal["none", "int8", "int4", "auto"],
        Meta(
            description="weights of fewer bits: none; 8; 4, on a CPU where rows are few; or auto: a file's own 4, "
            "else 8, there"
        ),
    ] = "none"
    weight_cache_mb: Annotated[
        int, Meta(description="MiB on disk for packed weights of all models; 0: pack at every start", ge=0)
    ] = 8192
    attention: Annotated[
        Literal["auto", "torch", "native", "triton", "flashinfer"],
        Meta(
            description="attention backend; auto: triton on a GPU, on a CPU native where cpu_kernels has it, else torch"
        ),
    ] = "auto"
    cpu_kernels: Annotated[
        Literal["auto", "off", "on"],
        Meta(
            description="attention, norms, turns and gates in C++, built once on this machine; auto: torch's where "
            "they are not built yet, while they are built for the next start; on: built now, or an error"
        ),
    ] = "auto"
    cuda_graphs: Annotated[
        Literal["auto", "off"],
        Meta(description="decode steps as CUDA graphs, captured at the start; auto: on a GPU with attention triton"),
    ] = "auto"
    overlap: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="schedule the next decode step while the device runs this one; auto: on a GPU. Output is the "
            "same"
        ),
    ] = "auto"
    context: Annotated[AtLeastOne | None, Meta(description="longest sequence in tokens; default: the model's")] = None
    kv_tokens: Annotated[
        AtLeastOne | None,
        Meta(
            description="KV pool size in tokens, rounded down to whole pages; default: by free memory, on a GPU as "
            "much as memory_fraction allows"
        ),
    ] = None
    page_size: Annotated[int, Meta(description="tokens in a KV page", ge=1, le=256)] = 16
    prefix_cache: Annotated[bool, Meta(description="reuse the KV of shared prefixes")] = True
    max_running: Annotated[int, Meta(description="sequences in one batch", ge=1, le=4096)] = 64
    chunk_tokens: Annotated[int, Meta(description="prompt tokens computed in one step", ge=1)] = 512
    max_itl: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="milliseconds between two tokens: prompts are cut into chunks that leave room; default: none"),
    ] = None
    max_waiting: Annotated[int, Meta(description="requests that may wait before 'busy' is answered", ge=1)] = 4096
    drafts: Annotated[
        Literal["off", "forced", "all"],
        Meta(
            description="tokens guessed ahead and checked in one step: none; text that a constraint forces; that, and "
            "text that follows what was written before. Output is the same"
        ),
    ] = "all"
    mask_budget_ms: Annotated[float, Meta(description="time a step may spend on cold masks", gt=0)] = 50.0
    row_cache_mb: Annotated[int, Meta(description="MiB for all constraints and their cached mask rows", ge=1)] = 256
    profile: Annotated[bool, Meta(description="measure where the time of steps goes")] = False
    threads: Annotated[AtLeastOne | None, Meta(description="CPU threads of the engine; default: the cores allowed")] = (
        None
    )


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the front process needs to know besides EngineConfig."""

    host: Annotated[str, Meta(description="address of the HTTP server; loopback only for now")] = "127.0.0.1"
    port: Annotated[int, Meta(description="port of the HTTP server; 0 picks a free one", ge=0, le=65535)] = 8000
    ipc: Annotated[str | None, Meta(description="serve only this socket path, without HTTP")] = None
    max_open: Annotated[int, Meta(description="programs and HTTP requests open at once", ge=1)] = 4096
    max_open_each: Annotated[
        int, Meta(description="of them for one tenant over HTTP, or one client of the link", ge=1)
    ] = 1024
    api_keys: Annotated[
        str | None, Meta(description="file of `tenant key` lines: HTTP asks for one of them; default: for none")
    ] = None
    max_body_mb: Annotated[int, Meta(description="MiB of one HTTP request's body", ge=1, le=1024)] = 16
    max_prompts: Annotated[int, Meta(description="prompts in one HTTP request", ge=1, le=4096)] = 128
    max_prompt_tokens: Annotated[
        AtLeastOne | None, Meta(description="tokens of one prompt, or of one text in a program; default: the context")
    ] = None
    max_output_tokens: Annotated[
        AtLeastOne | None, Meta(description="largest max_tokens that may be asked for; default: the context")
    ] = None
    max_logprobs: Annotated[
        int, Meta(description="log-probabilities in one HTTP answer, of all its prompts or of all its outputs", ge=1)
    ] = 1 << 20
    log_requests: Annotated[bool, Meta(description="one line a request on stderr: ids and numbers, no text")] = True
    compile_seconds: Annotated[
        float, Meta(description="seconds of the processor that one constraint may take to compile", gt=0)
    ] = 10.0
    hang_seconds: Annotated[
        float, Meta(description="silence of an engine with open requests after which it is restarted", gt=0)
    ] = 60.0
    drain_seconds: Annotated[float, Meta(description="time that open requests get to finish after SIGTERM", ge=0)] = (
        30.0
    )


def check_sizes(config: EngineConfig, longest: int) -> None:
    """Raises InvalidArgument for sizes that the model, of sequences up to `longest`, or a KV page cannot have."""
    if config.context is not None and not 1 <= config.context <= longest:
        raise InvalidArgument(
            f"context is {config.context}; expected 1 to {longest}, the longest sequence of {config.model}",
            field="context",
            hint="leave it out for the model's own",
        )
    if config.kv_tokens is not None and config.kv_tokens < config.page_size:
        raise InvalidArgument(
            f"kv_tokens is {config.kv_tokens}; expected at least one page of {config.page_size} tokens",
            field="kv_tokens",
            hint="leave it out to size the pool by free memory",
        )


def cache_folder() -> Path:
    """Where converted tokenizers and packed weights are kept: $LATTICEWORK_CACHE, else ~/.cache/latticework."""
    return Path(os.environ.get("LATTICEWORK_CACHE") or Path.home() / ".cache" / "latticework")
