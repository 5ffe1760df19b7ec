"""`python -m experiments.rate_distortion --workdir=DIR`: error against bits."""

from experiments.rate_distortion.run import main

if __name__ == "__main__":
    main()
