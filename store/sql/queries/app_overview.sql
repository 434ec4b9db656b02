-- name: app_overview.subjects
-- Every (run, dictionary) with page tables: what the pages about features can be asked about.
SELECT
    f.run_id, f.dictionary_id, f.corpus_id, f.n_latents, f.n_dead, f.n_rare, f.n_dense, f.top_feature,
    d.kind, d.model, d.model_note, d.hook, d.d_in, d.k,
    r.n_tokens, r.status, r.kind AS run_kind, r.updated
FROM (
    SELECT
        run_id, dictionary_id, any_value(corpus_id) AS corpus_id, count(*) AS n_latents,
        count(*) FILTER (dead) AS n_dead,
        count(*) FILTER (NOT dead AND frac_nonzero < $rare) AS n_rare,
        count(*) FILTER (frac_nonzero > $dense) AS n_dense,
        coalesce(
            arg_max(feature, energy_share) FILTER (NOT dead AND frac_nonzero <= $dense),
            arg_max(feature, energy_share)
        ) AS top_feature
    FROM features
    GROUP BY run_id, dictionary_id
) AS f
LEFT JOIN runs AS r USING (run_id)
LEFT JOIN dictionaries AS d USING (dictionary_id)
ORDER BY r.updated DESC, f.dictionary_id, f.run_id;

-- name: app_overview.dictionaries
-- Every dictionary with its final held-out figures.
SELECT
    d.dictionary_id, d.kind, d.model, d.model_revision, d.model_note, d.hook, d.d_in, d.n_latents, d.k, d.trained_by, d.created,
    m.explained_variance, m.l0, m.dead_share, m.scored_by
FROM dictionaries AS d
LEFT JOIN (
    SELECT
        dictionary_id,
        arg_max(value, r.updated) FILTER (metric = 'explained_variance') AS explained_variance,
        arg_max(value, r.updated) FILTER (metric = 'l0') AS l0,
        arg_max(value, r.updated) FILTER (metric = 'dead_share') AS dead_share,
        arg_max(run_id, r.updated) AS scored_by
    FROM metrics JOIN runs AS r USING (run_id)
    WHERE split = 'heldout' AND step IS NULL AND domain IS NULL
    GROUP BY dictionary_id
) AS m USING (dictionary_id)
ORDER BY d.created DESC, d.dictionary_id;

-- name: app_overview.domain_figures
-- Final held-out figures by domain.
SELECT dictionary_id, domain, metric, arg_max(value, r.updated) AS value
FROM metrics JOIN runs AS r USING (run_id)
WHERE split = 'heldout' AND step IS NULL AND domain IS NOT NULL AND metric = 'explained_variance'
GROUP BY dictionary_id, domain, metric
ORDER BY dictionary_id, domain;

-- name: app_overview.training
-- Training curves, at most 200 points a dictionary.
SELECT dictionary_id, split, step, value
FROM (
    SELECT
        dictionary_id, split, step, value,
        row_number() OVER line AS i, count(*) OVER (PARTITION BY dictionary_id, split) AS n
    FROM metrics
    WHERE metric = $metric AND step IS NOT NULL AND domain IS NULL
    WINDOW line AS (PARTITION BY dictionary_id, split ORDER BY step)
)
WHERE i = n OR i % greatest(1, n // 200) = 0
ORDER BY dictionary_id, split, step;

-- name: app_overview.training_metrics
-- Which metrics have curves.
SELECT metric, count(DISTINCT dictionary_id) AS n_dictionaries
FROM metrics
WHERE step IS NOT NULL AND domain IS NULL
GROUP BY metric
ORDER BY metric;

-- name: app_overview.runs
-- Every run, damaged ones too.
SELECT
    run_id, kind, name, status, corpus_id, model, model_revision, config_hash, content_hash, code_version, kernel,
    created, updated, n_shards, n_shards_planned, n_rows, n_tokens, bytes, note
FROM runs
ORDER BY updated DESC NULLS LAST, run_id
LIMIT 200;

-- name: app_overview.corpora
-- Tokens and documents of each corpus, by domain.
SELECT corpus_id, domain, count(*) AS n_docs, sum(tok_hi - tok_lo)::UBIGINT AS n_tokens,
    count(*) FILTER (split = 'heldout') AS n_heldout
FROM docs
GROUP BY corpus_id, domain
ORDER BY corpus_id, n_tokens DESC;
