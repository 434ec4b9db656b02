-- The page tables of one dictionary, computed for all its latents at once. sealing.py runs these blocks in order: `begin` once a
-- dictionary, the rest of `page.*` once a chunk of features, `end.*` once all chunks are through.
--
-- On the connection: `codes(feature, tok, act, token_id, draw)` are the chunk's rows sorted by (feature, tok), `draw` being a
-- pseudo-random number a row; `doc_runs(feature, doc, n)` counts each latent's rows by document; `docs(doc, domain)`,
-- `domains(domain, n_tokens)`, `token_counts(token_id, n)` and `vocab(token_id, text)` describe the encoded text;
-- `page.<table>` is the index being written. Signed codes count by magnitude.

-- name: begin.stats
CREATE OR REPLACE TEMP TABLE stats (
    feature UINTEGER, n UBIGINT, mass DOUBLE, max_act FLOAT, energy DOUBLE, tok_first UINTEGER, tok_last UINTEGER
);

-- name: begin.doc_counts
CREATE OR REPLACE TEMP TABLE doc_counts (feature UINTEGER, n_docs UINTEGER);

-- name: page.stats
INSERT INTO stats
SELECT feature, count(*), sum(abs(act)::DOUBLE), max(abs(act)), sum(act::DOUBLE * act), min(tok), max(tok)
FROM codes
GROUP BY feature;

-- name: page.doc_counts
INSERT INTO doc_counts
SELECT feature, count(*)
FROM doc_runs
GROUP BY feature;

-- name: page.bins
-- act * 40 is exact for a bf16 act, so a value on an edge falls where (lo, hi] says.
CREATE OR REPLACE TEMP TABLE bins AS
SELECT
    c.feature,
    (least(ceil(abs(c.act)::DOUBLE * 40 / s.max_act), 40) - 1)::UTINYINT AS bin,
    count(*)::UBIGINT AS n,
    sum(abs(c.act)::DOUBLE) AS mass
FROM codes AS c JOIN stats AS s USING (feature)
GROUP BY ALL;

-- name: page.feature_hist
INSERT INTO page.feature_hist BY NAME
SELECT
    getvariable('run_id') AS run_id, getvariable('dictionary_id') AS dictionary_id,
    s.feature, r.bin::UTINYINT AS bin,
    s.max_act::DOUBLE * r.bin / 40 AS lo, s.max_act::DOUBLE * (r.bin + 1) / 40 AS hi,
    coalesce(b.n, 0) AS n
FROM stats AS s
CROSS JOIN range(40) AS r (bin)
LEFT JOIN bins AS b ON b.feature = s.feature AND b.bin = r.bin
WHERE s.feature BETWEEN getvariable('chunk_first') AND getvariable('chunk_last')
ORDER BY s.feature, r.bin;

-- name: page.feature_sample
INSERT INTO page.feature_sample BY NAME
WITH intervals AS (
    SELECT b.feature, b.bin // 4 AS "interval", sum(b.n)::UBIGINT AS n, sum(b.mass) / any_value(s.mass) AS share
    FROM bins AS b JOIN stats AS s USING (feature)
    GROUP BY ALL
),
drawn AS (
    SELECT
        c.feature,
        (least(ceil(abs(c.act)::DOUBLE * 10 / s.max_act), 10) - 1)::UTINYINT AS "interval",
        arg_min({tok: c.tok, act: c.act}, (c.draw::BIGINT << 31) | (c.tok::BIGINT >> 1), 5) AS examples
    FROM codes AS c JOIN stats AS s USING (feature)
    GROUP BY ALL
),
listed AS (
    SELECT feature, "interval", unnest(examples) AS example, generate_subscripts(examples, 1) AS rank
    FROM drawn
)
SELECT
    getvariable('run_id') AS run_id, getvariable('dictionary_id') AS dictionary_id, getvariable('corpus_id') AS corpus_id,
    l.feature, l."interval",
    s.max_act::DOUBLE * l."interval" / 10 AS lo, s.max_act::DOUBLE * (l."interval" + 1) / 10 AS hi,
    i.n, i.share, l.rank, l.example.tok AS tok, l.example.act AS act
