"""`python -m experiments.split_learning --workdir=DIR`: bytes, work and accuracy."""

from experiments.split_learning.run import main

if __name__ == "__main__":
    main()
