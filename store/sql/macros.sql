-- Table macros over the views. `acts_of(dictionary, feature)` is made by views.py, because it names the files of each bucket
-- size; everything else is here. Signed codes rank by magnitude; `act` keeps its sign.

-- The k strongest activations of a latent, from the raw codes (feature_top holds the deduplicated 20 of a sealed run).
CREATE OR REPLACE MACRO top(dictionary, feature, k) AS TABLE
    SELECT run_id, corpus_id, tok, act
    FROM acts_of(dictionary, feature)
    ORDER BY abs(act) DESC, tok, run_id
    LIMIT k;

-- Latents that fire on a token, strongest first.
CREATE OR REPLACE MACRO at_token(dictionary, tok) AS TABLE
    SELECT a.run_id, a.corpus_id, a.feature, a.act
    FROM acts_by_token a
    WHERE a.dictionary_id = dictionary AND a.tok = tok
    ORDER BY abs(a.act) DESC, a.feature, a.run_id;

-- The tokens around one, within its document.
CREATE OR REPLACE MACRO context(corpus, tok, before, after) AS TABLE
    SELECT t.tok, t.tok::BIGINT - tok AS "offset", t.token_id, v.piece, v.text
    FROM tokens t
    LEFT JOIN vocab v ON v.corpus_id = t.corpus_id AND v.token_id = t.token_id
    WHERE t.corpus_id = corpus
      AND t.tok BETWEEN greatest(tok::BIGINT - before, 0) AND tok::BIGINT + after
      AND t.tok >= coalesce((SELECT max(d.tok_lo) FROM docs d WHERE d.corpus_id = corpus AND d.tok_lo <= tok), 0)
      AND t.tok < coalesce((SELECT min(d.tok_hi) FROM docs d WHERE d.corpus_id = corpus AND d.tok_hi > tok), 4294967295)
    ORDER BY t.tok;

-- Latents that fire on the same tokens as this one, counted on every token; jaccard is NULL until the run is sealed.
CREATE OR REPLACE MACRO coact(dictionary, feature, k) AS TABLE
    WITH mine AS MATERIALIZED (SELECT run_id, tok FROM acts_of(dictionary, feature)),
    size AS (SELECT run_id, count(*) AS n FROM mine GROUP BY run_id),
    pairs AS (
        SELECT a.run_id, a.feature AS other, count(*) AS n
        FROM acts_by_token a JOIN mine m ON m.run_id = a.run_id AND m.tok = a.tok
        WHERE a.dictionary_id = dictionary AND a.feature != feature
        GROUP BY a.run_id, a.feature
        ORDER BY n DESC, other
        LIMIT k
    )
    SELECT p.run_id, p.other, p.n,
           p.n / s.n AS p_other_given_feature,
           p.n / f.n_active AS p_feature_given_other,
           p.n / (s.n + f.n_active - p.n) AS jaccard
    FROM pairs p
    JOIN size s ON s.run_id = p.run_id
    LEFT JOIN features f ON f.run_id = p.run_id AND f.dictionary_id = dictionary AND f.feature = p.other
    ORDER BY p.n DESC, p.other;
