"""All workloads, by name."""

from __future__ import annotations

from benchmarks.programs import chat, documents, extraction, few_shot, judge, react, select_prefix, tree_of_thought
from benchmarks.programs.base import Workload

MODULES = (few_shot, select_prefix, react, tree_of_thought, judge, extraction, chat, documents)
WORKLOADS: dict[str, Workload] = {module.WORKLOAD.name: module.WORKLOAD for module in MODULES}
