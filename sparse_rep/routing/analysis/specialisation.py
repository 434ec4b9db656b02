"""Whether experts prefer some text: domains, positions, any labelling, single tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rep.routing.analysis.counted import Choices, Documents, Ints, Router
from sparse_rep.routing.analysis.information import common, mutual_information, rotations, table
from sparse_rep.routing.analysis.intervals import GROUPS, Counts, Estimate, central, divided, jackknife
from sparse_rep.routing.analysis.metric import Metric

DOMAIN_DRAWS = 200
ROTATIONS = 40
LEAST = 10
"""Occurrences below which a token says too little (OLMoE, section 5.4)."""
SHUFFLED = "domains shuffled among documents"
TURNED = "labels turned within each document"


def specialisation(n: Counts, tokens: Counts) -> NDArray[np.float64]:
    """Share of a label's tokens that choose an expert, N_{i,D} / N_D (OLMoE, section 5.3).

    n: (labels, e); tokens: (labels). A router that ignores labels and loads shows k / e everywhere.
    """
    return divided(n, tokens[:, None])


def by_domain(docs: Documents, domain: Ints) -> tuple[Counts, Counts]:
    """Counts (domains, e) and tokens (domains), each document counted under the domain given."""
    n = np.zeros((len(docs.domains), docs.n.shape[1]))
    tokens = np.zeros(len(docs.domains))
    np.add.at(n, domain, docs.n)
    np.add.at(tokens, domain, docs.n_tokens)
    return n, tokens


def grouped_by_domain(docs: Documents) -> tuple[Counts, Counts]:
    """The same (g, domains, e) and (g, domains)."""
    n = np.zeros((GROUPS, len(docs.domains), docs.n.shape[1]))
    tokens = np.zeros((GROUPS, len(docs.domains)))
    np.add.at(n, (docs.group, docs.domain), docs.n)
    np.add.at(tokens, (docs.group, docs.domain), docs.n_tokens)
    return n, tokens


def domain_columns(router: Router, docs: Documents) -> tuple[list[dict[str, Any]], list[Metric]]:
    """Rows of `expert_labels` over all text and by domain; figures of the layer where there are several domains."""
    everything = jackknife(
        lambda n, t: n / max(t.sum(), 1), docs.grouped(docs.n), docs.grouped(docs.n_tokens), low=0, high=1
    )
    total = docs.n_tokens.sum()
    rows = [_rows(router, "all", ["all"], docs.n.sum(0)[None], np.array([total]), _one(everything), None)]
    if len(docs.domains) < 2:
        return rows, []
    n, tokens = by_domain(docs, docs.domain)
    estimate = jackknife(specialisation, *grouped_by_domain(docs), low=0, high=1)
    rng = np.random.default_rng(router.layer)
    shuffled = [by_domain(docs, rng.permutation(docs.domain)) for _ in range(DOMAIN_DRAWS)]
    shares = np.stack([specialisation(*pair) for pair in shuffled])
    rows.append(_rows(router, "domain", docs.domains, n, tokens, estimate, central(shares)))

    def largest(n: Counts, t: Counts) -> float:
        return float(np.nanmax(specialisation(n, t)))

    def information(n: Counts, t: Counts) -> float:
        return mutual_information(n)

    grouped = grouped_by_domain(docs)
    return rows, [
        Metric(
            "specialisation_max", "share of a domain's tokens", jackknife(largest, *grouped, low=0, high=1),
            central(np.nanmax(shares, axis=(1, 2))), SHUFFLED, int(total),
        ),
        Metric(
            "mi_domain", "bits", jackknife(information, *grouped),
            central(np.array([information(*pair) for pair in shuffled])), SHUFFLED, int(total),
        ),
    ]  # fmt: skip


def label_columns(router: Router, rows: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Rows of `expert_labels` for every labelling of the answer of `routing.by_label`."""
    found = []
    for labelling in sorted(set(rows["labelling"])):
        mine = rows["labelling"] == labelling
        label = rows["label"][mine].astype(str)
        names = sorted(set(label), key=_numeric_first)
        number = np.array([names.index(name) for name in label])
        grp, expert, n = (rows[c][mine] for c in ("grp", "expert", "n"))
        tokens, counts = np.zeros((GROUPS, len(names))), np.zeros((GROUPS, len(names), router.n_experts))
        of_label = expert < 0
        tokens[grp[of_label], number[of_label]] = n[of_label]
        counts[grp[~of_label], number[~of_label], expert[~of_label]] = n[~of_label]
        estimate = jackknife(specialisation, counts, tokens, low=0, high=1)
        found.append(_rows(router, labelling, names, counts.sum(0), tokens.sum(0), estimate, None))
    return found


