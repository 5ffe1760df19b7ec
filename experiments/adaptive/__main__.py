"""`python -m experiments.adaptive --workdir=DIR`: time to accuracy by controllers."""

from experiments.adaptive.run import main

if __name__ == "__main__":
    main()
