"""Whether an engine decodes on its device, and the steps for it: what the settings cuda_graphs and overlap mean.

                      CPU                                     GPU
    overlap  auto     the host draws                          steps on the device, overlapped
             on       steps on the CPU, as a GPU has them     steps on the device, overlapped
             off      the host draws                          steps on the device, one after the other

Steps are those of the Triton attention backend; with another one the host draws, and overlap='on' is refused. On a GPU
they are captured as graphs unless cuda_graphs is off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latticework.lang.errors import Unsupported
from latticework.runtime.attention.base import AttentionBackend, KVCache
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain.vocabulary import Vocabulary
from latticework.runtime.model.base import Model

if TYPE_CHECKING:
    from latticework.runtime.device.steps import DecodeSteps


def decodes_on_device(config: EngineConfig, device: str, attention: AttentionBackend) -> bool:
    """device: its type. Raises Unsupported where that is asked for and cannot be."""
    if attention.name == "triton":
        return device == "cuda" or config.overlap == "on"
    if config.overlap == "on":
        raise Unsupported(
            f"overlap='on' needs attention='triton'; this engine has {attention.name!r}",
            hint="overlap='auto' overlaps steps where there is a GPU",
            field="overlap",
        )
    return False


def steps_overlap(config: EngineConfig, device: str) -> bool:
    """The next step is launched before the one before has told its tokens."""
    return config.overlap == "on" or (config.overlap == "auto" and device == "cuda")


def make_steps(
    config: EngineConfig, model: Model, attention: AttentionBackend, kv: KVCache, vocabulary: Vocabulary
) -> DecodeSteps:
    """Captures the steps of all sizes, on a GPU. kv: its last page is the scratch page, see `DecodeSteps`."""
    from latticework.runtime.attention.triton import TritonAttention
    from latticework.runtime.device.steps import DecodeSteps

    assert isinstance(attention, TritonAttention)
    tokens = (kv.keys[0].shape[0] - 1) * kv.page_size
    longest = min(tokens, model.spec.max_position_embeddings, config.context or tokens)
    return DecodeSteps(
        model,
        attention,
        kv,
        vocabulary,
        rows=config.max_running,
        pages=-(-longest // kv.page_size),
        table_bytes=config.row_cache_mb << 20,
        captures=kv.keys[0].device.type == "cuda" and config.cuda_graphs == "auto",
    )
