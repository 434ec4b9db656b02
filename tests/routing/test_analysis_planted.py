"""Routers with a known answer give that answer, and routers that choose at random show nothing."""

import math

import planted
import pytest

from sparse_rep.errors import DataError
from sparse_rep.routing.analysis import write_analysis
from sparse_rep.store import Store

N, E, K = 2400, 8, 2
SIGMA = math.sqrt(K / E * (1 - K / E))


def metrics(store: Store, run: str, layer: int = 0) -> dict[str, dict]:
    rows = store.query("SELECT * FROM routing_metrics WHERE run_id = $run AND layer = $layer", run=run, layer=layer)
    return {row["metric"]: row for row in rows.to_pylist()}


def test_experts_that_belong_to_a_domain_specialise_exactly(routed, run_of):
    rows = routed.query(
        "SELECT expert, label, share, lo, hi FROM expert_labels WHERE run_id = $run AND labelling = 'domain'",
        run=run_of["domain"],
    ).to_pylist()
    assert len(rows) == 2 * 8 * 4
    for row in rows:
        belongs = row["expert"] // 2 == int(row["label"][1:])
        assert row["share"] == row["lo"] == row["hi"] == float(belongs), row


def test_a_random_router_stays_within_three_sigma_of_k_over_experts_everywhere(routed, run_of):
    rows = routed.query(
        "SELECT share, n_label, uniform FROM expert_labels WHERE run_id = $run AND labelling IN ('all', 'domain', 'position')",
        run=run_of["uniform"],
    ).to_pylist()
    assert all(row["uniform"] == K / E for row in rows)
    # 312 shares: one beyond 3 sigma would be no surprise, so the bound on the worst is Bonferroni's and 3 sigma holds for 99 %.
    z = [abs(row["share"] - K / E) / (SIGMA / math.sqrt(row["n_label"])) for row in rows]
    assert max(z) < 4.2
    assert sum(value > 3 for value in z) <= 0.01 * len(z)
    by_domain = routed.query(
        "SELECT max(abs(share - uniform) / sqrt(uniform * (1 - uniform) / n_label)) FROM expert_labels "
        "WHERE run_id = $run AND labelling = 'domain'",
        run=run_of["uniform"],
    )
    assert by_domain[0][0].as_py() < 3


@pytest.mark.parametrize("run", ["domain", "uniform"])
def test_coactivation_rows_sum_to_k_minus_one(routed, run_of, run):
    rows = routed.query(
        "SELECT sum(p_other_given_expert) AS total FROM expert_coact WHERE run_id = $run GROUP BY layer, expert",
        run=run_of[run],
    ).to_pylist()
    assert [row["total"] for row in rows] == pytest.approx([K - 1] * len(rows))


def test_partners_have_the_lift_of_a_pair_and_strangers_none(routed, run_of):
    rows = routed.query(
        "SELECT * FROM expert_coact WHERE run_id = $run AND layer = 0", run=run_of["domain"]
    ).to_pylist()
    for row in rows:
        pair = row["expert"] // 2 == row["other"] // 2
        # (k - 1) / (e - 1) of an indifferent router's partners are any given one; loads here are within 7 % of equal
        assert row["lift"] == pytest.approx(7.0 if pair else 0.0, rel=0.1)
        assert row["n_adjacent"] == row["n"], "two choices are always neighbours in rank"


def test_the_lift_of_a_random_router_is_one(routed, run_of):
    rows = routed.query("SELECT lift, lo, hi FROM expert_coact WHERE run_id = $run", run=run_of["uniform"]).to_pylist()
    assert sum(row["lift"] for row in rows) / len(rows) == pytest.approx(1, abs=0.01)
    assert sum(row["lo"] <= 1 <= row["hi"] for row in rows) / len(rows) > 0.88


def test_the_balance_loss_of_a_uniform_router_is_one(routed, run_of):
    found = metrics(routed, run_of["uniform"])
    assert found["balance_loss"]["value"] == pytest.approx(1, abs=0.003)
    assert found["balance_loss"]["null_value"] == 1


def test_loads_and_importance_of_a_random_router_are_as_even_as_chance_and_no_more(routed, run_of):
    for layer in range(3):
        found = metrics(routed, run_of["uniform"], layer)
        for name in ("load_entropy", "importance_entropy", "max_over_mean"):
            slack = 0.2 * (found[name]["null_hi"] - found[name]["null_lo"])
            assert found[name]["null_lo"] - slack <= found[name]["value"] <= found[name]["null_hi"] + slack, name


