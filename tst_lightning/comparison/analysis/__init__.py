"""From what runs left to numbers: curves, summaries, paired differences, item tests, frontiers."""
