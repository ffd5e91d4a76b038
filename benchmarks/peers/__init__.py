"""The methods that `benchmarks/frontier.py` compares with ours, and how they are compared."""
