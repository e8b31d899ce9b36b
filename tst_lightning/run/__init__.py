"""What `fit`, `validate` and `test` add to LightningCLI and its Trainer."""
