"""Many prompts through one engine, without a program: results in order, usage on each."""

import latticework as lw

REVIEWS = [
    "The soup was cold and the waiter was rude.",
    "Wonderful evening, the best pasta in town!",
    "I waited an hour for a burnt steak. Never again.",
    "Friendly staff, fresh food, fair prices. Loved it!",
]
EXAMPLES = (
    "Review: I loved every minute.\nSentiment: positive\n"
    "Review: A waste of money.\nSentiment: negative\n"
    "Review: What a great place!\nSentiment: positive\n"
)


def main() -> None:
    prompts = [f"{EXAMPLES}Review: {review}\nSentiment: " for review in REVIEWS]
    with lw.Engine() as engine:
        results = engine.generate(
            prompts,
            lw.Sampling(temperature=0, max_tokens=8),
            lw.Choices(("positive", "negative")),
            progress_bar=False,
        )
    for review, result in zip(REVIEWS, results, strict=True):
        print(f"{result.text}  {review}")
    print(f"{len(results)} prompts, {sum(result.usage.prompt for result in results)} tokens")


if __name__ == "__main__":
    main()
