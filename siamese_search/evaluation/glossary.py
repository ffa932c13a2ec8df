"""What the figures of an evaluation mean, in plain words."""

from __future__ import annotations

MEANINGS = {
    "probes": "pictures that were asked about",
    "strangers": "probes of things that are not enrolled, or as distractors: unknown is the right"
    " answer for them",
    "identities": "identities that are enrolled",
    "items": "pictures that are enrolled",
    "recall@": "of the probes of enrolled identities, how many have their own among the {} best",
    "recall@1": "of the probes of enrolled identities, how many have their own as the best",
    "MRR": "mean of 1 / rank of the own identity: 1 if it is always the best, 0.5 if always second",
    "precision@": "of the {} nearest items, how many are of the probe's own identity",
    "mAP@R": "how far the items of the own identity come before all others: 100% if always",
    "TPIR": "of the probes of enrolled identities, how many got their own name",
    "FPIR": "of the pictures of strangers, how many got a name",
    "TPIR at FPIR ": "how many would get their own name, were the threshold such that a share of {}"
    " of the strangers gets a name",
    "EER": "were single scores compared with one threshold: the error where as many wrong"
    " identities pass as right ones do not",
    "AUC": "how often a probe's own identity scores more than another one",
    "FNMR at FMR ": "how many right identities do not pass, were the threshold such that a share of"
    " {} of the wrong ones passes",
    "calibration error": "by how much the confidence differs from the share that is right, on"
    " average",
    "probes per second": "embedded and identified",
}


def meaning(figure: str) -> str:
    """A figure's meaning; nothing for one that is not known. Numbers at its end are put in."""
    if figure in MEANINGS:
        return MEANINGS[figure]
    stem = figure.rstrip("0123456789.")
    return MEANINGS.get(stem, "").format(figure.removeprefix(stem))
