"""`gridprune bench`: what looking, choosing and the remaining tokens cost. Ratios from one interleaved run."""
