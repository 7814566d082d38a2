"""Token maps for the tests of the core: multi-view, ragged, with newlines."""

import torch

from gridprune.core.token_map import TokenMap


def anyres(base, tiles, tile, *, crop=(0, 0), newlines=False):
    """An overview of `base` and a mosaic of `tiles` tiles of `tile` tokens each, unpadded by `crop` rows and columns.

    Args:
        base, tile: rows and columns.
        tiles: rows and columns of tiles.
        crop: rows and columns that unpadding takes off the mosaic at its bottom and right.
        newlines: whether each row of the mosaic ends in a separator.
    """
    tokens = [(0, 0, r, c, 0, False) for r in range(base[0]) for c in range(base[1])]
    rows, columns = tiles[0] * tile[0] - crop[0], tiles[1] * tile[1] - crop[1]
    for r in range(rows):
        tokens += [(1, 1 + r // tile[0] * tiles[1] + c // tile[1], r, c, 0, False) for c in range(columns)]
        if newlines:
            tokens.append((1, tokens[-1][1], r, columns, 0, True))
    return build(tokens, (rows, columns))


def build(tokens, grid):
    """A map from rows of (plane, view, row, column, frame, separator)."""
    table = torch.tensor([[int(x) for x in t] for t in tokens])
    n = len(tokens)
    return TokenMap(
        plane=table[:, 0],
        view=table[:, 1],
        row=table[:, 2],
        column=table[:, 3],
        frame=table[:, 4],
        separator=table[:, 5].bool(),
        boxes=torch.zeros(n, 4),
        source=torch.arange(n)[:, None],
        grid=grid,
    )


def listed(token_map):
    """[(plane, view, row, column, frame)] of a map."""
    parts = (token_map.plane, token_map.view, token_map.row, token_map.column, token_map.frame)
    return list(zip(*(part.tolist() for part in parts)))
