"""What is measured: one module each, whose `run` answers what the JSON file keeps of it."""
