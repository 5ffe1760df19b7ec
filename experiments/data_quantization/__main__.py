"""`python -m experiments.data_quantization --workdir=DIR`: data or gradients."""

from experiments.data_quantization.run import main

if __name__ == "__main__":
    main()
