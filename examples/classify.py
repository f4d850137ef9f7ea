"""Few-shot classification: `select` scores every option on the shared prompt and takes the likeliest."""

import latticework as lw

SHOTS = [
    ("The food was wonderful and the staff were kind.", "positive"),
    ("I waited an hour and the soup was cold.", "negative"),
    ("What a lovely evening, we will be back!", "positive"),
    ("Never again. Rude and overpriced.", "negative"),
]


@lw.function
def classify(s: lw.State, review: str) -> None:
    for text, label in SHOTS:
        s += f"Review: {text}\nSentiment: {label}\n\n"
    s += f"Review: {review}\nSentiment: " + lw.select("label", ["positive", "negative"])


def main() -> None:
    reviews = ["The best pizza I have ever had.", "The room was dirty and the shower was broken."]
    for review, state in zip(reviews, classify.run_batch([{"review": r} for r in reviews], seed=0), strict=True):
        positive, negative = state.meta("label").scores
        print(f"{state['label']:8}  (positive {positive:.2f}, negative {negative:.2f})  {review}")


if __name__ == "__main__":
    main()
