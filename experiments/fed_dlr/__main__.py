"""`python -m experiments.fed_dlr --workdir=DIR`: low rank on both links."""

from experiments.fed_dlr.run import main

if __name__ == "__main__":
    main()
