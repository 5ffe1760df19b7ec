"""`python -m experiments.stream_minibatch --workdir=DIR`: keeping up."""

from experiments.stream_minibatch.run import main

if __name__ == "__main__":
    main()
