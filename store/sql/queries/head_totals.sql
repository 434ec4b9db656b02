-- name: head_totals.profiles
-- One row a head and length of a run: its texts' profiles averaged. Classes are added from the mean recalls.
SELECT
    layer, head, any_value(kv_head) AS kv_head, length, count(*) AS n_texts, any_value("window") AS "window",
    avg(sink) AS sink, avg(learned_sink) AS learned_sink, avg(local) AS local, avg(previous) AS previous,
    avg(induction) AS induction, avg(induction_chance) AS induction_chance, avg(distance) AS distance,
    avg(entropy) AS entropy, avg(keys90) AS keys90, avg(keys95) AS keys95, avg(keys99) AS keys99,
    any_value(n_queries) AS n_queries,
    avg(recall_local) AS recall_local, avg(recall_sink_local) AS recall_sink_local,
    avg(recall_columns) AS recall_columns, avg(recall_diagonals) AS recall_diagonals,
    avg(recall_blocks) AS recall_blocks, any_value(class_budget) AS class_budget,
    avg(write_norm) AS write_norm, avg(write_share) AS write_share
FROM head_texts
WHERE run_id = $run
GROUP BY layer, head, length
ORDER BY layer, head, length;

-- name: head_totals.methods
-- One row a head, length, method, config and budget of a run: scores averaged over texts, the bound's largest.
SELECT
    layer, head, length, count(*) AS n_texts, method, config, budget,
    avg(density) AS density, avg(block_density) AS block_density, avg(recall_mean) AS recall_mean,
    avg(recall_p5) AS recall_p5, avg(rows_below_90) AS rows_below_90, avg(recall_rest) AS recall_rest,
    avg(oracle) AS oracle, any_value(granularity) AS granularity, avg(out_err) AS out_err, max(bound) AS bound,
    avg(pairs_read) AS pairs_read, any_value(first_row) AS first_row, any_value(applies) AS applies,
    any_value(reason) AS reason, arg_min(notes, tok_lo) AS notes
FROM head_method_texts
WHERE run_id = $run
GROUP BY layer, head, length, method, config, budget
ORDER BY layer, head, length, method, config, budget;
