"""A compiled program: traced once, looked at before it runs, then run for many items without its body."""

import latticework as lw


@lw.function
def judge(s: lw.State, review: str) -> None:
    s += "Review: The soup was cold and the waiter rude.\nFood: bad\nService: bad\n\n"
    s += "Review: Great pasta, and such friendly people.\nFood: good\nService: good\n\n"
    s += f"Review: {review}\n"
    branches = s.fork(2)
    for branch, topic in zip(branches, ("Food", "Service"), strict=True):
        branch += f"{topic}:" + lw.select("verdict", [" good", " bad"])
    branches.join()


def main() -> None:
    compiled = judge.compile()
    print(compiled)
    reviews = ["I waited an hour for a burnt steak.", "The best pizza, and we were served at once."]
    for review, state in zip(reviews, compiled.run_batch([{"review": review} for review in reviews]), strict=True):
        food, service = (verdict.strip() for verdict in state["verdict"])
        print(f"food {food}, service {service}: {review}")


if __name__ == "__main__":
    main()