FROM listed AS l
JOIN intervals AS i USING (feature, "interval")
JOIN stats AS s USING (feature)
ORDER BY l.feature, l."interval", l.rank;

-- name: page.feature_tokens
INSERT INTO page.feature_tokens BY NAME
WITH counted AS (
    SELECT feature, token_id, count(*) AS n, sum(abs(act)::DOUBLE) AS mass
    FROM codes
    GROUP BY ALL
),
best AS (
    SELECT feature, arg_max({token_id: token_id, n: n, mass: mass}, (n << 32) | (4294967295 - token_id), 20) AS tokens
    FROM counted
    GROUP BY feature
),
listed AS (
    SELECT feature, unnest(tokens) AS token, generate_subscripts(tokens, 1) AS rank
    FROM best
)
SELECT
    getvariable('run_id') AS run_id, getvariable('dictionary_id') AS dictionary_id, getvariable('corpus_id') AS corpus_id,
    l.feature, l.rank, l.token.token_id AS token_id, l.token.n AS n,
    l.token.n / s.n AS share, l.token.n / t.n AS recall, l.token.mass / l.token.n AS mean_act
FROM listed AS l
JOIN stats AS s USING (feature)
JOIN token_counts AS t ON t.token_id = l.token.token_id
ORDER BY l.feature, l.rank;

-- name: page.feature_domains
INSERT INTO page.feature_domains BY NAME
SELECT
    getvariable('run_id') AS run_id, getvariable('dictionary_id') AS dictionary_id, getvariable('corpus_id') AS corpus_id,
    r.feature, d.domain, sum(r.n)::UBIGINT AS n_active, sum(r.n) / any_value(m.n_tokens) AS frac_nonzero
FROM doc_runs AS r
JOIN docs AS d USING (doc)
JOIN domains AS m USING (domain)
GROUP BY r.feature, d.domain
ORDER BY r.feature, d.domain;

-- name: top.candidates
-- The key orders by magnitude, then earlier tokens first: a bf16 magnitude has 8 significant bits and the factor 45, so their
-- product is exact in a double and two rows never share a key.
SELECT feature, unnest(arg_max({tok: tok, act: act}, abs(act)::DOUBLE * (1 + (4294967295 - tok) * 5.684341886080802e-14), 100), recursive := true)
FROM codes
GROUP BY feature;

-- name: top.best
CREATE OR REPLACE TEMP TABLE best AS
WITH distinct_contexts AS (
    SELECT feature, tok, act
    FROM examples
    QUALIFY row_number() OVER (PARTITION BY feature, context ORDER BY abs(act) DESC, tok) = 1
)
SELECT feature, row_number() OVER (PARTITION BY feature ORDER BY abs(act) DESC, tok) AS rank, tok, act
FROM distinct_contexts
QUALIFY rank <= 20;

-- name: top.insert
INSERT INTO page.feature_top BY NAME
SELECT
    getvariable('run_id') AS run_id, getvariable('dictionary_id') AS dictionary_id, getvariable('corpus_id') AS corpus_id,
    feature, rank, tok, act
FROM best
WHERE feature NOT IN (SELECT feature FROM crowded)
ORDER BY feature, rank;

-- name: top.crowded
-- Latents whose candidates all look alike and that have more rows: their examples are chosen from every row.
CREATE OR REPLACE TEMP TABLE crowded AS
SELECT s.feature
FROM stats AS s LEFT JOIN best AS b USING (feature)
WHERE s.feature BETWEEN getvariable('chunk_first') AND getvariable('chunk_last') AND s.n > 100
GROUP BY s.feature
HAVING count(b.feature) < 20;

-- name: top.all_rows
SELECT c.feature, c.tok, c.act
FROM codes AS c SEMI JOIN crowded USING (feature);

-- name: top.none_crowded
CREATE OR REPLACE TEMP TABLE crowded (feature UINTEGER);

