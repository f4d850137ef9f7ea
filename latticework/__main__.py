"""`python -m latticework`: the same as the console script."""

from latticework.runtime.cli import main

if __name__ == "__main__":
    main()
