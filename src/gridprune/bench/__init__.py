"""`gridprune bench`: what pruning gains on a checkpoint of your own, on your own machine."""