def test_saturation_of_random_routers_is_k_over_experts(routed, run_of):
    rows = routed.query(
        "routing.agreement", run=run_of["uniform"], other=run_of["other"], corpus=planted.CORPUS, stride=1
    ).to_pylist()
    assert [row["layer"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert row["uniform"] == K / E
        assert row["chance"] == pytest.approx(K / E, abs=1e-3)
        assert abs(row["agreement"] - K / E) < 3 * SIGMA / math.sqrt(N * K)
        assert row["lo"] <= row["agreement"] <= row["hi"]


def test_a_router_agrees_with_itself_on_every_choice(routed, run_of):
    run = run_of["uniform"]
    rows = routed.query("routing.agreement", run=run, other=run, corpus=planted.CORPUS, stride=1).to_pylist()
    assert {row["agreement"] for row in rows} == {row["first_agreement"] for row in rows} == {1.0}


def test_domain_information_is_the_domains_entropy_when_planted_and_none_when_not(routed, run_of):
    planted_, random = (metrics(routed, run_of[name])["mi_domain"] for name in ("domain", "uniform"))
    assert planted_["value"] == pytest.approx(2, abs=0.01), "four equal domains: two bits"
    assert planted_["value"] > planted_["null_hi"]
    assert random["null_lo"] - 0.002 < random["value"] < random["null_hi"] + 0.002
    assert abs(random["value"]) < 0.004, "the plug-in figure would be 21 / 2n nats = 0.006 bits"


def test_neighbours_repeat_as_planted(routed, run_of):
    planted_, random = (metrics(routed, run_of[name]) for name in ("domain", "uniform"))
    assert planted_["repeat_any"]["value"] == 1
    assert random["repeat_first"]["null_value"] == pytest.approx(1 / 8, abs=0.002)
    assert abs(random["repeat_first"]["value"] - 1 / 8) < 3 * math.sqrt(7 / 64 / 2340)


def test_layers_that_copy_each_other_share_all_their_information(routed, run_of):
    copied = metrics(routed, run_of["domain"])["mi_next_layer"]
    assert copied["value"] == pytest.approx(3, abs=0.02), "eight equal first choices: three bits"
    assert copied["null_value"] == pytest.approx(2, abs=0.02), "two of them are the document's domain"
    apart = metrics(routed, run_of["uniform"])["mi_next_layer"]
    assert abs(apart["value"]) < 0.02


def test_paths_through_copied_layers_stay_on_one_expert(routed, run_of):
    rows = routed.query("SELECT * FROM expert_paths WHERE run_id = $run", run=run_of["domain"]).to_pylist()
    assert {tuple(row["path"].split("-")) for row in rows} == {(str(e), str(e)) for e in range(8)}
    for row in rows:
        assert row["expected_markov"] == pytest.approx(row["n"])
        assert row["expected"] == pytest.approx(row["n"] ** 2 / N)


def test_a_token_that_always_goes_to_one_expert_leads_its_vocabulary(tmp_path):
    store = planted.fresh(tmp_path / "store")
    planted.corpus(store, n_ids=8)
    ids = store.corpus_tokens(planted.CORPUS).astype(int)
    chosen = ids[None, :, None]  # token i -> expert i
    run = planted.write(store, "words", chosen, 8)
    rows = store.query("SELECT * FROM expert_tokens WHERE run_id = $run AND side = 'input'", run=run).to_pylist()
    assert {(row["expert"], row["token_id"]) for row in rows if row["rank"] == 1} == {(i, i) for i in range(8)}
    assert all(row["share"] == 1 and row["lo"] > 0.98 for row in rows)
    found = metrics(store, run)
    assert found["vocabulary_input"]["value"] == 1
    assert found["mi_input_token"]["value"] == pytest.approx(3, abs=0.02)
    assert found["mi_input_token"]["null_hi"] < 0.05
    assert found["mi_next_token"]["value"] < found["mi_next_token"]["null_hi"] + 0.01, "tokens are independent draws"


def test_modality_preference_is_the_share_by_a_label_of_the_token(tmp_path):
    store = planted.fresh(tmp_path / "store")
    planted.corpus(store)
    image = (planted.np.arange(N) % 40) < 10  # ten image tokens, then thirty of text, in each document
    chosen = planted.np.where(image, 0, 1 + planted.np.arange(N) % 3)[None, :, None]
    labels = {
        "tok": planted.np.arange(N),
        "labelling": "modality",
        "label": planted.np.where(image, "image", "text").tolist(),
    }
    run = planted.write(store, "vision", chosen, 4, tables={"token_labels": labels})
    rows = store.query(
        "SELECT expert, label, share FROM expert_labels WHERE run_id = $run AND labelling = 'modality'", run=run
    ).to_pylist()
    shares = {(row["label"], row["expert"]): row["share"] for row in rows}
    assert shares["image", 0] == 1
    assert shares["text", 0] == 0
    assert shares["text", 1] == pytest.approx(1 / 3)
    assert metrics(store, run)["mi_modality"]["value"] == pytest.approx(0.8113, abs=0.002), "H(1/4)"


def test_a_dead_expert_is_counted_and_the_null_has_none(tmp_path):
    store = planted.fresh(tmp_path / "store")
    planted.corpus(store)
    run = planted.write(store, "lame", planted.at_random(N, 6, 2), 8)
    dead = metrics(store, run)["dead_experts"]
    assert (dead["value"], dead["null_value"]) == (2, 0)


def test_dropped_tokens_have_fewer_choices_and_nothing_breaks(tmp_path):
    store = planted.fresh(tmp_path / "store")
    planted.corpus(store)
    chosen = planted.at_random(N, 8, 2, 2)
    chosen[:, ::5, 1] = -1
    chosen[1, ::10, 0] = -1
    run = planted.write(store, "drop", chosen, 8)
    assert metrics(store, run)["load_entropy"]["n_tokens"] == N
    assert store.query("SELECT sum(n) FROM expert_paths WHERE run_id = $run", run=run)[0][0].as_py() <= N * 0.9


def test_a_run_without_routers_or_corpus_says_what_to_do(tmp_path):
    store = planted.fresh(tmp_path / "store")
    planted.corpus(store)
    with planted.open_run(store, "bare") as run, pytest.raises(DataError, match="holds no routers: write the tables"):
        write_analysis(run, store)
    with planted.open_run(store, "lost", None) as run, pytest.raises(DataError, match="names no corpus"):
        write_analysis(run, store)


def test_a_text_too_long_is_counted_on_every_so_many_th_document_and_says_on_how_many_tokens(routed, run_of):
    from sparse_rep.routing.analysis import analyse

    whole = analyse(routed, run_of["uniform"])["routing_metrics"]
    half = analyse(routed, run_of["uniform"], max_tokens=N // 2)["routing_metrics"]
    assert max(whole["n_tokens"].to_pylist()) == N
    assert max(half["n_tokens"].to_pylist()) == N // 2
