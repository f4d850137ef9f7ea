"""run_batch over 32 inputs: one prompt prefix, computed once; bounded concurrency; results in order."""

import latticework as lw

ANIMALS = """cat dog cow horse sheep goat pig duck hen goose eagle owl crow robin swan shark trout salmon tuna cod
frog toad newt snake lizard turtle bee ant wasp moth spider crab""".split()
GROUPS = ["mammal", "bird", "fish", "amphibian", "reptile", "insect", "other"]


@lw.function
def sort_animal(s: lw.State, animal: str) -> None:
    s += "Animal: tiger\nGroup: mammal\nAnimal: parrot\nGroup: bird\nAnimal: carp\nGroup: fish\n"
    s += "Animal: salamander\nGroup: amphibian\nAnimal: crocodile\nGroup: reptile\nAnimal: beetle\nGroup: insect\n"
    s += f"Animal: {animal}\nGroup: " + lw.select("group", GROUPS)


def main() -> None:
    states = sort_animal.run_batch([{"animal": a} for a in ANIMALS], seed=0, progress_bar=True)
    for group in GROUPS:
        members = [a for a, state in zip(ANIMALS, states, strict=True) if state["group"] == group]
        print(f"{group:9} {', '.join(members)}")
    cached = sum(state.usage().cached for state in states)
    prompt = sum(state.usage().prompt for state in states)
    print(f"{len(states)} programs; {cached} of {prompt} prompt tokens came from the cache")


if __name__ == "__main__":
    main()
