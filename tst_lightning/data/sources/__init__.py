"""Where text comes from: one small class for each kind of corpus."""
