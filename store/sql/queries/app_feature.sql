-- name: app_feature.numbers
-- The numbers of one feature.
SELECT * FROM features WHERE run_id = $run AND dictionary_id = $dictionary AND feature = $feature;

-- name: app_feature.hist
-- Tokens a bin of activation.
SELECT bin, lo, hi, n FROM feature_hist
WHERE run_id = $run AND dictionary_id = $dictionary AND feature = $feature
ORDER BY bin;

-- name: app_feature.top
-- The strongest examples, one a context.
SELECT rank, tok, act FROM feature_top
WHERE run_id = $run AND dictionary_id = $dictionary AND feature = $feature
ORDER BY rank
LIMIT $limit;

-- name: app_feature.sample
-- Random examples from each tenth of the activation's range, strongest first.
SELECT "interval", lo, hi, n, share, rank, tok, act FROM feature_sample
WHERE run_id = $run AND dictionary_id = $dictionary AND feature = $feature AND rank <= $each
ORDER BY "interval" DESC, rank;

-- name: app_feature.contexts
-- The text around positions $toks, clipped at the document, with the activation of one feature on every token.
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
LEFT JOIN (SELECT tok, act FROM acts_of($dictionary, $feature) WHERE run_id = $run) AS c ON c.tok = s.tok
ORDER BY s.peak, s.tok;

-- name: app_feature.logits
-- Tokens whose logit the feature raises and lowers most. They follow from the dictionary and the model: any run's will do.
SELECT DISTINCT ON (sign, rank) sign, rank, token_id, token, value FROM feature_logits
WHERE dictionary_id = $dictionary AND feature = $feature
ORDER BY sign DESC, rank, run_id = $run DESC;

-- name: app_feature.tokens
-- Token types it fires on.
SELECT t.rank, t.token_id, v.text, t.n, t.share, t.recall, t.mean_act
FROM feature_tokens AS t JOIN vocab AS v ON v.corpus_id = t.corpus_id AND v.token_id = t.token_id
WHERE t.run_id = $run AND t.dictionary_id = $dictionary AND t.feature = $feature
ORDER BY t.rank;

-- name: app_feature.by_domain
-- Density by domain.
SELECT domain, n_active, frac_nonzero FROM feature_domains
WHERE run_id = $run AND dictionary_id = $dictionary AND feature = $feature
ORDER BY frac_nonzero DESC, domain;

-- name: app_feature.coact
-- Latents that fire on the same tokens, each with the tokens it fires on most.
SELECT c.rank, c.other, c.n, c.n_tokens, c.p_other_given_feature, c.p_feature_given_other, c.lift, c.jaccard, f.top_tokens
FROM feature_coact AS c
LEFT JOIN features AS f ON f.run_id = c.run_id AND f.dictionary_id = c.dictionary_id AND f.feature = c.other
WHERE c.run_id = $run AND c.dictionary_id = $dictionary AND c.feature = $feature
ORDER BY c.rank
LIMIT $limit;

-- name: app_feature.neighbors
-- Nearest latents by the cosine between atoms, each with the tokens it fires on most. Atoms belong to the dictionary, so any
-- run that computed them will do.
SELECT n.rank, n.other, n.cosine, f.top_tokens, f.dead
FROM (
    SELECT DISTINCT ON (rank) rank, other, cosine FROM feature_neighbors
    WHERE dictionary_id = $dictionary AND feature = $feature
    ORDER BY rank, run_id
) AS n
LEFT JOIN features AS f ON f.run_id = $run AND f.dictionary_id = $dictionary AND f.feature = n.other
ORDER BY n.rank
LIMIT $limit;

-- name: app_feature.spread
-- Documents of the text that was encoded, of which the feature's n_docs are a part.
SELECT count(*) AS n_docs FROM docs WHERE corpus_id = $corpus;

-- name: app_feature.random
-- One feature that fires, another one for each $seed.
SELECT feature FROM features
WHERE run_id = $run AND dictionary_id = $dictionary AND NOT dead
ORDER BY hash(feature + $seed)
LIMIT 1;
