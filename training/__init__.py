"""How the embedded model is made; not part of the package. See README.md."""