-- name: end.features
INSERT INTO page.features BY NAME
WITH counts AS (
    SELECT f.feature::UINTEGER AS feature, coalesce(s.n, 0) AS n, getvariable('n_tokens')::DOUBLE AS total, s.*
    EXCLUDE (feature, n)
    FROM range(getvariable('n_latents')) AS f (feature)
    LEFT JOIN stats AS s ON s.feature = f.feature
),
wilson AS (
    SELECT *, n / total AS p, pow(1.959963984540054, 2) / total AS z2
    FROM counts
),
words AS (
    SELECT t.feature, string_agg(replace(v.text, chr(10), '⏎'), ' · ' ORDER BY t.rank) AS top_tokens
    FROM page.feature_tokens AS t JOIN vocab AS v USING (token_id)
    WHERE t.dictionary_id = getvariable('dictionary_id') AND t.rank <= 5
    GROUP BY t.feature
)
SELECT
    getvariable('run_id') AS run_id, getvariable('dictionary_id') AS dictionary_id, getvariable('corpus_id') AS corpus_id,
    w.feature,
    w.n AS n_active,
    w.p AS frac_nonzero,
    greatest((w.p + w.z2 / 2 - sqrt(w.z2 * (w.p * (1 - w.p) + w.z2 / 4))) / (1 + w.z2), 0) AS frac_lo,
    least((w.p + w.z2 / 2 + sqrt(w.z2 * (w.p * (1 - w.p) + w.z2 / 4))) / (1 + w.z2), 1) AS frac_hi,
    w.mass / w.n AS mean_act,
    w.max_act,
    coalesce(w.energy, 0) / nullif(sum(w.energy) OVER (), 0) AS energy_share,
    CASE WHEN getvariable('has_docs') THEN coalesce(d.n_docs, 0) END AS n_docs,
    w.tok_first, w.tok_last,
    w.n = 0 AS dead,
    words.top_tokens
FROM wilson AS w
LEFT JOIN doc_counts AS d USING (feature)
LEFT JOIN words USING (feature)
ORDER BY w.feature;

-- name: coact.pairs
-- Pairs of latents on the sampled tokens, one direction at a time for features [$lo, $hi).
CREATE OR REPLACE TEMP TABLE pairs AS
WITH sizes AS (
    SELECT feature, count(*) AS n
    FROM sampled
    GROUP BY feature
),
counted AS (
    SELECT a.feature, b.feature AS other, count(*) AS n
    FROM sampled AS a JOIN sampled AS b USING (tok)
    WHERE a.feature >= getvariable('coact_lo') AND a.feature < getvariable('coact_hi') AND a.feature != b.feature
    GROUP BY ALL
    HAVING count(*) > 1
)
SELECT c.feature, c.other, c.n, f.n AS n_feature, o.n AS n_other, c.n / (f.n + o.n - c.n) AS jaccard
FROM counted AS c
JOIN sizes AS f ON f.feature = c.feature
JOIN sizes AS o ON o.feature = c.other;

-- name: coact.insert
INSERT INTO page.feature_coact BY NAME
WITH floors AS (
    SELECT feature, list_last(max(jaccard, 50)) AS least
    FROM pairs
    GROUP BY feature
)
SELECT
    getvariable('run_id') AS run_id, getvariable('dictionary_id') AS dictionary_id,
    p.feature,
    row_number() OVER (PARTITION BY p.feature ORDER BY p.jaccard DESC, p.n DESC, p.other) AS rank,
    p.other, p.n,
    getvariable('coact_tokens')::UBIGINT AS n_tokens,
    p.n / p.n_feature AS p_other_given_feature,
    p.n / p.n_other AS p_feature_given_other,
    p.n * getvariable('coact_tokens')::DOUBLE / (p.n_feature::DOUBLE * p.n_other) AS lift,
    p.jaccard
FROM pairs AS p JOIN floors AS f ON f.feature = p.feature AND p.jaccard >= f.least
QUALIFY rank <= 50
ORDER BY p.feature, rank;
