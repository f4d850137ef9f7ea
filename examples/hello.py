"""The smallest program: text, and text the model writes."""

import latticework as lw


@lw.function
def capital(s: lw.State, country: str) -> None:
    s += "Q: What is the capital of Germany?\nA: Berlin\n"
    s += f"Q: What is the capital of {country}?\nA:" + lw.gen("city", max_tokens=8, stop="\n", temperature=0)


def main() -> None:
    state = capital.run("France", seed=0)
    print("The capital of France is" + state["city"])


if __name__ == "__main__":
    main()
