"""What is done with a Hugging Face model: built, tried out, compiled, sharded, read back, exported."""
