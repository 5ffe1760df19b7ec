"""`python -m experiments.diloco --workdir=DIR`: what language models need to send."""

from experiments.diloco.run import main

if __name__ == "__main__":
    main()
