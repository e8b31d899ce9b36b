"""Arms x seeds -> runs -> analysis -> report."""
