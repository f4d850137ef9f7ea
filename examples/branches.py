"""Parallel branches: fork shares the prompt's KV, the branches run in one batch, join gathers their variables."""

import latticework as lw

FACTS = {"capital": "What is the capital of", "continent": "On which continent is", "language": "Which language has"}


@lw.function
def describe(s: lw.State, country: str) -> None:
    for question, answer in zip(FACTS.values(), ("Berlin", "Europe", "German"), strict=True):
        s += f"Q: {question} Germany?\nA: {answer}\n"
    branches = s.fork(len(FACTS))
    for branch, question in zip(branches, FACTS.values(), strict=True):
        branch += f"Q: {question} {country}?\nA:" + lw.gen("answer", max_tokens=8, stop="\n", temperature=0)
    branches.join()


def main() -> None:
    state = describe.run("France", seed=0)
    for fact, answer in zip(FACTS, state["answer"], strict=True):
        print(f"{fact:9}{answer}")
    usage = state.usage()
    print(f"{usage.cached} of {usage.prompt} prompt tokens came from the cache")


if __name__ == "__main__":
    main()
