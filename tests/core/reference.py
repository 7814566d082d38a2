"""Slow references for the core: loops over plain integers and Fractions, written from the rules and not from the code.

Nothing here imports `gridprune`. Floating point appears in two places only, softmax and square roots.
"""

import math
import struct
from fractions import Fraction

FLOAT_MAX = 3.4028234663852886e38


def resolve(share, total):
    """The integer nearest to share * total, halves upwards, at least 1."""
    k = 0
    while Fraction(2 * k + 1, 2) <= share * total:  # k + 1/2 is still below or at the product: k + 1 is nearer
        k += 1
    return max(1, k)


def float32(value):
    """The float32 nearest to a number."""
    return struct.unpack("f", struct.pack("f", float(value)))[0]


def weights(shares):
    """The whole numbers of 2^-32 that shares summing to 1 become, 1 or more."""
    return [math.floor(Fraction(s) * 2**32) + 1 for s in shares]


def apportion(weight, total, capacity, priority, minimum=0):
    """Capped largest remainder by rounds: fill what overflows, share out again, until nothing overflows."""
    budget = [min(minimum, c) for c in capacity]
    room = [c - b for c, b in zip(capacity, budget)]
    rest = total - sum(budget)
    open_zones = [j for j in range(len(room)) if room[j] > 0]
    while True:
        whole = sum(weight[j] for j in open_zones)
        full = [j for j in open_zones if Fraction(rest * weight[j], whole) >= room[j]]
        if not full or rest == 0:
            break
        for j in full:
            budget[j] += room[j]
        rest -= sum(room[j] for j in full)
        open_zones = [j for j in open_zones if j not in full]
        assert rest >= 0
    if rest == 0:
        return budget
    quota = {j: round(Fraction(rest * weight[j] * 2**30, whole)) for j in open_zones}  # in 2^-30 tokens
    for j in open_zones:
        budget[j] += quota[j] // 2**30
    missing = rest - sum(q // 2**30 for q in quota.values())

    def deserves(j):
        p = priority[j]
        return (-(quota[j] % 2**30), math.inf if math.isnan(p) else -p, j)

    for j in sorted(open_zones, key=deserves)[:missing]:
        budget[j] += 1
    return budget


def score_key(score):
    """NaN below everything, infinities at the ends of float32."""
    return -math.inf if math.isnan(score) else max(-FLOAT_MAX, min(FLOAT_MAX, score))


def rank_in_zone(scores, zone):
    ranks = [0] * len(scores)
    for i, score in enumerate(map(score_key, scores)):
        for j, rival in enumerate(map(score_key, scores)):
            if zone[i] == zone[j] and (rival > score or (rival == score and j < i)):
                ranks[i] += 1
    return ranks


def topk_per_zone(scores, zone, budget):
    kept = []
    for j, take in enumerate(budget):
        members = [i for i in range(len(scores)) if zone[i] == j]
        kept += sorted(members, key=lambda i: (-score_key(scores[i]), i))[:take]
    return sorted(kept)


def topk(scores, k):
    return topk_per_zone(scores, [0] * len(scores), [k])


def zone_mean(values, zone, count):
    """Exact means; None for an empty zone."""
    means = []
    for j in range(count):
        members = [Fraction(v) for v, z in zip(values, zone) if z == j]
        means.append(sum(members) / len(members) if members else None)
    return means


def softmax(logits):
    """None takes no part."""
    highest = max(x for x in logits if x is not None)
    terms = [0.0 if x is None else math.exp(x - highest) for x in logits]
    return [t / math.fsum(terms) for t in terms]


def minmax(values):
    low, high = min(values), max(values)
    return [Fraction(v - low, high - low) if high > low else Fraction(0) for v in map(Fraction, values)]


def cut(length, size):
    """Where each of `length` positions falls when they are cut into the fewest parts of at most `size`."""
    parts = math.ceil(Fraction(length, size))
    return [math.floor(Fraction(position * parts, length)) for position in range(length)], parts


def zones(tokens, height, width, frames, sheet):
    """Zone of each token, their number and the sheet of each zone; a token is (plane, view, row, column, frame)."""
    index, zone_sheet = {}, []
    for s in sorted({t[sheet] for t in tokens}):
        inside = [i for i, t in enumerate(tokens) if t[sheet] == s]
        axes = []
        for axis, size in ((4, frames), (2, height), (3, width)):
            values = [tokens[i][axis] for i in inside]
            where, parts = cut(max(values) - min(values) + 1, size)
            axes.append(({i: where[tokens[i][axis] - min(values)] for i in inside}, parts))
        (f, fs), (r, rs), (c, cs) = axes
        for i in inside:
            index[i] = len(zone_sheet) + (f[i] * rs + r[i]) * cs + c[i]
        zone_sheet += [s] * (fs * rs * cs)
    return [index[i] for i in range(len(tokens))], zone_sheet


def equal_parts(total, capacity):
    """Hand out one token at a time, in turns, to whoever has room; the last turn goes to the earliest."""
    parts = [0] * len(capacity)
    while total:
        for i in range(len(parts)):
            if total and parts[i] < capacity[i]:
                parts[i] += 1
                total -= 1
    return parts


def gridprune(tokens, relevance, saliency, k, *, sign, zone, guide, temperature, alpha, minimum, scope):
    """The whole method for one image: kept indices, zone budgets and exact scores."""
    relevance = [Fraction(r) * sign for r in relevance]
    index, zone_sheet = zones(tokens, zone, zone, 1, 0 if scope == "image" else 1)
    size = [index.count(j) for j in range(len(zone_sheet))]
    if guide == "mean":
        means = zone_mean(relevance, index, len(zone_sheet))
        mass = softmax([None if mean is None else float32(mean) / temperature for mean in means])
    else:  # each zone's part of a softmax over all tokens
        of_token = softmax([float(r) / temperature for r in relevance])
        mass = [math.fsum(p for p, j in zip(of_token, index) if j == z) for z in range(len(zone_sheet))]

    sheets = sorted(set(zone_sheet))
    if scope == "image":
        jobs = [(list(range(len(zone_sheet))), k)]
    else:
        tokens_in = [sum(t[1] == s for t in tokens) for s in sheets]
        jobs = [
            ([j for j, s in enumerate(zone_sheet) if s == sheet], part)
            for sheet, part in zip(sheets, equal_parts(k, tokens_in))
        ]
    budget = [0] * len(zone_sheet)
    for members, part in jobs:
        whole = math.fsum(mass[j] for j in members)
        shares = [mass[j] / whole if whole else 1 / len(members) for j in members]
        capacity = [size[j] for j in members]
        for j, b in zip(members, apportion(weights(shares), part, capacity, [0.0] * len(members), minimum)):
            budget[j] = b

    a = [Fraction(0)] * len(tokens)
    if alpha > 0:
        for view in {t[1] for t in tokens}:
            inside = [i for i, t in enumerate(tokens) if t[1] == view]
            values = [Fraction(saliency[i]) for i in inside]
            for i, value in zip(inside, minmax(values)):
                a[i] = value
    alpha = Fraction(alpha)
    scores = [(1 - alpha) * (r + 1) / 2 + alpha * x for r, x in zip(relevance, a)]
    return topk_per_zone(scores, index, budget), budget, scores
