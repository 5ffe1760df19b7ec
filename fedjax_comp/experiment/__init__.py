"""What every experiment is made of: flags, runs, comparisons."""
