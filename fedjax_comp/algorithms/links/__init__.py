"""What travels on the links of algorithms that send more than a model."""
