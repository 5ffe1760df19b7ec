"""`python -m experiments.approximate_synchronous --workdir=DIR`: time to accuracy."""

from experiments.approximate_synchronous.run import main

if __name__ == "__main__":
    main()
