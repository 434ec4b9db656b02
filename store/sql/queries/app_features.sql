-- name: app_features.page
-- One page of the features that pass the filter, in the order asked for.
WITH hits AS (
    SELECT t.feature, sum(t.n)::UBIGINT AS n_hit, sum(t.share) AS hit_share, max(t.recall) AS hit_recall
    FROM feature_tokens AS t JOIN vocab AS v ON v.corpus_id = t.corpus_id AND v.token_id = t.token_id
    WHERE t.run_id = $run AND t.dictionary_id = $dictionary AND $token IS NOT NULL
        AND trim(lower(v.text)) = trim(lower($token))
    GROUP BY t.feature
),
within AS (
    SELECT feature, n_active AS n_domain, frac_nonzero AS frac_domain
    FROM feature_domains
    WHERE run_id = $run AND dictionary_id = $dictionary AND domain = $domain
),
kept AS (
    SELECT
        f.feature, f.n_active, f.frac_nonzero, f.mean_act, f.max_act, f.energy_share, f.n_docs, f.dead,
        hits.n_hit, hits.hit_share, hits.hit_recall, within.frac_domain,
        within.frac_domain / nullif(f.frac_nonzero, 0) AS domain_lift
    FROM features AS f
    LEFT JOIN hits USING (feature)
    LEFT JOIN within USING (feature)
    WHERE f.run_id = $run AND f.dictionary_id = $dictionary
        AND ($token IS NULL OR hits.feature IS NOT NULL)
        AND ($only IS NULL OR f.feature = $only)
        AND CASE $show
            WHEN 'alive' THEN NOT f.dead
            WHEN 'dead' THEN f.dead
            WHEN 'rare' THEN NOT f.dead AND f.frac_nonzero < $rare
            WHEN 'dense' THEN f.frac_nonzero > $dense
            ELSE true END
),
page AS (
    SELECT *, row_number() OVER (ORDER BY $direction * CASE $sort
            WHEN 'feature' THEN feature::DOUBLE
            WHEN 'mean' THEN mean_act
            WHEN 'max' THEN max_act::DOUBLE
            WHEN 'docs' THEN n_docs::DOUBLE
            WHEN 'energy' THEN energy_share
            WHEN 'match' THEN 2 * hit_share * hit_recall / (hit_share + hit_recall)
            WHEN 'domain' THEN domain_lift
            ELSE frac_nonzero END NULLS LAST, feature) AS place
    FROM kept
    ORDER BY place
    LIMIT $limit OFFSET $offset
)
SELECT page.*, top.texts, logits.promoted
FROM page
LEFT JOIN (
    SELECT t.feature, list(v.text ORDER BY t.rank) AS texts
    FROM feature_tokens AS t JOIN vocab AS v ON v.corpus_id = t.corpus_id AND v.token_id = t.token_id
    WHERE t.run_id = $run AND t.dictionary_id = $dictionary AND t.rank <= 4
        AND t.feature IN (SELECT feature FROM page)
    GROUP BY t.feature
) AS top USING (feature)
LEFT JOIN (
    SELECT feature, list(token ORDER BY rank) AS promoted
    FROM (
        SELECT DISTINCT ON (feature, rank) feature, rank, token FROM feature_logits
        WHERE dictionary_id = $dictionary AND sign = 1 AND rank <= 3 AND feature IN (SELECT feature FROM page)
        ORDER BY feature, rank, run_id
    )
    GROUP BY feature
) AS logits USING (feature)
ORDER BY page.place;

-- name: app_features.density
-- Latents a bin of log10 density (5 bins a decade), all of them and those that the filter keeps. Dead ones have no bin.
WITH hits AS (
    SELECT DISTINCT t.feature
    FROM feature_tokens AS t JOIN vocab AS v ON v.corpus_id = t.corpus_id AND v.token_id = t.token_id
    WHERE t.run_id = $run AND t.dictionary_id = $dictionary AND $token IS NOT NULL
        AND trim(lower(v.text)) = trim(lower($token))
)
SELECT
    floor(log10(nullif(f.frac_nonzero, 0)) * 5) / 5 AS log_lo,
    count(*) AS n,
    count(*) FILTER (
        ($token IS NULL OR hits.feature IS NOT NULL)
        AND ($only IS NULL OR f.feature = $only)
        AND CASE $show
            WHEN 'alive' THEN NOT f.dead
            WHEN 'dead' THEN f.dead
            WHEN 'rare' THEN NOT f.dead AND f.frac_nonzero < $rare
            WHEN 'dense' THEN f.frac_nonzero > $dense
            ELSE true END
    ) AS n_kept
FROM features AS f LEFT JOIN hits USING (feature)
WHERE f.run_id = $run AND f.dictionary_id = $dictionary
GROUP BY log_lo
ORDER BY log_lo NULLS FIRST;

-- name: app_features.domains
-- Domains that a dictionary's codes come from.
SELECT DISTINCT domain FROM feature_domains WHERE run_id = $run AND dictionary_id = $dictionary ORDER BY domain;

-- name: app_features.raw_token
-- Features that fire on a token type, counted over all codes rather than over each feature's 20 commonest tokens.
SELECT a.feature, count(*) AS n, avg(a.act) AS mean_act
FROM vocab AS v
JOIN tokens AS t ON t.corpus_id = v.corpus_id AND t.token_id = v.token_id
JOIN acts_by_token AS a ON a.corpus_id = t.corpus_id AND a.tok = t.tok
WHERE a.run_id = $run AND a.dictionary_id = $dictionary AND trim(lower(v.text)) = trim(lower($token))
GROUP BY a.feature
ORDER BY n DESC
LIMIT 100;
