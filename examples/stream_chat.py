"""A streamed conversation: text appears as it is written, in the model's own chat template."""

import latticework as lw


@lw.function
def chat(s: lw.State, first: str, second: str) -> None:
    s += lw.system("You are a friendly assistant who answers briefly.")
    s += lw.user(first)
    s += lw.assistant(lw.gen("answer", max_tokens=48, temperature=0))
    s += lw.user(second)
    s += lw.assistant(lw.gen("again", max_tokens=48, temperature=0))


def main() -> None:
    state = chat.run("Name three primary colors.", "What is the capital of France?", seed=0, stream=True)
    for variable in ("answer", "again"):
        print("> ", end="")
        for piece in state.text_iter(variable):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
