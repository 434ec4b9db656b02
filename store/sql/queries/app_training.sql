-- name: app_training.members
-- Every dictionary that a training run of this store has measured, the unfinished ones too, latest first.
SELECT
    t.dictionary_id, t.run_id, r.status, r.model, r.kernel, r.updated,
    coalesce(d.kind, r.config -> 'dictionary' ->> 'kind') AS kind,
    coalesce(d.hook, r.config ->> 'hook') AS hook,
    d.model_note, d.n_latents, d.k,
    t.last_step * coalesce(try_cast(r.config ->> 'batch_tokens' AS UBIGINT), 1) AS n_tokens,
    try_cast(r.config ->> 'n_tokens' AS UBIGINT) AS n_tokens_planned,
    m.explained_variance, m.l0, m.ce_recovered, m.dead_share
FROM (
    SELECT run_id, dictionary_id, max(step) AS last_step
    FROM metrics
    WHERE step IS NOT NULL
    GROUP BY run_id, dictionary_id
) AS t
JOIN runs AS r USING (run_id)
LEFT JOIN dictionaries AS d USING (dictionary_id)
LEFT JOIN (
    SELECT
        dictionary_id,
        arg_max(value, u.updated) FILTER (metric = 'explained_variance') AS explained_variance,
        arg_max(value, u.updated) FILTER (metric = 'l0') AS l0,
        arg_max(value, u.updated) FILTER (metric = 'ce_recovered') AS ce_recovered,
        arg_max(value, u.updated) FILTER (metric = 'dead_share') AS dead_share
    FROM metrics JOIN runs AS u USING (run_id)
    WHERE split = 'heldout' AND step IS NULL AND domain IS NULL
    GROUP BY dictionary_id
) AS m USING (dictionary_id)
ORDER BY r.updated DESC, t.dictionary_id;

-- name: app_training.curves
-- Training curves of some dictionaries over the tokens they have seen, at most 200 points a line.
SELECT dictionary_id, metric, tokens, value
FROM (
    SELECT
        m.dictionary_id, m.metric, m.value,
        m.step * coalesce(try_cast(r.config ->> 'batch_tokens' AS UBIGINT), 1) AS tokens,
        row_number() OVER line AS i, count(*) OVER (PARTITION BY m.dictionary_id, m.metric) AS n
    FROM metrics AS m JOIN runs AS r USING (run_id)
    WHERE m.split = 'train' AND m.step IS NOT NULL AND m.domain IS NULL AND list_contains($dictionaries, m.dictionary_id)
    WINDOW line AS (PARTITION BY m.dictionary_id, m.metric ORDER BY m.step)
)
WHERE i = n OR i % greatest(1, n // 200) = 0
ORDER BY dictionary_id, metric, tokens;

-- name: app_training.tradeoff
-- Final held-out figures of every dictionary; those of one `setting` saw the same text, as many tokens, and are as wide.
SELECT * EXCLUDE (updated)
FROM (
    SELECT
        d.dictionary_id, d.kind, d.model, d.model_note, d.hook, d.n_latents, r.corpus_id, r.updated,
        try_cast(r.config ->> 'n_tokens' AS UBIGINT) AS n_tokens,
        concat_ws(' · ', d.hook, d.model, d.n_latents || ' latents', (r.config ->> 'n_tokens') || ' tokens', r.corpus_id) AS setting,
        arg_max(m.value, u.updated) FILTER (m.metric = 'explained_variance') AS explained_variance,
        arg_max(m.value, u.updated) FILTER (m.metric = 'l0') AS l0,
        arg_max(m.value, u.updated) FILTER (m.metric = 'ce_recovered') AS ce_recovered,
        arg_max(m.value, u.updated) FILTER (m.metric = 'dead_share') AS dead_share
    FROM dictionaries AS d
    JOIN runs AS r ON r.run_id = d.trained_by
    JOIN metrics AS m ON m.dictionary_id = d.dictionary_id AND m.split = 'heldout' AND m.step IS NULL AND m.domain IS NULL
    JOIN runs AS u ON u.run_id = m.run_id
    GROUP BY ALL
)
WHERE l0 IS NOT NULL
ORDER BY max(updated) OVER (PARTITION BY setting) DESC, setting, kind, l0;
