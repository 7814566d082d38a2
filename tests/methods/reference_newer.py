"""The peers of 2026 as plain loops in float64; see `reference`, whose helpers these use."""

from __future__ import annotations

import math

import numpy as np
import torch
from reference import argmax, best_first, cosines, determinant, minmax, pick, rows, sign, softmax


def by_heads(c, weights=None):
    heads = rows(c["head_relevance"])
    n = heads.shape[1]
    weights = [1 / len(heads)] * len(heads) if weights is None else weights
    out = [0.0] * n
    for weight, row in zip(weights, heads):
        length = math.sqrt(sum(v * v for v in row))
        for j in range(n):
            out[j] += weight * row[j] / length
    return out


def hawk(c, token_map, k, weights=None):
    scores = [float(np.float32(v)) for v in by_heads(c, weights)]
    return sorted(best_first(scores, range(len(scores)))[:k])


def nuwa(c, token_map, k):
    a = rows(c["saliency"])
    zone = token_map.zones(2).index.tolist()
    named, per_zone = [], 0
    while len(named) < k:
        per_zone += 1
        named = [t for z in set(zone) for t in best_first(a, [i for i in range(len(a)) if zone[i] == z])[:per_zone]]
    return sorted(best_first(a, named)[:k])


def otprune(c, token_map, k):
    x = rows(c["features"])
    for channel in range(x.shape[1]):
        x[:, channel] /= math.sqrt(sum(v * v for v in x[:, channel]))
    n = len(x)
    s = [[x[i] @ x[j] for j in range(n)] for i in range(n)]
    kernel = [[(i == j) + 0.01 * sum(s[i][m] * s[j][m] for m in range(n)) for j in range(n)] for i in range(n)]
    return determinant(np.array(kernel), k, rank=0.0)


def mmr(c, token_map, k):
    s, imp = cosines(c["features"]), minmax(list(rows(c["saliency"])))
    kept = [best_first(imp, range(len(imp)))[0]]
    while len(kept) < k:
        left = [i for i in range(len(imp)) if i not in kept]
        kept.append(pick({i: 0.5 * imp[i] - 0.5 * max(s[i, j] for j in kept) for i in left}))
    return sorted(kept)


def id_selection(c, token_map, k):
    s, imp = cosines(c["features"]), minmax(list(rows(c["saliency"])))
    score = {i: math.log(max(v, 1e-6)) for i, v in enumerate(imp)}
    kept = []
    while len(kept) < k:
        token = argmax(score)
        kept.append(token)
        del score[token]
        score = {i: v - 20 * max(0.0, s[i, token]) for i, v in score.items()}
    return sorted(kept)


def zoo_prune(c, token_map, k):
    s, sensitivity = cosines(c["features"]), minmax(list(rows(c["sensitivity"])))
    kept = [best_first(sensitivity, range(len(s)))[0]]
    while len(kept) < k:
        left = [i for i in range(len(s)) if i not in kept]
        kept.append(argmax({i: sensitivity[i] * (1 - max(s[i, j] for j in kept)) for i in left}))
    return sorted(kept)


def l2norm(c, token_map, k):
    size = [np.float32(math.sqrt(row @ row)) for row in rows(c["tower_features"])]
    return sorted(best_first(size, range(len(size)))[:k])


def litelvlm(c, token_map, k):
    r, a = sign(c) * rows(c["relevance"]), rows(c["saliency"])
    asked = best_first(r, range(len(r)))[: math.ceil(k / 2)]
    return sorted(asked + best_first(a, [i for i in range(len(a)) if i not in asked])[: k - len(asked)])


def gridprune_cover(c, token_map, k, zone=0, even=0.3):
    """The best gain of the whole image, k times."""
    r, a, x = rows(c["relevance"]), rows(c["saliency"]), rows(c["features"])
    n = len(r)
    away = abs(r - r.mean()) if c["reading"] == "both" else np.maximum(sign(c) * (r - r.mean()), 0)
    log = np.log(np.maximum(a, a.mean() / 1000))
    view = token_map.view.numpy()
    above = np.maximum(log - [log[view == v].mean() for v in view], 0)
    guide = sum(part**2 / max((part**2).sum(), 1e-12) for part in (away, above))
    weight = (1 - even) * guide / max(guide.sum(), 1e-12) + even / n
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    side = zone or max(1, round(math.sqrt(8 * n / k)))
    index = token_map.zones(side).index.numpy()
    cosine = np.maximum(unit @ unit.T, 0) * (index[:, None] == index)
    covered, kept = np.zeros(n), []
    while len(kept) < k:
        gain = (weight[:, None] * np.maximum(cosine - covered[:, None], 0)).sum(0)
        kept.append(argmax({j: gain[j] for j in range(n) if j not in kept}))
        covered = np.maximum(covered, cosine[:, kept[-1]])
    return sorted(kept)


def distances(x):
    return [[math.sqrt(max(0.0, (a - b) @ (a - b))) for b in x] for a in x]


def farthest(x, count, first):
    apart, kept = distances(x), [first]
    while len(kept) < count:
        kept.append(argmax({i: min(apart[i][j] for j in kept) for i in range(len(x)) if i not in kept}))
    return kept


def apet(c, token_map, k):
    x = rows(c["features"])
    n = len(x)
    away = x - x.mean(0)
    basis = farthest(x, min(10, n), argmax({i: row @ row for i, row in enumerate(away)}))
    b = x[basis]
    error = []
    for row in x:
        left = row - np.linalg.solve(b @ b.T + 1e-5 * np.eye(len(b)), b @ row) @ b
        size = math.sqrt(left @ left)
        error.append(size if size > 1e-4 * math.sqrt(row @ row) else 0.0)
    own = basis[: min(10, k - 1)]
    worst = sorted(best_first(error, [i for i in range(n) if i not in own])[: k - len(own)])
    s = cosines(x)
    groups = {i: [i] for i in worst}
    for i in range(n):
        if i not in own and i not in worst:
            best = max(s[i, j] for j in worst)
            groups[next(j for j in worst if s[i, j] >= best - 2e-7)].append(i)
    merged = {i: {j: 1 / len(members) for j in members} for i, members in groups.items()}
    return merged | {i: {i: 1.0} for i in own}


