"""Few-shot classification: `select` scores every option on the shared prompt and takes the likeliest."""

import latticework as lw

SHOTS = {
    "The food was wonderful and the staff were kind.": "positive",
    "I waited an hour and the soup was cold.": "negative",
    "What a lovely evening, we will be back!": "positive",
    "Never again. Rude and overpriced.": "negative",
}
REVIEWS = [
    "The best pizza I have ever had.",
    "The room was dirty and the shower was broken.",
    "Friendly people and a great view.",
    "It broke after two days.",
]


@lw.function
def classify(s: lw.State, review: str) -> None:
    for text, label in SHOTS.items():
        s += f"Review: {text}\nSentiment: {label}\n\n"
    s += f"Review: {review}\nSentiment:" + lw.select("label", [" positive", " negative"])


def main() -> None:
    for review, state in zip(REVIEWS, classify.run_batch([{"review": r} for r in REVIEWS], seed=0), strict=True):
        positive, negative = state.meta("label").scores
        print(f"{state['label']:9}  (positive {positive:.2f}, negative {negative:.2f})  {review}")


if __name__ == "__main__":
    main()