def token_metrics(router: Router, choices: Choices, labels: dict[str, Ints]) -> list[Metric]:
    """Information that token ids and labels hold about the choice, against labels turned within their document.

    labels: by labelling, a label's number a token (n) of `choices`, -1 for none.
    """
    rng = np.random.default_rng(router.layer)
    turned = list(rotations(choices.doc, ROTATIONS, rng))
    found = []
    ids = {f"mi_{side}_token": common(values, LEAST) for side, values in choices.ids.items()}
    for name, (numbers, n_labels) in ids.items():
        if n_labels > 1:
            found.append(_information(name, router, choices, numbers, n_labels, turned))
            side = name.removeprefix("mi_").removesuffix("_token")
            found.append(_vocabulary(f"vocabulary_{side}", router, choices, numbers, n_labels, turned))
    for labelling, numbers in labels.items():
        if (numbers >= 0).any() and numbers.max() > 0:
            found.append(_information(f"mi_{labelling}", router, choices, numbers, int(numbers.max()) + 1, turned))
    return found


def _information(
    name: str, router: Router, choices: Choices, numbers: Ints, n_labels: int, turned: list[Ints]
) -> Metric:
    null = [mutual_information(table(choices.expert, numbers[order], router.n_experts, n_labels)) for order in turned]
    estimate = jackknife(mutual_information, _grouped(router, choices, numbers, n_labels))
    return Metric(name, "bits", estimate, central(np.array(null)), TURNED, int((numbers >= 0).sum()))


def _vocabulary(
    name: str, router: Router, choices: Choices, numbers: Ints, n_labels: int, turned: list[Ints]
) -> Metric:
    """Mean over tokens of the largest share that one expert has of a token's occurrences (OLMoE, section 5.4)."""
    size = np.bincount(numbers[numbers >= 0], minlength=n_labels)

    def value(joint: Counts, tokens: Counts) -> float:
        kept = tokens >= 1
        return float(np.mean(joint[:, kept].max(0) / tokens[kept]))

    joint = _grouped(router, choices, numbers, n_labels)
    tokens = np.zeros((GROUPS, n_labels))
    known = numbers >= 0
    np.add.at(tokens, (_groups(choices.doc)[known], numbers[known]), 1)
    null = [
        float(np.mean(table(choices.expert, numbers[order], router.n_experts, n_labels).max(0) / size))
        for order in turned
    ]
    estimate = jackknife(value, joint, tokens, low=0, high=1)
    return Metric(name, "share of a token's occurrences", estimate, central(np.array(null)), TURNED, int(known.sum()))


def _grouped(router: Router, choices: Choices, numbers: Ints, n_labels: int) -> Counts:
    """Joint counts (g, e, labels)."""
    group = _groups(choices.doc)
    return np.stack([
        table(choices.expert[group == g], numbers[group == g], router.n_experts, n_labels) for g in range(GROUPS)
    ])  # fmt: skip


def _groups(doc: Ints) -> Ints:
    """A group a token: documents in turn, as the SQL does."""
    return np.unique(doc, return_inverse=True)[1] % GROUPS


def _one(estimate: Estimate) -> Estimate:
    return Estimate(*(part[None] for part in estimate))


def _rows(
    router: Router,
    labelling: str,
    labels: list[str],
    n: Counts,
    tokens: Counts,
    estimate: Estimate,
    null: Estimate | None,
) -> dict[str, Any]:
    label, expert = (index.ravel() for index in np.indices(n.shape))
    none = np.full(n.size, np.nan)
    return {
        "expert": expert,
        "labelling": [labelling] * n.size,
        "label": [labels[i] for i in label],
        "n": n.ravel(),
        "n_label": tokens[label],
        "share": estimate.value.ravel(),
        "lo": estimate.lo.ravel(),
        "hi": estimate.hi.ravel(),
        "uniform": np.full(n.size, router.k / router.n_experts),
        "null_lo": none if null is None else null.lo.ravel(),
        "null_hi": none if null is None else null.hi.ravel(),
    }


def _numeric_first(label: str) -> tuple[float, str]:
    digits = label.rstrip("+")
    return (float(digits) if digits.isdigit() else float("inf"), label)
