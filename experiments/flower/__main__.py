"""`python -m experiments.flower`: names the commands that are here."""

from pathlib import Path

from experiments.commands import name_them

if __name__ == "__main__":
    name_them(Path(__file__).parent)
