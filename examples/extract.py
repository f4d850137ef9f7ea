"""Typed extraction: the output is always a valid `Invoice`, whatever the model would rather say."""

from pydantic import BaseModel

import latticework as lw


class Item(BaseModel):
    product: str
    quantity: int


class Order(BaseModel):
    customer: str
    items: list[Item]
    express: bool


@lw.function
def extract(s: lw.State, email: str) -> None:
    s += lw.system("You extract orders from emails as JSON.")
    s += lw.user(email)
    s += lw.assistant(lw.gen("order", schema=Order, max_tokens=120, temperature=0))


def main() -> None:
    state = extract.run("Hello, this is Mary. Please send me 3 apples and 2 pears by express mail.", seed=0)
    print(state["order"])
    print(repr(state.value("order")))


if __name__ == "__main__":
    main()