def vlm_pruner(c, token_map, k):
    x = rows(c["features"])
    n = len(x)
    sheet = list(zip(token_map.plane.tolist(), token_map.frame.tolist()))
    place = list(zip(token_map.row.tolist(), token_map.column.tolist()))
    diagonal = {}
    for plane in set(token_map.plane.tolist()):
        own = [place[i] for i in range(n) if token_map.plane[i] == plane]
        diagonal[plane] = math.hypot(max(y for y, _ in own) + 1, max(column for _, column in own) + 1)
    variance = x.var(0)
    channels = best_first([np.float32(v) for v in variance], range(x.shape[1]))[:256]
    s = cosines(x[:, channels])
    size = [np.float32(np.abs(row).sum()) for row in x]
    kept = farthest(x, min(4, k), best_first(size, range(n))[0])
    threshold = 0.8

    def redundancy(i):
        far = [math.dist(place[i], place[j]) for j in kept if sheet[j] == sheet[i]]
        whole = diagonal[sheet[i][0]]
        return max(s[i, j] for j in kept) * (1 + 0.5 * min([*far, whole]) / whole)

    while len(kept) < k:
        value = {i: np.float32(redundancy(i)) for i in range(n) if i not in kept}
        below = sorted((i for i in value if value[i] < np.float32(threshold)), key=lambda i: (value[i], i))
        kept += below[: min(16, k - len(kept))]
        threshold += 0 if below else 0.1
    return sorted(kept)


def vidcom2(c, token_map, k):
    x = rows(c["features"])
    n = len(x)
    quiet = sorted(range(x.shape[1]), key=lambda channel: (np.float32(x[:, channel].var()), channel))
    x = x[:, quiet[: x.shape[1] // 2]]
    x = np.array([row / math.sqrt(row @ row) for row in x])
    frame = token_map.frame.tolist()

    def likeness(row, centre):
        square = (row - centre) @ (row - centre)
        return sum(math.exp(-square / (2 * width)) for width in (0.125, 0.25, 0.5, 1, 2))

    members = [[i for i in range(n) if frame[i] == f] for f in sorted(set(frame))]
    to_video = [likeness(row, x.mean(0)) for row in x]
    score = [to_video[i] + likeness(x[i], x[members[frame[i]]].mean(0)) for i in range(n)]
    p = softmax([-sum(to_video[i] for i in own) / len(own) / 0.01 for own in members])
    quota = [k * (1 + v - p.mean()) * len(own) / n for v, own in zip(p, members)]
    budget = capped_shares(quota, [len(own) for own in members], k)
    return sorted(
        i for own, b in zip(members, budget) for i in sorted(own, key=lambda i: (np.float32(score[i]), i))[:b]
    )


def capped_shares(quota, room, k):
    """Largest remainder; what a full part cannot take is shared out again among the others."""
    full = set()
    while True:
        level = (k - sum(room[i] for i in full)) / max(sum(quota[i] for i in range(len(quota)) if i not in full), 1e-12)
        more = {i for i in range(len(quota)) if i not in full and quota[i] * level >= room[i] - 1e-9}
        if not more:
            break
        full |= more
    exact = [room[i] if i in full else quota[i] * level for i in range(len(quota))]
    budget = [math.floor(v + 1e-9) for v in exact]
    for i in best_first([round(v - b, 6) for v, b in zip(exact, budget)], range(len(exact)))[: k - sum(budget)]:
        budget[i] += 1
    return budget


def prunesid(c, token_map, k):
    x, a = 1 / (1 + np.exp(-rows(c["tower_features"]).clip(-60, 60))), rows(c["saliency"])
    n = len(a)
    x = x - x.mean(1, keepdims=True)
    count = min(max(1, k // 4), *x.shape)
    start = torch.randn(n, count, generator=torch.Generator().manual_seed(0)).double().numpy()
    basis = np.linalg.qr(x.T @ start)[0]
    for _ in range(2):
        basis = np.linalg.qr(x.T @ np.linalg.qr(x @ basis)[0])[0]
    left, size, _ = np.linalg.svd(x @ basis, full_matrices=False)
    weight = np.abs(left) * (size > 1e-5 * size[0])
    group = [int(np.argmax(row)) for row in weight]
    s = cosines(c["tower_features"])
    mean = sum(s[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    alive = []
    for i in best_first(a, range(n)):
        if not any(group[j] == group[i] and s[i, j] > k / 32 * mean for j in alive):
            alive.append(i)
    order = {g: best_first(a, [i for i in alive if group[i] == g]) for g in range(count)}
    for g in order:
        order[g] += best_first(a, [i for i in range(n) if group[i] == g and i not in alive])
    there = [g for g in order if order[g]]
    rest, total, before, reached, chosen = k - len(there), len(alive), 0, 0, []
    for g in order:
        reached += sum(group[i] == g for i in alive)
        upto = math.floor(rest * reached / total + 0.5)
        chosen += order[g][: min((g in there) + upto - before, 5 * math.ceil(k / 64))]
        before = upto
    left_over = [i for i in best_first(a, alive) if i not in chosen]
    left_over += best_first(a, [i for i in range(n) if i not in alive and i not in chosen])
    return sorted(chosen + left_over[: k - len(chosen)])
