"""Several requests as one, and its scores taken apart again."""

from collections.abc import Sequence

import numpy as np

from ctr_pipeline.serving.bundle import Scores
from ctr_pipeline.serving.request_inputs import RequestInputs


def merged_requests(requests: Sequence[RequestInputs]) -> RequestInputs:
    """The inputs of all requests, which are of one model.

    Where candidates share nothing, rows follow each other. Else each request is one of G, and those with fewer candidates
    than the largest are filled up with zeros.
    """
    if len(requests) == 1:
        return requests[0]
    first = requests[0]
    if not first.columns.share:
        return RequestInputs(
            first.columns,
            first.shared_numeric,
            first.shared_ids,
            np.concatenate([request.numeric for request in requests], axis=1),
            np.concatenate([request.ids for request in requests], axis=1),
        )
    sizes = [request.ids.shape[:2] for request in requests]
    count, most = sum(groups for groups, _ in sizes), max(candidates for _, candidates in sizes)
    numeric = np.zeros((count, most, first.numeric.shape[2]), dtype=np.float32)
    ids = np.zeros((count, most, first.ids.shape[2]), dtype=np.int64)
    at = 0
    for request, (groups, candidates) in zip(requests, sizes, strict=True):
        numeric[at : at + groups, :candidates] = request.numeric
        ids[at : at + groups, :candidates] = request.ids
        at += groups
    return RequestInputs(
        first.columns,
        np.concatenate([request.shared_numeric for request in requests]),
        np.concatenate([request.shared_ids for request in requests]),
        numeric,
        ids,
    )


def scores_by_request(scores: Scores, requests: Sequence[RequestInputs]) -> list[Scores]:
    """The scores of each of ``requests``, of those of :func:`merged_requests`."""
    if len(requests) == 1:
        return [scores]
    shared = requests[0].columns.share
    most = max(request.ids.shape[1] for request in requests)
    found, at = [], 0
    for request in requests:
        groups, candidates = request.ids.shape[:2]
        if shared:
            rows = (np.arange(at, at + groups)[:, None] * most + np.arange(candidates)).ravel()
            at += groups
        else:
            rows = np.arange(at, at + groups * candidates)
            at += groups * candidates
        found.append(Scores(scores.logits[rows], scores.probabilities[rows]))
    return found
