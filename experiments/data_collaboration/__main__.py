"""`python -m experiments.data_collaboration --workdir=DIR`: one upload, or rounds."""

from experiments.data_collaboration.run import main

if __name__ == "__main__":
    main()
