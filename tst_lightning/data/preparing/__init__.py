"""From text to token shards: what ``tst-lightning prepare`` is made of."""
