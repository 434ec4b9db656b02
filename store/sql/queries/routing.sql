-- Counts of routing, self-contained: put a run, its corpus and a layer in and they answer in any SQL shell. Each is split by
-- `grp`, one of 20 groups of documents: leaving out one group after the other is how intervals are made (a jackknife).
-- $stride keeps every stride-th document, for runs too large to count whole; 1 keeps all.

-- name: routing.routers
-- The routers of a run, in the order of their layers.
SELECT layer, module, n_experts, k, n_shared, score, renormalised, scale, source, n_tokens, entropy, z_loss
FROM routers
WHERE run_id = $run
ORDER BY layer;

-- name: routing.mean_prob
-- Mean probability of each expert, chosen or not.
SELECT expert, mean_prob FROM experts WHERE run_id = $run AND layer = $layer AND NOT coalesce(shared, false) ORDER BY expert;

-- name: routing.documents
-- Documents that were routed, with their tokens.
WITH place AS MATERIALIZED (
    SELECT doc, domain, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
)
SELECT p.doc, (p.doc // $stride) % 20 AS grp, coalesce(p.domain, 'unnamed') AS domain, count(*) AS n_tokens
FROM routes AS r JOIN place AS p USING (tok)
WHERE r.run_id = $run AND r.layer = $layer AND r.rank = 1
GROUP BY ALL
ORDER BY p.doc;

-- name: routing.by_document
-- How often each document's tokens chose each expert, at all and first, and with which summed weight.
WITH place AS MATERIALIZED (
    SELECT doc, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
)
SELECT p.doc, r.expert, count(*) AS n, count(*) FILTER (r.rank = 1) AS n_first, coalesce(sum(r.weight::DOUBLE), 0) AS weight
FROM routes AS r JOIN place AS p USING (tok)
WHERE r.run_id = $run AND r.layer = $layer
GROUP BY ALL;

-- name: routing.pairs
-- Tokens that chose both of two experts, over all pairs; n_adjacent: with ranks next to each other.
WITH place AS MATERIALIZED (
    SELECT (doc // $stride) % 20 AS grp, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
),
chosen AS MATERIALIZED (
    SELECT r.tok, p.grp, r.expert, r.rank
    FROM routes AS r JOIN place AS p USING (tok)
    WHERE r.run_id = $run AND r.layer = $layer
)
SELECT a.grp, a.expert, b.expert AS other, count(*) AS n, count(*) FILTER (abs(a.rank::INTEGER - b.rank) = 1) AS n_adjacent
FROM chosen AS a JOIN chosen AS b ON b.tok = a.tok AND b.expert > a.expert
GROUP BY ALL;

-- name: routing.transitions
-- From a token's first choice at one router to its first choice at another.
WITH place AS MATERIALIZED (
    SELECT (doc // $stride) % 20 AS grp, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
)
SELECT p.grp, a.expert, b.expert AS next_expert, count(*) AS n
FROM routes AS a
JOIN routes AS b ON b.run_id = $run AND b.layer = $next_layer AND b.rank = 1 AND b.tok = a.tok
JOIN place AS p ON p.tok = a.tok
WHERE a.run_id = $run AND a.layer = $layer AND a.rank = 1
GROUP BY ALL;

-- name: routing.repeats
-- Neighbouring tokens of a document: pairs of them, pairs with the same first choice, and choices that both share.
WITH place AS MATERIALIZED (
    SELECT (doc // $stride) % 20 AS grp, tok_hi, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
),
chosen AS MATERIALIZED (SELECT tok, rank, expert FROM routes WHERE run_id = $run AND layer = $layer)
SELECT
    p.grp,
    count(*) FILTER (a.rank = 1 AND b.rank = 1) AS n_pairs,
    count(*) FILTER (a.rank = 1 AND b.rank = 1 AND a.expert = b.expert) AS n_first,
    count(*) FILTER (a.expert = b.expert) AS n_shared
FROM chosen AS a
JOIN place AS p ON p.tok = a.tok AND p.tok + 1 < p.tok_hi
JOIN chosen AS b ON b.tok = a.tok + 1
GROUP BY p.grp;

-- name: routing.weight_moments
-- Sums over tokens of the squared weights, and of the square of a token's summed weight: how much importance scatters by chance.
WITH place AS MATERIALIZED (
    SELECT unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
)
SELECT coalesce(sum(squares), 0) AS squares, coalesce(sum(total * total), 0) AS squared_sums
FROM (
    SELECT sum(r.weight::DOUBLE) AS total, sum(r.weight::DOUBLE * r.weight) AS squares
    FROM routes AS r SEMI JOIN place USING (tok)
    WHERE r.run_id = $run AND r.layer = $layer
    GROUP BY r.tok
);

-- name: routing.margins
-- By how much the last choice beat the first that was not chosen.
WITH place AS MATERIALIZED (
    SELECT (doc // $stride) % 20 AS grp, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
)
SELECT p.grp, count(r.margin) AS n, coalesce(sum(r.margin::DOUBLE), 0) AS total
FROM routes AS r JOIN place AS p USING (tok)
WHERE r.run_id = $run AND r.layer = $layer AND r.rank = 1
GROUP BY p.grp;

-- name: routing.margin_quantiles
-- The spread of margins: quantiles 0.05, 0.5 and 0.95.
SELECT quantile_cont(margin, [0.05, 0.5, 0.95]) AS quantiles, count(margin) AS n
FROM routes
WHERE run_id = $run AND layer = $layer AND rank = 1;

-- name: routing.choices
-- Choices token by token with what can be asked of a token: its id, the next one's, the one the model predicted.
SELECT r.tok, d.doc, r.rank, r.expert, t.token_id AS input, n.token_id AS next, p.token_id AS predicted
FROM routes AS r
JOIN (
    SELECT doc, tok_hi, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
) AS d USING (tok)
JOIN tokens AS t ON t.corpus_id = $corpus AND t.tok = r.tok
LEFT JOIN tokens AS n ON n.corpus_id = $corpus AND n.tok = r.tok + 1 AND n.tok < d.tok_hi
LEFT JOIN predictions AS p ON p.run_id = $run AND p.tok = r.tok
WHERE r.run_id = $run AND r.layer = $layer
ORDER BY r.tok, r.rank;

-- name: routing.labels
-- Labels of tokens beside their document's domain: the logarithmic position in the document, and those of token_labels.
SELECT tok, labelling, label FROM token_labels WHERE run_id = $run
UNION ALL
SELECT tok, 'position', CASE WHEN position = 0 THEN '0' ELSE (2 ** floor(log2(position)))::BIGINT || '+' END
FROM (
    SELECT tok, tok - tok_lo AS position FROM (
        SELECT tok_lo, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
        FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
    )
);

-- name: routing.by_label
-- How often tokens of each label chose each expert, and how many tokens the label has (rows where expert is NULL).
WITH place AS MATERIALIZED (
    SELECT doc, tok_lo, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
),
labels AS MATERIALIZED (
    SELECT tok, labelling, label FROM token_labels WHERE run_id = $run
    UNION ALL
    SELECT tok, 'position', CASE WHEN tok = tok_lo THEN '0' ELSE (2 ** floor(log2(tok - tok_lo)))::BIGINT || '+' END
    FROM place
)
SELECT l.labelling, l.label, (p.doc // $stride) % 20 AS grp, r.expert, count(*) AS n
FROM routes AS r JOIN place AS p USING (tok) JOIN labels AS l USING (tok)
WHERE r.run_id = $run AND r.layer = $layer
GROUP BY ALL
UNION ALL
SELECT l.labelling, l.label, (p.doc // $stride) % 20 AS grp, NULL, count(*)
FROM routes AS r JOIN place AS p USING (tok) JOIN labels AS l USING (tok)
WHERE r.run_id = $run AND r.layer = $layer AND r.rank = 1
GROUP BY ALL;

-- name: routing.vocabulary
-- Tokens that each expert is chosen on most, by the lower end of the share's Wilson interval; $side: input, next or predicted.
WITH place AS MATERIALIZED (
    SELECT tok_hi, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
),
said AS MATERIALIZED (
    SELECT t.tok, t.token_id FROM tokens AS t WHERE t.corpus_id = $corpus AND $side = 'input'
    UNION ALL
    SELECT p.tok, t.token_id FROM place AS p JOIN tokens AS t ON t.corpus_id = $corpus AND t.tok = p.tok + 1
    WHERE $side = 'next' AND p.tok + 1 < p.tok_hi
    UNION ALL
    SELECT tok, token_id FROM predictions WHERE run_id = $run AND $side = 'predicted'
),
chosen AS MATERIALIZED (
    SELECT r.rank, r.expert, s.token_id
    FROM routes AS r JOIN place AS p USING (tok) JOIN said AS s USING (tok)
    WHERE r.run_id = $run AND r.layer = $layer
),
totals AS (SELECT token_id, count(*) AS n_token FROM chosen WHERE rank = 1 GROUP BY token_id HAVING n_token >= $least),
usual AS (SELECT expert, count(*) / (SELECT count(*) FROM chosen WHERE rank = 1) AS share FROM chosen GROUP BY expert),
counts AS (SELECT expert, token_id, count(*) AS n FROM chosen GROUP BY ALL),
scored AS (
    SELECT c.expert, c.token_id, c.n, t.n_token, c.n / t.n_token AS share, 3.8415 AS zz, sqrt(zz) AS z, c.n / t.n_token / u.share AS lift
    FROM counts AS c JOIN totals AS t USING (token_id) JOIN usual AS u USING (expert)
),
bounded AS (
    SELECT expert, token_id, n, n_token, share, lift,
        (share + zz / (2 * n_token) - z * sqrt(share * (1 - share) / n_token + zz / (4 * n_token * n_token))) / (1 + zz / n_token) AS lo,
        (share + zz / (2 * n_token) + z * sqrt(share * (1 - share) / n_token + zz / (4 * n_token * n_token))) / (1 + zz / n_token) AS hi
    FROM scored
)
SELECT expert, $side AS side, row_number() OVER (PARTITION BY expert ORDER BY lo DESC, n DESC, token_id) AS rank,
    token_id, n, n_token, share, greatest(lo, 0) AS lo, least(hi, 1) AS hi, lift
FROM bounded
QUALIFY rank <= $limit
ORDER BY expert, rank;

-- name: routing.paths
-- First choices through all routers of $layers, the commonest paths first.
WITH place AS MATERIALIZED (
    SELECT unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
),
paths AS (
    SELECT string_agg(r.expert::VARCHAR, '-' ORDER BY r.layer) AS path, count(*) AS length
    FROM routes AS r JOIN place AS p USING (tok)
    WHERE r.run_id = $run AND r.rank = 1
    GROUP BY r.tok
)
SELECT path, count(*) AS n, (sum(n) OVER ())::UBIGINT AS n_tokens, count(*) OVER () AS n_paths
FROM paths
WHERE length = $n_layers
GROUP BY path
ORDER BY n DESC, path
LIMIT $limit;

-- name: routing.agreement
-- Do two routers of the same experts (two checkpoints, say) choose alike? Shared choices over k, by layer, on the same tokens,
-- with the interval of a jackknife over 20 groups of documents. Routers that agree by chance share k / experts of their
-- choices; `chance` is that of routers with these very loads.
WITH place AS MATERIALIZED (
    SELECT (doc // $stride) % 20 AS grp, unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
),
a AS MATERIALIZED (SELECT r.layer, r.tok, r.rank, r.expert, p.grp FROM routes AS r JOIN place AS p USING (tok) WHERE r.run_id = $run),
b AS MATERIALIZED (SELECT r.layer, r.tok, r.rank, r.expert FROM routes AS r SEMI JOIN place USING (tok) WHERE r.run_id = $other),
met AS (
    SELECT a.layer, a.grp, count(*) AS n_choices, count(*) FILTER (a.rank = 1) AS n_tokens
    FROM a SEMI JOIN (SELECT layer, tok FROM b WHERE rank = 1) AS also USING (layer, tok)
    GROUP BY ALL
),
shared AS (
    SELECT a.layer, a.grp, count(*) AS n_shared, count(*) FILTER (a.rank = 1 AND b.rank = 1) AS n_first
    FROM a JOIN b USING (layer, tok, expert)
    GROUP BY ALL
),
parts AS (
    SELECT m.layer, m.grp, m.n_choices, m.n_tokens, coalesce(s.n_shared, 0) AS n_shared, coalesce(s.n_first, 0) AS n_first,
        sum(m.n_choices) OVER w AS all_choices, sum(coalesce(s.n_shared, 0)) OVER w AS all_shared, count(*) OVER w AS groups
    FROM met AS m LEFT JOIN shared AS s USING (layer, grp)
    WINDOW w AS (PARTITION BY m.layer)
),
left_out AS (
    SELECT *, (all_shared - n_shared) / nullif(all_choices - n_choices, 0) AS without FROM parts
),
loads AS (
    SELECT x.layer, sum(x.load * y.load) AS product
    FROM experts AS x JOIN experts AS y ON y.run_id = $other AND y.layer = x.layer AND y.expert = x.expert AND NOT y.shared
    WHERE x.run_id = $run AND NOT x.shared
    GROUP BY x.layer
)
SELECT l.layer, sum(l.n_tokens)::UBIGINT AS n_tokens, sum(l.n_shared) / sum(l.n_choices) AS agreement,
    sqrt(var_pop(l.without) * (count(*) - 1)) * 2.093 AS half,
    greatest(agreement - half, 0) AS lo, least(agreement + half, 1) AS hi,
    sum(l.n_first) / sum(l.n_tokens) AS first_agreement,
    any_value(r.k) / any_value(r.n_experts) AS uniform, any_value(r.k) * any_value(p.product) AS chance
FROM left_out AS l
JOIN routers AS r ON r.run_id = $run AND r.layer = l.layer
LEFT JOIN loads AS p ON p.layer = l.layer
GROUP BY l.layer
ORDER BY l.layer;

-- name: routing.features
-- Which latents of a dictionary fire when an expert is chosen? Those that tell most about it first. Counted on the same tokens, in every stride-th block of 256 of them;
-- the interval of the lift is from a jackknife over 20 groups of blocks of 4,096 tokens, on its logarithm.
WITH here AS MATERIALIZED (
    SELECT tok, bool_or(expert = $expert) AS chosen, any_value(tok // 4096) % 20 AS grp
    FROM routes
    WHERE run_id = $run AND layer = $layer AND tok // 256 % $stride = 0
    GROUP BY tok
),
totals AS (SELECT grp, count(*) AS t, count(*) FILTER (chosen) AS e FROM here GROUP BY grp),
fired AS MATERIALIZED (
    SELECT a.feature, h.grp, count(*) AS f, count(*) FILTER (h.chosen) AS b
    FROM acts_by_token AS a JOIN here AS h USING (tok)
    WHERE a.run_id = $acts_run AND a.dictionary_id = $dictionary AND a.tok // 256 % $stride = 0
    GROUP BY ALL
),
sums AS (SELECT sum(t) AS t, sum(e) AS e, count(*) AS groups FROM totals),
busy AS (SELECT feature, sum(f) AS f, sum(b) AS b FROM fired GROUP BY feature HAVING sum(f) >= $least AND sum(b) > 0),
left_out AS (
    SELECT y.feature, ln(greatest(y.b - coalesce(g.b, 0), 0.5) * (s.t - o.t) / (greatest(y.f - coalesce(g.f, 0), 0.5) * (s.e - o.e))) AS without
    FROM busy AS y CROSS JOIN totals AS o CROSS JOIN sums AS s
    LEFT JOIN fired AS g ON g.feature = y.feature AND g.grp = o.grp
    WHERE s.t > o.t AND s.e > o.e
),
spread AS (SELECT feature, sqrt(var_pop(without) * (count(*) - 1)) * 2.093 AS half FROM left_out GROUP BY feature HAVING count(*) >= 5)
SELECT y.feature, y.b::UBIGINT AS n_both, y.f::UBIGINT AS n_feature, s.e::UBIGINT AS n_expert, s.t::UBIGINT AS n_tokens,
    y.b / s.e AS p_feature_given_expert, y.b / y.f AS p_expert_given_feature, y.b * s.t / (y.f * s.e) AS lift,
    lift * exp(-p.half) AS lo, lift * exp(p.half) AS hi
FROM busy AS y CROSS JOIN sums AS s LEFT JOIN spread AS p USING (feature)
WHERE lift > 1
ORDER BY y.b * ln(lift) DESC, y.feature
LIMIT $limit;
