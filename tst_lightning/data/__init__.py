"""From text to batches: corpus -> prepare -> plan -> datamodule."""

import os

# Read when litdata is imported: without it some versions ask a package index for news, for up to 30 seconds.
os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
