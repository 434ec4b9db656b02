-- name: app_examples.strongest
-- Which features carry most of each dictionary?
SELECT dictionary_id, feature, energy_share, frac_nonzero, max_act, top_tokens
FROM features
WHERE NOT dead
QUALIFY row_number() OVER (PARTITION BY run_id, dictionary_id ORDER BY energy_share DESC) <= 10
ORDER BY dictionary_id, energy_share DESC;

-- name: app_examples.token
-- Which features fire on " import"?
SELECT t.dictionary_id, t.feature, t.n, t.recall, t.share, t.mean_act
FROM feature_tokens AS t
JOIN vocab AS v USING (corpus_id, token_id)
WHERE trim(v.text) = 'import'
ORDER BY t.recall * t.share DESC
LIMIT 50;

-- name: app_examples.domain
-- Which features prefer one kind of text?
SELECT d.dictionary_id, d.domain, d.feature, d.frac_nonzero / f.frac_nonzero AS times_denser, d.n_active, f.top_tokens
FROM feature_domains AS d
JOIN features AS f USING (run_id, dictionary_id, feature)
WHERE f.n_active >= 50
ORDER BY times_denser DESC
LIMIT 50;

-- name: app_examples.density
-- How are densities distributed?
SELECT dictionary_id, floor(log10(frac_nonzero)) AS log10_density, count(*) AS latents
FROM features
WHERE NOT dead
GROUP BY ALL
ORDER BY dictionary_id, log10_density;

-- name: app_examples.pairs
-- Which features nearly always fire together?
SELECT dictionary_id, feature, other, n, jaccard, lift
FROM feature_coact
WHERE n >= 20 AND feature < other
ORDER BY jaccard DESC
LIMIT 50;

-- name: app_examples.active
-- How many features fire on a token, by domain?
SELECT a.dictionary_id, d.domain, count(*) / count(DISTINCT a.tok) AS active_latents, count(DISTINCT a.tok) AS tokens
FROM acts AS a
JOIN docs AS d ON d.corpus_id = a.corpus_id AND a.tok >= d.tok_lo AND a.tok < d.tok_hi
WHERE a.tok < 100000
GROUP BY a.dictionary_id, d.domain
ORDER BY a.dictionary_id, d.domain;

-- name: app_examples.runs
-- What ran, and what did a code cost in bytes?
SELECT run_id, kind, status, n_tokens, n_rows, round(bytes / n_rows, 2) AS bytes_a_code, kernel, code_version, note
FROM runs
ORDER BY updated DESC;
