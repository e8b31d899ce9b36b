"""From text to batches: corpus -> prepare -> plan -> datamodule."""
