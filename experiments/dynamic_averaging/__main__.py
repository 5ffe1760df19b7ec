"""`python -m experiments.dynamic_averaging --workdir=DIR`: loss against bytes."""

from experiments.dynamic_averaging.run import main

if __name__ == "__main__":
    main()
