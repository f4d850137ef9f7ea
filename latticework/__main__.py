"""`python -m latticework`: the same as the console script. The embedded runtime is started this way."""

from latticework.runtime.cli import main

if __name__ == "__main__":
    main()
