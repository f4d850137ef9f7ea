"""Parallel branches: fork shares the prompt's KV, the branches run in one batch, join gathers their variables."""

import latticework as lw

TOPICS = ["diet", "exercise", "sleep"]


@lw.function
def advice(s: lw.State) -> None:
    s += lw.system("You are a helpful health coach. You answer in one short sentence.")
    branches = s.fork(len(TOPICS))
    for branch, topic in zip(branches, TOPICS, strict=True):
        branch += lw.user(f"Give me one tip about {topic}.")
        branch += lw.assistant(lw.gen("tip", max_tokens=40, stop=["\n", "."], temperature=0))
    branches.join()
    s += lw.user("Here are three tips:\n" + "\n".join(s["tip"]) + "\nWhich topic matters most?")
    s += lw.assistant(lw.select("topic", TOPICS))


def main() -> None:
    state = advice.run(seed=0)
    for topic, tip in zip(TOPICS, state["tip"], strict=True):
        print(f"{topic:9} {tip}")
    print("most important:", state["topic"])
    usage = state.usage()
    print(f"{usage.cached} of {usage.prompt} prompt tokens came from the cache")


if __name__ == "__main__":
    main()
