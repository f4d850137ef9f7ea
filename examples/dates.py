"""A pattern the output must match, byte for byte: no parsing afterwards, nothing to strip.

The pattern begins with the space that follows the colon: models write words with the space before them.
"""

import latticework as lw


@lw.function
def date_of(s: lw.State, text: str) -> None:
    s += "Text: The war ended on 8 May 1945.\nDate: 1945-05-08\n"
    s += "Text: She was born on 21 March 1970.\nDate: 1970-03-21\n"
    s += f"Text: {text}\nDate:"
    s += lw.gen("date", regex=r" 19[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])", temperature=0, max_tokens=16)


def main() -> None:
    print(date_of.run("Apollo 11 landed on the Moon on 20 July 1969.", seed=0)["date"].strip())


if __name__ == "__main__":
    main()
