"""What the parser says of a mistake, as an error of one line: value, constraint, remedy."""
