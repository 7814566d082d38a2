"""The interactive page: `gridprune demo`. Needs `pip install gridprune[demo]`."""
