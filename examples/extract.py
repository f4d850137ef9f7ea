"""Typed extraction: the output is always a valid `Person`, whatever the model would rather say."""

from pydantic import BaseModel

import latticework as lw


class Person(BaseModel):
    name: str
    age: int
    city: str


SHOTS = {
    "John Smith, a 45-year-old teacher from Boston, won the race.": Person(name="John Smith", age=45, city="Boston"),
    "At 19, Lena is the youngest of the team in Berlin.": Person(name="Lena", age=19, city="Berlin"),
}


@lw.function
def extract(s: lw.State, text: str) -> None:
    for example, person in SHOTS.items():
        s += f"Text: {example}\nJSON: {person.model_dump_json()}\n"
    s += f"Text: {text}\nJSON: " + lw.gen("person", schema=Person, max_tokens=60, temperature=0)


def main() -> None:
    state = extract.run("Hello, my name is Yuki, I am 27 and I moved to Osaka last year.", seed=0)
    print(state["person"])
    print(repr(state.value("person")))


if __name__ == "__main__":
    main()
