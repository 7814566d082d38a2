"""The peer methods once more, for one image, written from their descriptions as plain loops over tokens in float64.

Slow on purpose, and without anything from `gridprune.methods`. A function returns the kept tokens, ascending, or a dict
slot -> {token: weight} for methods that merge, where the slot is the token whose place the merged one takes.
"""

from __future__ import annotations

import math

import numpy as np

from gridprune.core.allocate import apportion
from gridprune.core.token_map import TokenMap

TIE = 1e-6


def rows(x):
    x = np.asarray(x.detach().double().numpy() if hasattr(x, "detach") else x, dtype=np.float64)
    return x


def cosines(a, b=None):
    a = rows(a)
    b = a if b is None else rows(b)
    sizes = np.outer(np.sqrt((a * a).sum(1)), np.sqrt((b * b).sum(1)))
    return np.divide(a @ b.T, sizes, out=np.zeros_like(sizes), where=sizes > 0)


def pick(score: dict, scale=1.0):
    best = max(score.values())
    return min(i for i, value in score.items() if value >= best - TIE * scale)


def argmax(score: dict):
    """The token of the largest score; the first of those that are equal but for the rounding of float64."""
    best = max(score.values())
    return min(i for i, value in score.items() if value >= best - 1e-9 * abs(best) - 1e-12)


def best_first(score, tokens):
    return sorted(tokens, key=lambda i: (-score[i], i))


def minmax(values):
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 0.0 for v in values]


def outlier_set(values):
    q1, q3 = np.quantile(np.float32(values), [0.25, 0.75])
    return [i for i, v in enumerate(values) if np.float32(v) > np.float32(q3 + 1.5 * (q3 - q1))]


def sign(c):
    return {"plus": 1, "minus": -1}[c["reading"]]


# ---------------------------------------------------------------------------------------------------- diversity


def divprune(c, token_map, k, quality=None, similarity=None, argmax=pick):
    s = cosines(c["features"]) if similarity is None else similarity
    n = len(s)
    apart = [1 - max((s[i, j] for j in range(n) if j != i), default=-1.0) for i in range(n)]
    kept = [pick(dict(enumerate(apart)))]
    q = [1.0] * n if quality is None else quality
    while len(kept) < k:
        kept.append(argmax({i: q[i] * min(1 - s[i, j] for j in kept) for i in range(n) if i not in kept}))
    return sorted(kept)


def cdpruner_relevance(c):
    r = sign(c) * rows(c["relevance"])
    low, high = r.min(), r.max()
    return [(v - low + 1e-6) / (high - low) if high > low else 1.0 for v in r]


def cdpruner(c, token_map, k, theta=None, quality=None, similarity=None):
    s = cosines(c["features"]) if similarity is None else similarity
    n = len(s)
    q = cdpruner_relevance(c)
    if theta is not None:
        q = [math.exp(v * theta / (2 * (1 - theta))) for v in q]
    if quality is not None:
        q = [a * b for a, b in zip(q, quality)]
    return determinant(np.array([[q[i] * s[i, j] * q[j] for j in range(n)] for i in range(n)]), k)


def cdpruner_by_view(c, token_map, k):
    """As released for LLaVA-NeXT: relevance over all crops, then each crop by itself, with its part of k."""
    s, q, view = cosines(c["features"]), cdpruner_relevance(c), token_map.view.tolist()
    kept, views = [], sorted(set(view))
    for number, v in enumerate(views):
        tokens = [i for i in range(len(view)) if view[i] == v]
        part = k // len(views) + (number < k % len(views))
        if part:
            kernel = np.array([[q[i] * s[i, j] * q[j] for j in tokens] for i in tokens])
            kept += [tokens[i] for i in determinant(kernel, part)]
    return sorted(kept)


