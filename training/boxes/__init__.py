"""How the embedded model of today was made, with boxes that say which patch answers: `python -m training.boxes`."""
