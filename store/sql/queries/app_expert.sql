-- name: app_expert.numbers
-- The numbers of one expert.
SELECT e.n_tokens, e.load, e.load * r.n_experts AS of_fair, e.importance, e.mean_prob, coalesce(e.shared, false) AS shared,
    r.n_experts, r.k, r.module, r.score, r.n_tokens AS n_routed, l.share, l.lo, l.hi, l.uniform
FROM experts AS e
JOIN routers AS r ON r.run_id = e.run_id AND r.layer = e.layer
LEFT JOIN expert_labels AS l ON l.run_id = e.run_id AND l.layer = e.layer AND l.expert = e.expert AND l.labelling = 'all'
WHERE e.run_id = $run AND e.layer = $layer AND e.expert = $expert;

-- name: app_expert.labels
-- Share of each label's tokens that choose it.
SELECT label, n, n_label, share, lo, hi, uniform, null_lo, null_hi
FROM expert_labels
WHERE run_id = $run AND layer = $layer AND expert = $expert AND labelling = $labelling
ORDER BY share DESC, label
LIMIT $limit;

-- name: app_expert.tokens
-- Tokens it is chosen on most.
SELECT t.rank, t.token_id, v.text, t.n, t.n_token, t.share, t.lo, t.hi, t.lift
FROM expert_tokens AS t JOIN vocab AS v ON v.corpus_id = t.corpus_id AND v.token_id = t.token_id
WHERE t.run_id = $run AND t.layer = $layer AND t.expert = $expert AND t.side = $side
ORDER BY t.rank
LIMIT $limit;

-- name: app_expert.partners
-- Experts chosen for the same tokens more, or less, than loads explain.
SELECT other, n, p_other_given_expert, expected, lift, lo, hi
FROM expert_coact
WHERE run_id = $run AND layer = $layer AND expert = $expert
ORDER BY lift DESC, other
LIMIT $limit;

-- name: app_expert.next
-- Where its tokens go at the next router.
SELECT next_layer, next_expert, n, p, lift, lo, hi
FROM expert_transitions
WHERE run_id = $run AND layer = $layer AND expert = $expert
ORDER BY n DESC, next_expert
LIMIT $limit;

-- name: app_expert.examples
-- Tokens on which it has the most weight, one a document; looked for in every stride-th block of 256 tokens.
SELECT any_value(r.tok ORDER BY r.weight DESC NULLS LAST, r.tok) AS tok, max(r.weight) AS act
FROM (
    SELECT tok, weight FROM routes
    WHERE run_id = $run AND layer = $layer AND expert = $expert AND tok // 256 % $stride = 0
) AS r
JOIN docs AS d ON d.corpus_id = $corpus AND r.tok >= d.tok_lo AND r.tok < d.tok_hi
GROUP BY d.doc
ORDER BY act DESC NULLS LAST, tok
LIMIT $limit;

-- name: app_expert.contexts
-- The text around positions $toks, clipped at the document, with the weight of one expert on every token.
WITH spans AS (
    SELECT a.tok AS peak, d.doc, d.domain, d.source, d.tok_lo,
        unnest(range(greatest(d.tok_lo, a.tok::BIGINT - $before)::BIGINT, least(d.tok_hi, a.tok::BIGINT + $after + 1)::BIGINT))::UINTEGER AS tok
    FROM (SELECT unnest($toks::UINTEGER[]) AS tok) AS a
    JOIN docs AS d ON d.corpus_id = $corpus AND a.tok >= d.tok_lo AND a.tok < d.tok_hi
)
SELECT s.peak, s.doc, s.domain, s.source, s.tok, (s.tok - s.tok_lo)::BIGINT AS position, t.token_id, v.text, coalesce(c.act, 0) AS act
FROM spans AS s
JOIN tokens AS t ON t.corpus_id = $corpus AND t.tok = s.tok
JOIN vocab AS v ON v.corpus_id = $corpus AND v.token_id = t.token_id
LEFT JOIN (
    SELECT tok, coalesce(weight, 1) AS act FROM routes WHERE run_id = $run AND layer = $layer AND expert = $expert
        AND tok BETWEEN (SELECT min(tok) FROM spans) AND (SELECT max(tok) FROM spans)
) AS c ON c.tok = s.tok
ORDER BY s.peak, s.tok;

-- name: app_expert.dictionaries
-- Dictionaries whose codes lie on the same tokens.
SELECT f.run_id, f.dictionary_id, any_value(d.hook) AS hook, count(*) AS n_latents
FROM features AS f LEFT JOIN dictionaries AS d USING (dictionary_id)
WHERE f.corpus_id = $corpus
GROUP BY f.run_id, f.dictionary_id
ORDER BY max(f.n_active) DESC, f.run_id, f.dictionary_id
LIMIT 50;

-- name: app_expert.described
-- The tokens that features fire on most.
SELECT feature, top_tokens FROM features
WHERE run_id = $run AND dictionary_id = $dictionary AND list_contains($features, feature);

-- name: app_expert.ablation
-- Loss without the expert, over all text and by domain; every run of the same model that ablated it.
SELECT a.run_id, a.domain, a.n_tokens, a.loss, a.loss_ablated, a.change, a.lo, a.hi
FROM expert_ablations AS a JOIN runs AS u USING (run_id)
WHERE a.layer = $layer AND a.expert = $expert
    AND (u.run_id = $run OR (u.model, coalesce(u.model_revision, '')) IN (SELECT (model, coalesce(model_revision, '')) FROM runs WHERE run_id = $run))
QUALIFY a.run_id = first_value(a.run_id) OVER (ORDER BY u.updated DESC, a.run_id)
ORDER BY a.domain IS NOT NULL, a.change DESC;

-- name: app_expert.ablated_features
-- Latents that move most without the expert.
SELECT dictionary_id, feature, n_before, n_after, mass_before, mass_after, mass_after / nullif(mass_before, 0) - 1 AS moved
FROM expert_ablation_features
WHERE run_id = $ablation AND layer = $layer AND expert = $expert
ORDER BY abs(mass_after - mass_before) DESC, feature
LIMIT $limit;
