"""The smallest program: text, and a word the model writes."""

import latticework as lw


@lw.function
def capital(s: lw.State, country: str) -> None:
    s += lw.user(f"What is the capital of {country}? Answer with one word.")
    s += lw.assistant(lw.gen("city", max_tokens=8, temperature=0))


def main() -> None:
    state = capital.run("France", seed=0)
    print(state["city"])


if __name__ == "__main__":
    main()
