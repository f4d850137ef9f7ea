"""Where the rivals live: a folder that git ignores. Names only; `setup.py` fills them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".peers"

MODEL = FOLDER / "model"
HF_FOLDER = MODEL / "hf"  # safetensors in bfloat16, with tokenizer and chat template
BF16_GGUF = MODEL / "bf16.gguf"

VLLM_PYTHON = FOLDER / "vllm" / "bin" / "python"
VLLM_DONE = FOLDER / "vllm" / ".done"
LIBRARIES = FOLDER / "lib"  # what a rival's documentation wants preloaded and the system does not have

LLAMACPP = FOLDER / "llamacpp"
LLAMACPP_SOURCE = LLAMACPP / "sdist"
LLAMA_SERVER = LLAMACPP / "bin" / "llama-server"
LLAMA_QUANTIZE = LLAMACPP / "bin" / "llama-quantize"

LOGS = FOLDER / "logs"
