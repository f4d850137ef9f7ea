"""The front: what stands between people and the engine. Tokenizes, compiles constraints, detokenizes.

One asyncio loop, no torch. HTTP asks it for single generations; program runs (run.py) are made of the same parts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec

from latticework.lang.errors import ConstraintError, InvalidArgument, LatticeworkError, PromptTooLong, Unsupported
from latticework.lang.ir import Constraint, Gen, Program, Regex, Sampling, constraint_key
from latticework.lang.passes import constraints
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.constrain import Limits
from latticework.runtime.constrain.pool import CompilePool
from latticework.runtime.link.engine_link import EngineLink
from latticework.runtime.link.sockets import RuntimeFolder
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.spec import ModelCard
from latticework.runtime.programs.bounds import Longest
from latticework.runtime.programs.deadline import Deadline
from latticework.runtime.programs.generation import Generation
from latticework.runtime.programs.stored import Programs
from latticework.runtime.request import GenSegment, TextSegment
from latticework.runtime.text.chat import ChatTemplate
from latticework.runtime.text.tokenizer import Tokenizer
from latticework.runtime.text.truncate import fit_middle

ANSWER_TOKENS = 256  # room that a truncated chat leaves where max_tokens is not given
MAX_TRUNCATED_CHARS = 1 << 20  # of a chat that is to be truncated: the time it takes grows with them
MARKER_CHARS = 64  # that a message counts for besides its own, so that there are not too many of them


class Front:
    """Owns the engine link, the compile pool and the runtime folder. Make one with `start`, end it with `close`."""

    def __init__(
        self, card: ModelCard, link: EngineLink, pool: CompilePool, folder: RuntimeFolder, server: ServerConfig
    ) -> None:
        self.card = card
        self.server = server
        self.link = link
        self.pool = pool
        self.folder = folder
        self.tokenizer = Tokenizer.from_file(Path(card.tokenizer))
        self.chat = ChatTemplate.of(card)
        self.programs = Programs(pool)
        self._longest = Longest()
        self._longest_token = max(map(len, (*self.tokenizer.token_bytes, *self.tokenizer.special)))

    @classmethod
    async def start(
        cls,
        engine: EngineConfig,
        server: ServerConfig,
        progress: Callable[[float], None] | None = None,
        folder: RuntimeFolder | None = None,
        log_file: IO[bytes] | None = None,
    ) -> Front:
        """Starts engine and compile child, reads the tokenizer meanwhile, and returns when both answer.

        progress: called with 0 to 1 while weights load. folder: for the engine's socket, ours from now on; default:
        a new one. log_file: where the engine's stderr goes; default: ours.
        Raises ModelError, or whatever the engine reports.
        """
        folder = folder or RuntimeFolder()
        pool = CompilePool(Limits(seconds=server.compile_seconds))
        link = EngineLink(engine, folder.address("engine"), log_file, server.hang_seconds)
        starting = [asyncio.create_task(link.start(progress)), asyncio.create_task(pool.start())]
        try:
            front = await asyncio.to_thread(
                lambda: cls(find_model(engine.model, engine.load_format), link, pool, folder, server)
            )
            await asyncio.gather(*starting)
            return front
        except BaseException:
            for task in starting:
                task.cancel()
            await link.close()
            await pool.close()
            await asyncio.gather(*starting, return_exceptions=True)
            folder.remove()
            raise

    async def close(self) -> None:
        """Ends the children. Open requests get an error. Idempotent."""
        await self.link.close()
        await self.pool.close()
        self.folder.remove()

    def flush_caches(self) -> None:
        """Forgets compiled constraints, and asks the engine to forget whatever nothing holds."""
        self.pool.forget()
        self.link.flush_cache()

    @property
    def context(self) -> int:
        """The longest sequence in tokens."""
        assert self.link.greeting is not None
        return self.link.greeting.context

    @property
    def dtype(self) -> str:
        assert self.link.greeting is not None
        return self.link.greeting.dtype

    @property
    def quantization(self) -> str:
        return self.link.config.quantization

    # ------------------------------------------------------------ text

    def text_run(self, pieces: Sequence[tuple[str, bool]], at_start: bool) -> TextSegment:
        """One run of a program: pieces of (text, is it the template's), encoded once. Only the template's pieces
        may become special tokens. at_start: nothing precedes it, so the model's begin token does.

        Text that cannot fit the context however it is encoded raises PromptTooLong before any time is spent on it.
        """
        size = sum(len(text) for text, _ in pieces)
        if size > self.context * self._longest_token:
            raise PromptTooLong(
                f"the text has {size} characters; no text of more than {self.context * self._longest_token} fits the "
                f"context of {self.context} tokens",
                field="prompt",
            )
        return self._within_cap(self._encoded(pieces, at_start))

    def _encoded(self, pieces: Sequence[tuple[str, bool]], at_start: bool) -> TextSegment:
        tokens, head, head_tokens = self.tokenizer.encode_pieces(pieces)
        begin = self.tokenizer.bos_ids
        if at_start and begin and tuple(tokens[: len(begin)]) != begin:
            return TextSegment((*begin, *tokens))
        return TextSegment(tuple(tokens), head, head_tokens)

    def _within_cap(self, text: TextSegment) -> TextSegment:
        """`text` itself. Raises PromptTooLong when it is longer than the server's setting allows."""
        cap = self.server.max_prompt_tokens
        if cap is not None and len(text.tokens) > cap:
            raise PromptTooLong(
                f"the prompt has {len(text.tokens)} tokens; this server takes {cap} (max_prompt_tokens)", field="prompt"
            )
        return text

    def chat_prompt(self, messages: list[dict[str, str]]) -> TextSegment:
        """A conversation in the model's own template; what people wrote never becomes special tokens."""
        return self.text_run(self.chat.pieces(messages), at_start=True)

    def truncated_chat_prompt(
        self, messages: list[dict[str, str]], max_tokens: int | None = None
    ) -> tuple[TextSegment, int]:
        """A conversation shortened in its middle where it would leave no room for `max_tokens` (default: 256, or a
        quarter of the context), see `fit_middle`; and how many tokens shorter it is. Raises PromptTooLong."""
        assert self.link.greeting is not None
        capacity = min(self.context, self.link.greeting.kv_tokens)
        room = min(ANSWER_TOKENS, capacity // 4) if max_tokens is None else max_tokens
        limit = min(capacity - room, self.server.max_prompt_tokens or capacity)
        size = sum(len(message["content"]) for message in messages)
        longest = max(MAX_TRUNCATED_CHARS, 16 * self.context)
        if limit < 1 or size + len(messages) * MARKER_CHARS > longest:
            raise PromptTooLong(
                f"the chat has {size} characters in {len(messages)} messages, and its answer may take {room} tokens of "
                f"{capacity}; truncate shortens chats of up to {longest} characters that leave room for a prompt; a "
                f"message counts for {MARKER_CHARS} more",
                field="prompt",
            )

        def count(some: list[dict[str, str]]) -> int:
            pieces = self.chat.pieces(some)
            if some is not messages and sum(len(text) for text, _ in pieces) > limit * self._longest_token:
                return limit + 1  # it cannot fit, however it is encoded
            return len(self._encoded(pieces, at_start=True).tokens)

        before = count(messages)
        if before <= limit:
            return self.chat_prompt(messages), 0
        prompt = self.chat_prompt(fit_middle(messages, limit, count))
        return prompt, before - len(prompt.tokens)

    def text_prompt(self, prompt: str | Sequence[int]) -> TextSegment:
        """A raw prompt: special tokens in it are recognised; token ids are taken as they are."""
        if isinstance(prompt, str):
            return self.text_run([(prompt, True)], at_start=True)
        return self._within_cap(TextSegment(tuple(prompt)))

    # ------------------------------------------------------------ generation

    async def gen_segment(self, gen: Gen, sampling: Sampling, rules: dict[str, bytes], plain: str = "") -> GenSegment:
        """The segment of a gen whose sampling is resolved and seeded. Its constraint and its stop regexes are compiled
        into `rules`. plain: the end of the text before it, as far as that is plain and may be healed.

        Raises ConstraintError, and InvalidArgument for more tokens than the server's setting allows."""
        cap = self.server.max_output_tokens
        if cap is not None and sampling.max_tokens > cap:
            raise InvalidArgument(
                f"max_tokens is {sampling.max_tokens}; this server allows {cap} (max_output_tokens)", field="max_tokens"
            )
        key = None if gen.constraint is None else await self._compile(gen.constraint, rules)
        try:
            stops = [await self._compile(Regex(pattern), rules) for pattern in sampling.stop_regex]
        except ConstraintError as error:
            error.field = "stop_regex"
            raise
        if key is not None:
            sampling = self._within_longest(sampling, key, rules[key])
        on_length = gen.on_length if key is not None else "close"
        healable = len(self.tokenizer.decode_bytes(self.tokenizer.encode(plain))) if gen.heal else 0
        return GenSegment(sampling, key, on_length, tuple(stops), healable=healable)

    def _within_longest(self, sampling: Sampling, key: str, rules: bytes) -> Sampling:
        """No more tokens than the longest text of the constraint can have: what else depends on max_tokens, as the
        room that is set aside, need not be larger."""
        longest = self._longest.of(key, rules)
        if longest is None or sampling.max_tokens <= longest:
            return sampling
        return msgspec.structs.replace(sampling, max_tokens=max(1, longest, sampling.min_tokens))

    async def bounds_of(self, program: Program) -> tuple[tuple[int, int, int], ...]:
        """Branch, position and longest output in tokens of every gen whose constraint has one."""
        found: list[tuple[int, int, int]] = []
        for constraint, places in constraints(program).items():
            rules: dict[str, bytes] = {}
            try:
                key = await self._compile(constraint, rules)
            except LatticeworkError:
                continue  # its gens say so when they run
            longest = self._longest.of(key, rules[key])
            if longest is not None:
                found += [(branch, position, longest) for branch, position in places]
        return tuple(sorted(found))

    async def _compile(self, constraint: Constraint, rules: dict[str, bytes]) -> str:
        key = constraint_key(constraint)
        if key not in rules:
            began = time.monotonic()
            rules[key] = await self.pool.compile(constraint)
            self.link.meter.compiling.observe(time.monotonic() - began)
        return key

    def generate(
        self,
        prompts: Sequence[TextSegment],
        gen: Gen,
        *,
        deadline: Deadline | None = None,
        priority: int = 0,
        tenant: str = "",
    ) -> Generation:
        """One gen after each prompt: an async context manager and iterator. Leaving it cancels. Without a seed every
        prompt gets one of its own.

        deadline: when it raises DeadlineExceeded. priority, tenant: see `Request`. Raises Unsupported for a gen that
        heals: prompts are taken as they are."""
        if gen.heal:
            raise Unsupported("a raw prompt is taken as it is", field="heal", hint="a program heals its text")
        return Generation(self, prompts, gen, deadline or Deadline(), priority, tenant)
