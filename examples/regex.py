"""A pattern the output must match, byte for byte: no parsing afterwards, nothing to strip."""

import latticework as lw


@lw.function
def moon_landing(s: lw.State) -> None:
    s += lw.user("On which date did Apollo 11 land on the Moon? Answer as YYYY-MM-DD.")
    s += lw.assistant(lw.gen("date", regex=r"19[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])", temperature=0))


def main() -> None:
    print(moon_landing.run(seed=0)["date"])


if __name__ == "__main__":
    main()
