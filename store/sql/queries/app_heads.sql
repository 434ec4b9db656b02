-- name: app_heads.profiles
-- Runs that profiled attention heads, one row a text length, the latest first.
SELECT h.run_id, h.corpus_id, u.name, u.model, u.model_revision, u.status, u.note, h.length, h.n_texts, h.n_layers, h.n_heads,
    h.rows, h.layers, m.methods, m.budgets
FROM (
    SELECT run_id, any_value(corpus_id) AS corpus_id, length, max(n_texts) AS n_texts, count(DISTINCT layer) AS n_layers,
        max(head)::INTEGER + 1 AS n_heads, count(*) AS rows, list(DISTINCT layer::INTEGER ORDER BY layer::INTEGER) AS layers
    FROM heads GROUP BY run_id, length
) AS h
JOIN runs AS u USING (run_id)
LEFT JOIN (
    SELECT run_id, length, list(DISTINCT method ORDER BY method) FILTER (applies != 'n/a') AS methods,
        list(DISTINCT coalesce(budget::VARCHAR, 'paper')) FILTER (applies != 'n/a') AS budgets
    FROM head_methods GROUP BY run_id, length
) AS m ON m.run_id = h.run_id AND m.length = h.length
ORDER BY u.updated DESC, h.run_id, h.length;

-- name: app_heads.heads
-- What each head does.
SELECT layer, head, kv_head, "window", sink, learned_sink, local, previous, induction, induction_chance, distance, entropy,
    keys90, keys95, keys99, n_queries, class, class_recall, class_margin, class_budget, write_norm, write_share, n_texts
FROM heads WHERE run_id = $run AND length = $length
ORDER BY layer, head;

-- name: app_heads.scores
-- What one method keeps of each head at one budget (NULL: the paper's own settings).
SELECT layer, head, density, block_density, recall_mean, recall_p5, rows_below_90, recall_rest, oracle, oracle - recall_mean AS gap,
    out_err, bound, pairs_read, granularity, first_row, applies
FROM head_methods
WHERE run_id = $run AND length = $length AND method = $method AND budget IS NOT DISTINCT FROM $budget::DOUBLE AND applies != 'n/a'
ORDER BY layer, head;

-- name: app_heads.joined
-- What each head does beside what one method keeps of it.
SELECT h.*, m.density, m.recall_mean, m.recall_p5, m.rows_below_90, m.recall_rest, m.oracle, m.out_err, m.bound
FROM heads AS h
LEFT JOIN head_methods AS m ON m.run_id = h.run_id AND m.length = h.length AND m.layer = h.layer AND m.head = h.head
    AND m.method = $method AND m.budget IS NOT DISTINCT FROM $budget::DOUBLE
WHERE h.run_id = $run AND h.length = $length
ORDER BY h.layer, h.head;

-- name: app_heads.methods
-- Every method at one budget over all heads: quartiles, and how many heads it serves.
SELECT method, any_value(applies) AS applies, any_value(reason) AS reason, any_value(granularity) AS granularity,
    any_value(config) AS config, count(recall_mean) AS n_heads, median(density) AS density,
    median(recall_mean) AS recall, quantile_cont(recall_mean, 0.25) AS recall_25, quantile_cont(recall_mean, 0.75) AS recall_75,
    median(oracle) AS oracle, median(out_err) AS out_err, quantile_cont(out_err, 0.25) AS err_25,
    quantile_cont(out_err, 0.75) AS err_75, count(*) FILTER (recall_mean >= 0.9) AS n_kept,
    count(*) FILTER (recall_mean >= 0.9 AND out_err > 0.2) AS n_kept_but_off, median(pairs_read) AS pairs_read
FROM head_methods
WHERE run_id = $run AND length = $length AND (budget IS NOT DISTINCT FROM $budget::DOUBLE OR applies = 'n/a')
GROUP BY method
ORDER BY method;

-- name: app_heads.curves
-- Recall and output error against density of one head, every method.
SELECT method, budget, density, block_density, recall_mean, recall_p5, recall_rest, oracle, out_err, rows_below_90, granularity,
    applies, reason, notes
FROM head_methods
WHERE run_id = $run AND length = $length AND layer = $layer AND head = $head
ORDER BY method, density;

-- name: app_heads.distances
-- Attention by distance from query to key, over the texts of a run.
SELECT lo, hi, avg(mass) AS mass
FROM head_distances
WHERE run_id = $run AND length = $length AND layer = $layer AND head = $head
GROUP BY lo, hi ORDER BY lo;

-- name: app_heads.texts
-- Texts that a head's links or map were kept of.
SELECT DISTINCT tok_lo FROM head_links
WHERE run_id = $run AND length = $length AND layer = $layer AND head = $head
UNION
SELECT DISTINCT tok_lo FROM head_maps
WHERE run_id = $run AND length = $length AND layer = $layer AND head = $head
ORDER BY tok_lo LIMIT $limit;

-- name: app_heads.map
-- The block-mass map of one head on one text.
SELECT block, q_block, mass FROM head_maps
WHERE run_id = $run AND length = $length AND layer = $layer AND head = $head AND tok_lo = $text
ORDER BY q_block LIMIT $limit;

-- name: app_heads.links
-- The strongest keys of some queries of one head on one text.
SELECT tok, rank, key_tok, mass FROM head_links
WHERE run_id = $run AND length = $length AND layer = $layer AND head = $head AND tok_lo = $text
ORDER BY tok, rank LIMIT $limit;

-- name: app_heads.effects
-- What methods do to the loss where they replace attention.
SELECT layer, head, method, budget, loss_dense, loss, loss - loss_dense AS change, kl, n_texts
FROM head_effects
WHERE run_id = $run AND length = $length AND (layer IS NULL OR layer = $layer) AND (head IS NULL OR head = $head)
ORDER BY method, budget, layer NULLS FIRST, head NULLS FIRST;

-- name: app_heads.effects_of_model
-- What methods do to the loss where they replace attention in all heads at once.
SELECT method, budget, loss_dense, loss, loss - loss_dense AS change, kl, n_texts
FROM head_effects
WHERE run_id = $run AND length = $length AND layer IS NULL AND head IS NULL
ORDER BY method, budget;
