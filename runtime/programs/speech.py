"""From the token events of one generating segment to text events of one op."""

from __future__ import annotations

from latticework.lang.events import Chunk, Done, Finish, TokenLogprob, Usage
from latticework.runtime.request import TokenEvent, TokenInfo
from latticework.runtime.text.detokenize import Utf8Stream
from latticework.runtime.text.tokenizer import Tokenizer


class Speech:
    """Hears the TokenEvents of one segment. Says Chunks, then has a Done. Knows bytes and characters, no stops."""

    def __init__(self, tokenizer: Tokenizer, branch: int, position: int, seed: int) -> None:
        self.branch = branch
        self.position = position
        self.seed = seed
        self.done: Done | None = None
        self._tokenizer = tokenizer
        self._stream = Utf8Stream()
        self._parts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._prompt: list[TokenLogprob] = []

    def hear(self, event: TokenEvent) -> Chunk | None:
        """The new text, if any. After the segment's last event `done` is set."""
        text = self._stream.feed(event.data, final=event.end is not None)
        logprobs = self._readable(event.tokens, event.logprobs)
        self._prompt += self._readable(event.prompt_tokens, event.prompt_logprobs)
        self._parts.append(text)
        self._logprobs += logprobs
        if event.end in ("stop", "length"):
            finish: Finish = "stop" if event.end == "stop" else "length"
            self.done = Done(
                self.branch,
                self.position,
                "".join(self._parts),
                finish,
                complete=event.complete,
                stopped_by=event.stopped_by,
                usage=event.usage or Usage(),
                logprobs=tuple(self._logprobs),
                seed=self.seed,
                prompt_logprobs=tuple(self._prompt),
            )
        return Chunk(self.branch, self.position, text, logprobs) if text or logprobs else None

    def _readable(self, tokens: tuple[int, ...], infos: tuple[TokenInfo, ...]) -> tuple[TokenLogprob, ...]:
        text_of = self._tokenizer.text_of
        return tuple(
            TokenLogprob(
                token,
                text_of(token),
                given.logprob,
                tuple((other, text_of(other), logprob) for other, logprob in given.top),
            )
            for token, given in zip(tokens, infos, strict=False)
        )
