"""run_batch over 32 inputs: one prompt prefix, computed once; bounded concurrency; results in order."""

import latticework as lw

COUNTRIES = """
France Italy Spain Germany Japan China India Egypt Kenya Greece Norway Sweden Finland Denmark Poland
Austria Hungary Portugal Ireland Russia Turkey Iraq Iran Cuba Peru Chile Argentina Canada Mexico
Thailand Vietnam Nepal
""".split()


@lw.function
def capital(s: lw.State, country: str) -> None:
    s += "Q: What is the capital of the United Kingdom?\nA: London\n"
    s += "Q: What is the capital of South Korea?\nA: Seoul\n"
    s += f"Q: What is the capital of {country}?\nA:" + lw.gen("city", max_tokens=8, stop="\n", temperature=0)


def main() -> None:
    states = capital.run_batch([{"country": c} for c in COUNTRIES], seed=0, progress_bar=True)
    for country, state in zip(COUNTRIES, states, strict=True):
        print(f"{country:10}{state['city']}")
    cached = sum(state.usage().cached for state in states)
    prompt = sum(state.usage().prompt for state in states)
    print(f"{len(states)} programs; {cached} of {prompt} prompt tokens came from the cache")


if __name__ == "__main__":
    main()
