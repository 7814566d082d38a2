"""`gridprune eval`: what pruning costs in answers and saves in tokens; runs become tables and plots.

data.py and evidence.py say what is asked, scoring.py how right an answer is, entries.py and ablations.py what is
compared. shared.py and decode.py answer all questions of a scene from one vision pass, own.py answers a user's own
questions through `prune` and `generate`. run.py and store.py keep a resumable run on disk, metrics.py turns its rows
into numbers, tables.py, plots.py and results.py put these into README and docs.
"""
