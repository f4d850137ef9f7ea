"""Tree of thought: several sentences at once, a judgement of each by what would follow, and on from the best.

The tutorial builds this program step by step: docs/tutorial.md.
"""

import latticework as lw

STORY = "A story for children. A fox was lost in the snow."
SENTENCE = r" The fox [a-z ]{10,50}\."


def judge(thought: lw.State) -> None:
    """Looks ahead in a branch of its own: would this end well?"""
    with thought.copy() as ahead:
        ahead += " In the end the fox felt"
        ahead += lw.select("end", [" happy", " sad"], choices_method=lw.probability)


def happy(thought: lw.State) -> float:
    return float(thought.meta("end")[0].probabilities[0])


@lw.function
def tree(s: lw.State, story: str, width: int = 3, depth: int = 2) -> list[tuple[float, str]]:
    s += story
    best, path = s, []
    for _ in range(depth):
        thoughts = best.fork(width)
        thoughts += lw.gen("line", regex=SENTENCE, temperature=0.7, max_tokens=20)
        for thought in thoughts:
            judge(thought)
        best = max(thoughts, key=happy)
        path.append((happy(best), best["line"]))
    return path


def main() -> None:
    state = tree.run(STORY, seed=8)
    print(STORY)
    for probability, line in state.ret_value:
        print(f"{line.strip()}  ({probability:.0%} happy)")
    usage = state.usage()
    print(f"{usage.cached} of {usage.prompt} prompt tokens came from the cache")


if __name__ == "__main__":
    main()
