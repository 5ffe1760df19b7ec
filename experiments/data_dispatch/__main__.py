"""`python -m experiments.data_dispatch --workdir=DIR`: who gets which data."""

from experiments.data_dispatch.run import main

if __name__ == "__main__":
    main()
