-- name: app_read.docs
-- Documents to choose from.
SELECT doc, domain, source, split, (tok_hi - tok_lo)::UBIGINT AS n_tokens
FROM docs
WHERE corpus_id = $corpus
ORDER BY doc
LIMIT $limit;

-- name: app_read.doc
-- One document.
SELECT doc, domain, source, split, tok_lo, tok_hi FROM docs WHERE corpus_id = $corpus AND doc = $doc;

-- name: app_read.text
-- The tokens of a passage.
SELECT t.tok, t.token_id, v.text
FROM tokens AS t JOIN vocab AS v ON v.corpus_id = t.corpus_id AND v.token_id = t.token_id
WHERE t.corpus_id = $corpus AND t.tok >= $lo AND t.tok < $hi
ORDER BY t.tok;

-- name: app_read.active
-- The strongest features on each token of a passage, and how many are active on it.
SELECT tok, feature, act, count(*) OVER (PARTITION BY tok) AS n_active
FROM acts_by_token
WHERE run_id = $run AND dictionary_id = $dictionary AND tok >= $lo AND tok < $hi
QUALIFY row_number() OVER (PARTITION BY tok ORDER BY abs(act) DESC, feature) <= $each
ORDER BY tok, abs(act) DESC, feature;

-- name: app_read.leading
-- The features that stand out in a passage: how much of their maximum they reach, over how many of its tokens.
SELECT a.feature, a.n, a.strongest, a.strongest / nullif(f.max_act, 0) AS of_max, a.n / ($hi - $lo) / nullif(f.frac_nonzero, 0) AS lift,
    f.frac_nonzero, f.top_tokens
FROM (
    SELECT feature, count(*) AS n, max(act) AS strongest
    FROM acts_by_token
    WHERE run_id = $run AND dictionary_id = $dictionary AND tok >= $lo AND tok < $hi
    GROUP BY feature
) AS a
JOIN features AS f ON f.run_id = $run AND f.dictionary_id = $dictionary AND f.feature = a.feature
WHERE f.frac_nonzero <= $dense
ORDER BY of_max * sqrt(a.n) DESC, a.feature
LIMIT $limit;

-- name: app_read.of
-- Activations of chosen features on the tokens of a passage.
SELECT tok, feature, act
FROM acts_by_token
WHERE run_id = $run AND dictionary_id = $dictionary AND tok >= $lo AND tok < $hi AND list_contains($features, feature)
ORDER BY tok, feature;
