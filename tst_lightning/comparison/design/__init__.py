"""What is compared: from an experiment file to arms, seeds and the commands of their runs."""
