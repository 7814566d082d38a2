"""`gridprune report`: a run of `gridprune eval` as one HTML file that opens from disk.

data.py gathers the numbers, questions.py the questions with their images and kept tokens, page.py puts both and the
files in assets/ into one page.
"""
