"""Compact n-gram targets: the next-token distribution of the last few tokens, counted in the training text.

Sathe, Sarawagi, *Efficient Training of Language Models with Compact and Consistent Next Token Distributions*,
arXiv 2407.02819 (CoCoNTs): supervise with the distribution after the last ``n - 1`` tokens, cut to its ``r`` most
frequent tokens, instead of with the one token that came.

With ``p`` the distribution, ``S`` its top ``r`` tokens, ``P = p(S)`` and ``x`` the token that came, two rules (the
paper's exact one is not public) give targets whose mean over the occurrences of a context is ``p``:

- A: ``p`` restricted to ``S`` and divided by ``P`` if ``x`` is in ``S``, else ``x`` alone. Exactly ``p`` on average.
- E: ``p`` on ``S``, and ``1 - P`` on one token of the rest: ``x`` if it is of the rest, else one drawn when the table
  is built. ``p`` on average over the draws, and of lower variance.
"""