def cdpruner_split(c, token_map, k):
    s, r = cosines(c["features"]), sign(c) * rows(c["relevance"])
    n = len(r)
    kept = []
    for tokens, part in ((range(n // 2), k // 2), (range(n // 2, n), k - k // 2)):
        if part:
            own = [r[i] for i in tokens]
            q = [(v - min(own)) / (max(own) - min(own) + 1e-6) for v in own]
            kernel = np.array([[q[a] * s[i, j] * q[b] for b, j in enumerate(tokens)] for a, i in enumerate(tokens)])
            kept += [tokens[i] for i in determinant(kernel, part)]
    return sorted(kept)


def determinant(kernel, k, rank=TIE):
    """Greedy MAP of a DPP: always the token that enlarges the determinant most."""
    n = len(kernel)
    scale = max(kernel[i, i] for i in range(n))
    kept, live = [], []

    def residual(i):  # the Schur complement: what of token i the live tokens do not span
        if not live:
            return kernel[i, i]
        return max(0.0, kernel[i, i] - kernel[i, live] @ np.linalg.solve(kernel[np.ix_(live, live)], kernel[live, i]))

    while len(kept) < k:
        left = [i for i in range(n) if i not in kept]
        value = {i: residual(i) for i in left}
        token = pick(value, scale)
        kept.append(token)
        if value[token] > rank * scale:
            live.append(token)
    return sorted(kept)


def vispruner(c, token_map, k):
    a, s = rows(c["saliency"]), cosines(c["tower_features"])
    order = best_first(a, range(len(a)))
    first = int(0.5 * k)
    kept, rest, wanted = order[:first], order[first:], k - first
    while len(rest) > wanted:
        r = min(8, len(rest) - wanted)
        even, odd = rest[0::2], rest[1::2]
        r = min(r, len(even))
        if odd:
            even = sorted(even, key=lambda i: -max(s[i, j] for j in odd))
        rest = even[r:] + odd
    return sorted(kept + rest)


def centered(c, token_map, k, around):
    x = rows(c["features"])
    s = cosines(x)
    n = len(x)
    g = [-sum(s[i, j] for j in range(n) if j != i) / max(n - 1, 1) for i in range(n)]
    g = minmax(g) if max(g) - min(g) > 1e-6 else [1.0] * n
    return around(c, token_map, k, quality=g, similarity=cosines(x - x.mean(0)))


def relevance_weighted(c, token_map, k):
    return divprune(c, token_map, k, quality=minmax(list(sign(c) * rows(c["relevance"]))))


# ----------------------------------------------------------------------------------------------------- coverage


def scope(c, token_map, k, alpha=1.0):
    s, a = cosines(c["tower_features"]), rows(c["saliency"])
    n = len(a)

    def gain(j, cover):
        return a[j] ** alpha * sum(max(0.0, s[i, j] - cover[i]) for i in range(n))

    cover, kept = [0.0] * n, []
    while len(kept) < k:
        token = argmax({j: gain(j, cover) for j in range(n) if j not in kept})
        kept.append(token)
        cover = [max(cover[i], s[i, token]) for i in range(n)]
    return sorted(kept)


def by_mean(values: dict, noise):
    mean = sum(values.values()) / len(values)
    return {i: v / mean if mean > noise else 0.0 for i, v in values.items()}


def tops_stage_one(c, token_map, k):
    s, a = cosines(c["features"]), rows(c["saliency"])
    n = len(a)
    kept = [best_first(a, range(n))[0]]
    while len(kept) < k:
        left = [i for i in range(n) if i not in kept]
        near = {j: max(s[j, i] for i in kept) for j in left}
        div = {i: max(0.0, 1 - near[i]) for i in left}
        cov = {i: sum(max(0.0, s[i, j] - near[j]) for j in left) for i in left}

        ra, rd, rc = by_mean({i: a[i] for i in left}, 0.0), by_mean(div, TIE), by_mean(cov, TIE)
        score = {i: ra[i] + 0.5 * rd[i] + 0.5 * rc[i] for i in left}
        kept.append(argmax(score))
    return sorted(kept)


def softmax(values):
    values = np.asarray(values, dtype=np.float64)
    e = np.exp(values - values.max())
    return e / e.sum()


def mmtok(c, token_map, k):
    text = cosines(c["question_embeds"], c["features"])
    text = [softmax(row / 0.02) for row, there in zip(text, c["question_mask"]) if there]
    vision = [softmax(row / 0.2) for row in cosines(c["tower_features"])]
    n = len(vision)

    def value(kept):
        t = sum(max(row[j] for j in kept) for row in text) / max(len(text), 1)
        return t + 0.5 * sum(max(row[j] for j in kept) for row in vision) / n

    kept, now = [], 0.0
    while len(kept) < k:
        kept.append(argmax({j: value([*kept, j]) - now for j in range(n) if j not in kept}))
        now = value(kept)
    return sorted(kept)


def eadp_scores(c, token_map: TokenMap, words, beta):
    cosine = [w for w, there in zip(sign(c) * rows(c["word_relevance"]), c["word_mask"]) if there]
    n = len(cosine[0])
    entropy = []
    for row in cosine:
        p = softmax(row / 0.01)
        entropy.append(-sum(v * math.log(v) for v in p if v > 0))
    limit = np.quantile(entropy, words)
    kept = [i for i, h in enumerate(entropy) if h <= limit + 1e-6 * abs(limit)]
    weight = softmax([-entropy[i] / 0.01 for i in kept])
    dense = sum(w * cosine[i] for w, i in zip(weight, kept))
    score = minmax(list(0.5 * sign(c) * rows(c["relevance"]) + 0.5 * dense))
    out = [0.0] * n
    side = math.exp(-0.5)
    kernel = np.array([side, 1.0, side]) / (1 + 2 * side)
    for view in sorted(set(token_map.view.tolist())):
        member = [i for i in range(n) if token_map.view[i] == view]
        r0, c0 = min(int(token_map.row[i]) for i in member), min(int(token_map.column[i]) for i in member)
        height = max(int(token_map.row[i]) for i in member) - r0 + 1
        width = max(int(token_map.column[i]) for i in member) - c0 + 1
        grid = np.zeros((height, width))
        for i in member:
            grid[int(token_map.row[i]) - r0, int(token_map.column[i]) - c0] = score[i]
        padded = np.pad(grid, 1, mode="reflect")
        for i in member:
            y, x = int(token_map.row[i]) - r0, int(token_map.column[i]) - c0
            out[i] = float(kernel @ padded[y : y + 3, x : x + 3] @ kernel) ** beta
    return out


def eadp(c, token_map, k, words=0.5, beta=10):
    weight = eadp_scores(c, token_map, words, beta)
    n = len(weight)
    view = token_map.view.tolist()
    s = (1 + cosines(c["features"])) / 2
    s = np.where(np.equal.outer(view, view), s, 0.0)
    views = sorted(set(view))
    if len(views) == 1:
        quota = {views[0]: k}
    else:
        import torch

        share = torch.tensor([[sum(weight[i] for i in range(n) if view[i] == v) for v in views]])
        size = torch.tensor([view.count(v) for v in views])
        parts = apportion(share, k, size, priority=share, minimum=int(len(views) <= k))[0]
        quota = dict(zip(views, parts.tolist()))

    def gain(u, cover):
        return sum(weight[j] * max(0.0, s[u, j] - cover[j]) for j in range(n))

    cover, kept = [0.0] * n, []
    while len(kept) < k:
        token = argmax({u: gain(u, cover) for u in range(n) if u not in kept and quota[view[u]] > 0})
        kept.append(token)
        quota[view[token]] -= 1
        cover = [max(cover[j], s[token, j]) for j in range(n)]
    return sorted(kept)


# ------------------------------------------------------------------------------------------- attention and grids


def attention_runs(c, token_map, k, alpha=None, runs=16):
    a = rows(c["saliency"])
    n = len(a)
    members = []
    for view in sorted(set(token_map.view.tolist())):
        tokens = [i for i in range(n) if token_map.view[i] == view]
        parts = min(runs, len(tokens))
        members += [[t for p, t in enumerate(tokens) if p * parts // len(tokens) == r] for r in range(parts)]
    score = list(a)
    if alpha is not None:
        s = cosines(c["features"])
        spread = [0.0] * n
        for run in members:
            for i in run:
                others = [s[i, j] for j in run if j != i]
                spread[i] = float(np.var(others)) if others else 0.0
        mean = sum(spread) / n
        score = [a[i] + alpha * spread[i] * a.mean() / max(mean, 1e-12) for i in range(n)]
    mean = [np.float32(sum(score[i] for i in run) / len(run)) for run in members]
    total = sum(float(m) for m in mean)
    share = [float(m) / total for m in mean]
    order = best_first(share, range(len(members)))
    budget = [math.floor(k * p + 1e-9) for p in share]
    for run in order[: k - sum(budget)]:
        budget[run] += 1
    over = 0
    for run, member in enumerate(members):
        over += max(0, budget[run] - len(member))
        budget[run] = min(budget[run], len(member))
    for run in order:
        more = min(over, len(members[run]) - budget[run])
        budget[run] += more
        over -= more
    return sorted(t for run, member in enumerate(members) for t in best_first(a, member)[: budget[run]])


def holov(c, token_map, k):
    return attention_runs(c, token_map, k)


def holov_printed(c, token_map, k):
    return attention_runs(c, token_map, k, alpha=0.09)


def beside(token_map, i):
    """Tokens above, below, left and right of i in its view and frame."""
    out = []
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        for j in range(len(token_map)):
            same = token_map.view[j] == token_map.view[i] and token_map.frame[j] == token_map.frame[i]
            at = token_map.row[j] == token_map.row[i] + dy and token_map.column[j] == token_map.column[i] + dx
            if same and at:
                out.append(j)
    return out


def hiprune(c, token_map, k):
    middle, deep = rows(c["saliency_at"][0.375]), rows(c["saliency"])
    n = len(deep)
    kept = best_first(middle, range(n))[: math.floor(0.1 * k / 5 + 0.5)]
    buffers = {j for i in kept for j in beside(token_map, i)} - set(kept)
    kept = kept + best_first(middle, buffers)
    kept = kept[:k]
    rest = best_first(deep, [i for i in range(n) if i not in kept])
    return sorted(kept + rest[: k - len(kept)])


def nearest_mean(x, kept):
    s = cosines(x)
    groups = {i: [i] for i in kept}
    for j in range(len(s)):
        if j not in groups:
            best = max(np.float32(s[j, i]) for i in kept)
            groups[next(i for i in kept if np.float32(s[j, i]) >= best - np.float32(2e-7))].append(j)
    return {i: {j: 1 / len(members) for j in members} for i, members in groups.items()}


def vscan_tower(c, token_map, k):
    deep, shallow = rows(c["saliency"]), rows(c["saliency_at"][5 / 24])
    n = len(deep)
    local = int(0.5 * k)
    kept = best_first(deep, range(n))[: k - local]
    windows = token_map.zones(6, within="view").index.tolist()
    turns = []
    for window in sorted(set(windows)):
        tokens = best_first(shallow, [i for i in range(n) if windows[i] == window and i not in kept])
        turns += [(turn, -shallow[i], i) for turn, i in enumerate(tokens)]
    kept = sorted(kept + [i for _, _, i in sorted(turns)[:local]])
    return nearest_mean(c["tower_features"], kept)


def merge_rest(c, token_map, k):
    kept = sorted(best_first(rows(c["saliency"]), range(len(c["saliency"])))[:k])
    return nearest_mean(c["features"], kept)


def zone_floor(c, token_map, k):
    a = rows(c["saliency"])
    zone = token_map.zones(6).index.tolist()
    first = [best_first(a, [i for i in range(len(a)) if zone[i] == z])[0] for z in sorted(set(zone))]
    rest = best_first(a, [i for i in range(len(a)) if i not in first])
    return sorted((best_first(a, first) + rest)[:k])


def evs(c, token_map, k):
    x = rows(c["features"])
    s = cosines(x)
    score = []
    for i in range(len(x)):
        before = [
            j
            for j in range(len(x))
            if token_map.frame[j] == token_map.frame[i] - 1
            and token_map.row[j] == token_map.row[i]
            and token_map.column[j] == token_map.column[i]
        ]
        score.append(1 - np.float32(s[i, before[0]]) if before else math.inf)
    return sorted(best_first(score, range(len(x)))[:k])


def s2prune_budgets(structure, k, capacity):
    first = int(len(capacity) <= k)
    shares = [s / sum(structure) if sum(structure) > 0 else 1 / len(structure) for s in structure]
    quota = [s * (k - first * len(capacity)) for s in shares]
    budget = [min(first + math.floor(q + 1e-9), room) for q, room in zip(quota, capacity)]
    order = best_first([round((q + 1e-9) % 1, 6) for q in quota], range(len(quota)))
    while sum(budget) < k:
        for region in order:
            if sum(budget) < k and budget[region] < capacity[region]:
                budget[region] += 1
    return budget


def s2prune(c, token_map, k):
    n = len(token_map)
    a, moments = rows(c["saliency"]), rows(c["laplacian"])
    regions, capacity, structure = [], [], []
    for plane in sorted(set(token_map.plane.tolist())):
        member = [i for i in range(n) if token_map.plane[i] == plane]
        height = max(int(token_map.row[i]) for i in member) + 1
        width = max(int(token_map.column[i]) for i in member) + 1
        g = max(1, math.isqrt(k * len(member) // (2 * n)))
        down, across = min(g, height), min(g, width)
        for y in range(down):
            for x in range(across):
                r = range(round(y * height / down), round((y + 1) * height / down))
                q = range(round(x * width / across), round((x + 1) * width / across))
                tokens = [i for i in member if int(token_map.row[i]) in r and int(token_map.column[i]) in q]
                regions.append((r[0], r[-1] + 1, q[0], q[-1] + 1, tokens))
                capacity.append(len(tokens))
                mean = sum(moments[i, 0] for i in tokens) / len(tokens)
                structure.append(np.float32(max(0, sum(moments[i, 1] for i in tokens) / len(tokens) - mean**2)))
    budget = s2prune_budgets(minmax(structure), k, capacity)

    def cells(r0, r1, c0, c1, m):
        if m <= 1:
            return [(r0, r1, c0, c1)] * m
        tall = r1 - r0 >= c1 - c0
        long, short = (r1 - r0, c1 - c0) if tall else (c1 - c0, r1 - r0)
        first = (m + 1) // 2
        cut = min(max(math.floor(long * first / m + 0.5), 1), long - 1)
        first = max(min(first, cut * short), m - (long - cut) * short)
        if tall:
            return cells(r0, r0 + cut, c0, c1, first) + cells(r0 + cut, r1, c0, c1, m - first)
        return cells(r0, r1, c0, c0 + cut, first) + cells(r0, r1, c0 + cut, c1, m - first)

    kept = []
    for (r0, r1, c0, c1, tokens), m in zip(regions, budget):
        made = cells(r0, r1, c0, c1, m)
        assert len(made) == m
        for y0, y1, x0, x1 in made:
            inside = [i for i in tokens if y0 <= token_map.row[i] < y1 and x0 <= token_map.column[i] < x1]
            kept += best_first(a, inside)[:1]
    kept += best_first(a, [i for i in range(n) if i not in kept])[: k - len(kept)]
    return sorted(kept)


# ------------------------------------------------------------------------------------------------------ merging


def appended(kept, n):
    return max(i for i in range(n) if i not in kept)


def visionzip(c, token_map, k):
    a, keys = rows(c["saliency"]), rows(c["keys"])
    n, heads = len(a), c["heads"]
    keys = keys.reshape(n, heads, -1).mean(1)
    s = cosines(keys)
    contextual = math.floor(k * 10 / 64 + 0.5)
    dominant = best_first(a, range(n))[: k - contextual]
    rest = [i for i in range(n) if i not in dominant]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual] if contextual else []
    groups = {t: [] for t in targets}
    for i in rest:
        if targets and i not in targets:
            best = max(s[i, t] for t in targets)
            groups[next(t for t in targets if s[i, t] >= best - 2e-7)].append(i)
    merged = {i: {i: 1.0} for i in dominant}
    for t, members in groups.items():
        merged[t] = {t: 1.0} | {i: 1 / len(members) for i in members}
    return merged


def trim(c, token_map, k):
    r = sign(c) * rows(c["relevance"])
    n = len(r)
    own = k if k in (1, n) else k - 1
    kept = best_first(r, range(n))[:own]
    merged = {i: {i: 1.0} for i in kept}
    if own < k:
        rest = [i for i in range(n) if i not in kept]
        merged[appended(kept, n)] = {i: 1 / len(rest) for i in rest}
    return merged


def trim_iqr_count(c):
    return len(outlier_set(softmax(sign(c) * rows(c["relevance"])))) + 1


def single_head(c):
    keys, query = rows(c["keys"]), rows(c["queries_cls"])
    return softmax(keys @ query / math.sqrt(keys.shape[1]))


def prumerge_with(c, k, order):
    a = single_head(c)
    n = len(a)
    own = k if k in (1, n) else k - 1
    kept = order[:own]
    merged = {i: {i: 1.0} for i in kept}
    if k == n:
        return merged
    s = cosines(c["keys"])
    for i in kept:
        near = sorted((j for j in range(n) if j != i), key=lambda j: -np.float32(s[i, j]))[:32]
        for j in near:
            merged[i][j] = a[j]
    if own < k:
        merged[appended(kept, n)] = {j: a[j] for j in range(n) if j not in kept}
    return merged


def prumerge(c, token_map, k):
    a = single_head(c)
    top = outlier_set(a)
    return prumerge_with(c, k, best_first(a, top) + best_first(a, [i for i in range(len(a)) if i not in top]))


def prumerge_plus(c, token_map, k):
    a = single_head(c)
    n = len(a)
    top = outlier_set(a)
    step = max(1, int(int(n / max(1, len(top))) / 3))
    spaced = [i for i in range(0, n - 1, step) if i not in top]
    rest = [i for i in range(n) if i not in top and i not in spaced]
    return prumerge_with(c, k, best_first(a, top) + best_first(a, spaced) + best_first(a, rest))


def prumerge_plus_fixed(c, token_map, k):
    a = single_head(c)
    n = len(a)
    own = k if k in (1, n) else k - 1
    top = best_first(a, range(n))[: max(1, math.floor(own / 4 + 0.5))]
    rest = [i for i in range(n) if i not in top]
    wanted = own - len(top)
    return prumerge_with(c, k, top + [rest[j * len(rest) // wanted] for j in range(wanted)])


def prumerge_count(c, plus):
    a = single_head(c)
    n = len(a)
    top = outlier_set(a)
    if not plus:
        return len(top) + 1
    step = max(1, int(int(n / max(1, len(top))) / 3))
    return len(set(top) | set(range(0, n - 1, step))) + 1


def fsr(c, token_map, k):
    n = len(c["saliency"])
    r, a = minmax(list(sign(c) * rows(c["relevance"]))), minmax(list(rows(c["saliency"])))
    priority = [np.float32(x).astype(float) ** 3 * float(np.float32(y)) for x, y in zip(r, a)]
    s = cosines(c["features"])
    order = best_first(priority, range(n))
    count, held, total = 0, 0.0, sum(priority)
    while count == 0 or (held < 0.9 * total - 1e-12 * total and count < k):
        held += priority[order[count]]
        count += 1
    focus = order[:count]
    chosen = list(focus)
    while len(chosen) < k:
        chosen.append(pick({i: min(-s[i, j] for j in chosen) for i in range(n) if i not in chosen}))
    scanned = sorted(set(chosen) - set(focus))
    merged = {i: {i: 1.0} for i in chosen}
    dropped = [i for i in range(n) if i not in chosen]
    if scanned:
        close = {i: np.float32(max(s[i, j] for j in scanned)) for i in dropped}
        taken = sorted(dropped, key=lambda i: -close[i])[: len(scanned)]
        groups = {j: [j] for j in scanned}
        for i in taken:
            groups[next(j for j in scanned if s[i, j] >= close[i] - 2e-7)].append(i)
        for j, members in groups.items():
            weight = sum(priority[i] for i in members)
            if weight > 0:
                merged[j] = {i: priority[i] / weight for i in members}
    return merged


def dart_input(c, token_map, k):
    x = rows(c["features"])
    n = len(x)
    size = np.float32(np.abs(x)).sum(1)
    own = best_first(size, range(n))[: min(4, k)]
    text = rows(c["question_embeds"])
    there = [i for i, m in enumerate(c["question_mask"]) if m]
    strongest = best_first(np.float32(np.abs(text)).sum(1), there)[:4]
    directions = [x[i] for i in own] + [text[i] for i in strongest]
    directions += [x[own[0]]] * (len(own) + 4 - len(directions))
    s = cosines(np.array(directions), x)
    kept = list(own)
    parts, extra = divmod(k - len(own), len(directions))
    for place in range(len(directions)):
        left = sorted((i for i in range(n) if i not in kept), key=lambda i: np.float32(s[place, i]))
        kept += left[: parts + (place < extra)]
    return sorted(kept)
