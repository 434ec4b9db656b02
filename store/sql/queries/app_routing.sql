-- name: app_routing.mixtures
-- Runs that captured routing, the latest first.
SELECT r.run_id, r.corpus_id, u.name, u.model, u.model_revision, u.status, u.note, r.n_routers, r.n_experts, r.k, r.n_tokens, r.layers,
    r.source, m.run_id IS NOT NULL AS analysed
FROM (
    SELECT run_id, any_value(corpus_id) AS corpus_id, count(*) AS n_routers, max(n_experts) AS n_experts, max(k) AS k,
        max(n_tokens) AS n_tokens, list(layer::INTEGER ORDER BY layer) AS layers, any_value(source) AS source
    FROM routers GROUP BY run_id
) AS r
JOIN runs AS u USING (run_id)
LEFT JOIN (SELECT DISTINCT run_id FROM routing_metrics) AS m USING (run_id)
ORDER BY u.updated DESC, r.run_id;

-- name: app_routing.routers
-- The routers of a run: how they score and weigh.
SELECT layer, module, n_experts, n_shared, k, score, renormalised, scale, source, n_tokens
FROM routers WHERE run_id = $run ORDER BY layer;

-- name: app_routing.loads
-- Tokens of each expert against a fair share, with the interval of its share of tokens.
SELECT e.layer, e.expert, e.n_tokens, e.load * r.n_experts AS of_fair, e.importance, l.share, l.lo, l.hi, l.uniform
FROM experts AS e
JOIN routers AS r ON r.run_id = e.run_id AND r.layer = e.layer
LEFT JOIN expert_labels AS l ON l.run_id = e.run_id AND l.layer = e.layer AND l.expert = e.expert AND l.labelling = 'all'
WHERE e.run_id = $run AND NOT coalesce(e.shared, false)
ORDER BY e.layer, e.expert;

-- name: app_routing.metrics
-- One figure by layer, with its interval and its null.
SELECT layer, value, lo, hi, null_value, null_lo, null_hi, null_model, unit, n_tokens
FROM routing_metrics
WHERE run_id = $run AND metric = $metric
ORDER BY layer;

-- name: app_routing.known_metrics
-- Which figures there are.
SELECT metric, any_value(unit) AS unit, count(*) AS n FROM routing_metrics WHERE run_id = $run GROUP BY metric ORDER BY metric;

-- name: app_routing.together
-- Experts of one layer that are chosen for the same tokens, among its $most busiest.
WITH busy AS (
    SELECT expert FROM experts WHERE run_id = $run AND layer = $layer AND NOT coalesce(shared, false)
    ORDER BY n_tokens DESC, expert LIMIT $most
)
SELECT c.expert, c.other, c.n, c.n_adjacent, c.p_other_given_expert, c.expected, c.lift, c.lo, c.hi
FROM expert_coact AS c SEMI JOIN busy ON busy.expert = c.expert SEMI JOIN busy AS also ON also.expert = c.other
WHERE c.run_id = $run AND c.layer = $layer
ORDER BY c.expert, c.other;

-- name: app_routing.pairs
-- Pairs chosen together more often than loads explain (or, $avoided, less often), surest first.
SELECT expert, other, n, expected, lift, lo, hi
FROM expert_coact
WHERE run_id = $run AND layer = $layer AND expert < other AND CASE WHEN $avoided THEN lift < 1 ELSE lift > 1 END
ORDER BY CASE WHEN $avoided THEN coalesce(hi, lift) ELSE -coalesce(lo, lift) END, expected DESC, expert, other
LIMIT $limit;

-- name: app_routing.transitions
-- The commonest steps between first choices, from $first to $last.
SELECT layer, expert, next_layer, next_expert, n, p, expected, lift, lo, hi
FROM expert_transitions
WHERE run_id = $run AND layer >= $first AND next_layer <= $last
ORDER BY n DESC, layer, expert, next_expert
LIMIT $limit;

-- name: app_routing.transition_totals
-- Tokens behind the steps of each pair of routers, so that a view can say what it leaves out.
SELECT layer, sum(n)::UBIGINT AS n, count(*) AS n_steps
FROM expert_transitions
WHERE run_id = $run AND layer >= $first AND next_layer <= $last
GROUP BY layer
ORDER BY layer;

-- name: app_routing.paths
-- Commonest paths of first choices through all routers.
SELECT rank, path, n, share, expected, expected_markov FROM expert_paths WHERE run_id = $run ORDER BY rank LIMIT $limit;

-- name: app_routing.labellings
-- Ways in which tokens are labelled.
SELECT labelling, count(DISTINCT label) AS n FROM expert_labels WHERE run_id = $run AND labelling != 'all' GROUP BY labelling
ORDER BY labelling != 'domain', labelling;

-- name: app_routing.labels
-- Share of each label's tokens that choose each expert of a layer, of its $most busiest; positions in their order, others by size.
WITH busy AS (
    SELECT expert FROM experts WHERE run_id = $run AND layer = $layer AND NOT coalesce(shared, false)
    ORDER BY n_tokens DESC, expert LIMIT $most
)
SELECT l.expert, l.label, l.n, l.n_label, l.share, l.lo, l.hi, l.uniform, l.null_lo, l.null_hi
FROM expert_labels AS l SEMI JOIN busy USING (expert)
WHERE l.run_id = $run AND l.layer = $layer AND l.labelling = $labelling
ORDER BY CASE WHEN $labelling = 'position' THEN try_cast(rtrim(l.label, '+') AS BIGINT) END, l.n_label DESC, l.label, l.expert;

-- name: app_routing.vocabulary
-- Tokens that experts of a layer are chosen on most, for the $most experts whose first token is surest.
WITH surest AS (
    SELECT expert FROM expert_tokens WHERE run_id = $run AND layer = $layer AND side = $side AND rank = 1
    ORDER BY lo DESC, expert LIMIT $most
)
SELECT t.expert, t.rank, v.text, t.token_id, t.n, t.n_token, t.share, t.lo, t.hi, t.lift
FROM expert_tokens AS t SEMI JOIN surest USING (expert) JOIN vocab AS v ON v.corpus_id = t.corpus_id AND v.token_id = t.token_id
WHERE t.run_id = $run AND t.layer = $layer AND t.side = $side AND t.rank <= $each
ORDER BY t.expert, t.rank;

-- name: app_routing.sides
-- Sides for which there is a vocabulary.
SELECT DISTINCT side FROM expert_tokens WHERE run_id = $run ORDER BY side = 'input' DESC, side;

-- name: app_routing.passage
-- Every choice on the tokens of a passage, in layers $layers.
SELECT layer, tok, rank, expert, weight, margin
FROM routes
WHERE run_id = $run AND list_contains($layers, layer) AND tok >= $lo AND tok < $hi
ORDER BY layer, tok, rank;

-- name: app_routing.confusion
-- First choices of two routers on the same tokens of a layer, in every stride-th document.
WITH place AS MATERIALIZED (
    SELECT unnest(range(tok_lo::BIGINT, tok_hi::BIGINT))::UINTEGER AS tok
    FROM docs WHERE corpus_id = $corpus AND doc % $stride = 0
)
SELECT a.expert, b.expert AS other, count(*) AS n
FROM routes AS a
JOIN place USING (tok)
JOIN routes AS b ON b.run_id = $other AND b.layer = $other_layer AND b.rank = 1 AND b.tok = a.tok
WHERE a.run_id = $run AND a.layer = $layer AND a.rank = 1
GROUP BY ALL
ORDER BY a.expert, other;
