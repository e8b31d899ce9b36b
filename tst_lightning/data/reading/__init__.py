"""From token shards to batches: the plan of a run, and the store that it reads."""
