"""Any decoder of transformers on our paged KV: transformers computes everything but attention.

Its attention interface (`AttentionInterface`) lets a model call a function of ours, which hands q, k and v to the
step's `attend`. All tokens of a batch go through as one sequence with their own positions, so nothing but attention
may mix tokens; a probe at construction proves that, and finds each layer's window, cap and scale. What does not pass
is refused. This file knows no batch and no cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM

from latticework.lang.errors import BrokenModel, UnsupportedModel
from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.model.base import Attend
from latticework.runtime.model.spec import ModelSpec

NAME = "latticework"
_HOOK = "_latticework_hook"
_STRETCHING_WITH_LENGTH = ("dynamic", "longrope")
_WITHOUT_MEANING = {"dropout", "is_causal", "position_ids", "use_cache"}  # for a causal model in eval mode


class _Hook:
    """What the attention modules of one model call: the step's `attend`, and notes of how each layer attends."""

    def __init__(self) -> None:
        self.attend: Attend | None = None
        self.layers: dict[int, tuple[LayerAttention, tuple[int, int, int]]] = {}


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """query: [1, heads, T, head_dim]; key, value: [1, kv_heads, T, head_dim] -> [1, T, heads, head_dim]."""
    hook: _Hook = getattr(module, _HOOK)
    assert hook.attend is not None, "called outside of a step"
    how = LayerAttention(
        window=settings.pop("sliding_window", None),
        soft_cap=settings.pop("softcap", None),
        scale=settings.pop("scaling", None),
    )
    asked = {name for name, setting in settings.items() if setting is not None and setting is not False}
    odd = sorted(asked - _WITHOUT_MEANING)
    if odd or attention_mask is not None:
        raise UnsupportedModel(f"its attention needs {', '.join(odd) or 'a mask of its own'}, which is not supported")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    hook.layers[layer] = how, (query.shape[1], key.shape[1], key.shape[3])
    q, k, v = (heads[0].transpose(0, 1) for heads in (query, key, value))
    return hook.attend(layer, q, k, v).unsqueeze(0), None


class ThroughTransformers:
    """A `Model` of any architecture that transformers runs and the probe passes."""

    def __init__(self, folder: Path, spec: ModelSpec, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        """Loads the weights, by way of main memory. Raises UnsupportedModel or BrokenModel, saying why."""
        AttentionInterface.register(NAME, _attention)
        self._whole = _load(folder, dtype).to(device)
        _refuse_stretching(self._whole.config)
        self._inner: nn.Module = self._whole.base_model
        self._head: nn.Module = self._whole.get_output_embeddings()
        self._hook = _Hook()
        for module in self._whole.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, _HOOK, self._hook)
        self._probe(spec)
        layers = [self._hook.layers[index] for index in range(spec.num_hidden_layers)]
        heads, kv_heads, head_dim = layers[0][1]
        self.spec = msgspec.structs.replace(
            spec,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            attention_layers=tuple(how for how, _ in layers),
        )

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """tokens, positions: [T] int64 -> [T, hidden], normed."""
        found: Tensor = self._run(self._inner, tokens, positions, attend).last_hidden_state[0]
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [R, hidden] -> [R, V]."""
        found: Tensor = self._head(hidden)
        return found

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._whole.parameters()

    @property
    def pads(self) -> bool:
        return next(self.parameters()).dtype.itemsize == 2  # as Plain

    def held(self) -> dict[str, int]:
        return {"transformers": sum(isinstance(module, nn.Linear) for module in self._whole.modules())}

    def _run(self, module: nn.Module, tokens: Tensor, positions: Tensor, attend: Attend) -> Any:
        self._hook.attend = attend
        try:
            return module(input_ids=tokens.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False)
        finally:
            self._hook.attend = None

    @torch.inference_mode()
    def _probe(self, spec: ModelSpec) -> None:
        """Runs three tokens that attend to themselves alone, in two orders."""

        def own_value(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)

        device = next(self.parameters()).device
        tokens = torch.tensor([1, 2, 3], device=device) % spec.vocab_size
        positions = torch.arange(3, device=device)
        try:
            hidden = self(tokens, positions, own_value)
            turned = self(tokens.flip(0), positions.flip(0), own_value).flip(0)
            logits = self._run(self._whole, tokens, positions, own_value).logits[0]
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UnsupportedModel(f"{spec.architecture} does not run through transformers: {error}") from None
        except UnsupportedModel as error:
            raise UnsupportedModel(f"{spec.architecture} cannot be run: {error.message}") from None
        _check_layers(self._hook, spec)
        _check_windows(self._whole.config, [how for _, (how, _) in sorted(self._hook.layers.items())])
        close = 1e-2 * float(hidden.float().abs().max())
        if not torch.allclose(hidden.float(), turned.float(), rtol=1e-2, atol=close):
            raise UnsupportedModel(f"{spec.architecture} mixes tokens, or places them, outside of its attention")
        if not torch.allclose(self.logits(hidden).float(), logits.float(), rtol=1e-3, atol=1e-3):
            raise UnsupportedModel(f"{spec.architecture} does more to its logits than its head does")


def _load(folder: Path, dtype: torch.dtype) -> Any:
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, loading = load(
            folder,
            dtype=dtype,
            attn_implementation=NAME,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except KeyError as error:
        if error.args != (NAME,):
            raise UnsupportedModel(f"{folder}: transformers cannot load it: {error}") from None
        raise UnsupportedModel(f"{folder}: its attention in transformers cannot be replaced") from None
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise UnsupportedModel(f"{folder}: transformers cannot load it: {error}") from None
    missing = sorted(loading["missing_keys"]) or sorted(map(str, loading["mismatched_keys"]))
    if missing:
        raise BrokenModel(f"{folder}: {len(missing)} weights are missing or misshapen, the first is {missing[0]}")
    return model.eval()


def _refuse_stretching(config: Any) -> None:
    """Angles that depend on a text's length do not fit keys that are already in the cache."""
    parameters = getattr(config, "rope_parameters", None) or {}
    ropes = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    found = next((rope["rope_type"] for rope in ropes if rope.get("rope_type") in _STRETCHING_WITH_LENGTH), None)
    if found:
        raise UnsupportedModel(f"rope_type {found!r} turns keys anew as texts grow, which a cache of keys cannot")


def _check_layers(hook: _Hook, spec: ModelSpec) -> None:
    """Each layer attends once, and their KV has one shape."""
    shapes = {shape for _, shape in hook.layers.values()}
    if set(hook.layers) != set(range(spec.num_hidden_layers)) or len(shapes) != 1:
        raise UnsupportedModel(
            f"{spec.architecture} attends in layers {sorted(hook.layers)} of {spec.num_hidden_layers} with (heads, "
            f"kv_heads, head_dim) {sorted(shapes)}; supported: in all layers, with one shape"
        )


def _check_windows(config: Any, layers: list[LayerAttention]) -> None:
    """A model may put its window into a mask alone; masks are not made here, so that is refused."""
    types = getattr(config, "layer_types", None)
    if types is None:
        windows = [getattr(config, "sliding_window", None) is not None] * len(layers)
    else:
        windows = [kind == "sliding_attention" for kind in types]
    odd = {kind for kind in types or () if kind not in ("sliding_attention", "full_attention")}
    if odd or windows != [how.window is not None for how in layers]:
        raise UnsupportedModel(f"its layers attend in ways that are not passed on: {sorted(odd) or 'windows'}")
