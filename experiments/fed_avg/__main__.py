"""`python -m experiments.fed_avg --workdir=DIR`: FedAvg with compressed links."""

from experiments.fed_avg.run import main

if __name__ == "__main__":
    main()
