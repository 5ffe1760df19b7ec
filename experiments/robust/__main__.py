"""`python -m experiments.robust --workdir=DIR`: bad clients against aggregators."""

from experiments.robust.run import main

if __name__ == "__main__":
    main()
