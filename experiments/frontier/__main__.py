"""`python -m experiments.frontier --workdir=DIR`: bytes to a target accuracy."""

from experiments.frontier.run import main

if __name__ == "__main__":
    main()
