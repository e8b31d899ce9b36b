"""``tst-lightning plan``: what a `fit` will cost and need, told before anything is paid for."""
