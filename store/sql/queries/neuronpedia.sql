-- Rows of Neuronpedia's bulk import, one JSON object each, under the names of its tables "Neuron" and "Activation". A batch
-- is the features $first..$last; `atoms(feature, vector)` holds their decoder rows.

-- name: neuronpedia.significant
-- Rounds to so many significant digits: whatever their scale, small activations are not rounded away.
CREATE OR REPLACE TEMP MACRO significant(x, digits) AS
    CASE WHEN x = 0 THEN 0::DOUBLE ELSE round(x::DOUBLE, digits - 1 - floor(log10(abs(x)))::INTEGER) END;

-- name: neuronpedia.storable
-- Postgres keeps no NUL character, neither in text nor in JSON.
CREATE OR REPLACE TEMP MACRO storable(token) AS replace(token, chr(0), chr(65533));

-- name: neuronpedia.features
-- One row a feature, dead ones too. Logits and neighbours follow from the dictionary: any run's will do.
WITH logits AS (
    SELECT
        feature,
        list(storable(token) ORDER BY rank) FILTER (sign > 0) AS pos_str,
        list(significant(value, 4) ORDER BY rank) FILTER (sign > 0) AS pos_values,
        list(storable(token) ORDER BY rank) FILTER (sign < 0) AS neg_str,
        list(significant(value, 4) ORDER BY rank) FILTER (sign < 0) AS neg_values
    FROM (
        SELECT DISTINCT ON (feature, sign, rank) feature, sign, rank, token, value FROM feature_logits
        WHERE dictionary_id = $dictionary AND feature BETWEEN $first AND $last
        ORDER BY feature, sign, rank, run_id = $run DESC, run_id
    )
    GROUP BY feature
),
near AS (
    SELECT feature, list(other::INTEGER ORDER BY rank) AS others, list(significant(cosine, 4) ORDER BY rank) AS cosines
    FROM (
        SELECT DISTINCT ON (feature, rank) feature, rank, other, cosine FROM feature_neighbors
        WHERE dictionary_id = $dictionary AND feature BETWEEN $first AND $last
        ORDER BY feature, rank, run_id = $run DESC, run_id
    )
    GROUP BY feature
),
hist AS (
    SELECT
        feature,
        list(n::DOUBLE ORDER BY bin) AS heights,
        list(significant((lo::DOUBLE + hi) / 2, 4) ORDER BY bin) AS centres
    FROM feature_hist
    WHERE run_id = $run AND dictionary_id = $dictionary AND feature BETWEEN $first AND $last
    GROUP BY feature
)
SELECT
    $model AS "modelId", $layer AS layer, f.feature::VARCHAR AS "index", $source_set AS "sourceSetName",
    $creator AS "creatorId", $created AS "createdAt",
    significant(coalesce(f.max_act, 0), 4) AS "maxActApprox",
    true AS "hasVector",
    [significant(x, 6) FOR x IN a.vector] AS vector,
    NULL::VARCHAR AS "vectorLabel",
    significant(coalesce(f.max_act, 0), 4) AS "vectorDefaultSteerStrength",
    $hook AS "hookName",
    coalesce(n.others, []) AS "topkCosSimIndices", coalesce(n.cosines, []) AS "topkCosSimValues",
    []::INTEGER[] AS neuron_alignment_indices, []::DOUBLE[] AS neuron_alignment_values, []::DOUBLE[] AS neuron_alignment_l1,
    []::INTEGER[] AS correlated_neurons_indices, []::DOUBLE[] AS correlated_neurons_pearson,
    []::DOUBLE[] AS correlated_neurons_l1,
    []::INTEGER[] AS correlated_features_indices, []::DOUBLE[] AS correlated_features_pearson,
    []::DOUBLE[] AS correlated_features_l1,
    coalesce(l.neg_str, []) AS neg_str, coalesce(l.neg_values, []) AS neg_values,
    coalesce(l.pos_str, []) AS pos_str, coalesce(l.pos_values, []) AS pos_values,
    significant(f.frac_nonzero, 6) AS frac_nonzero,
    coalesce(h.heights, []) AS freq_hist_data_bar_heights, coalesce(h.centres, []) AS freq_hist_data_bar_values,
    []::DOUBLE[] AS logits_hist_data_bar_heights, []::DOUBLE[] AS logits_hist_data_bar_values,
    []::DOUBLE[] AS decoder_weights_dist
FROM features AS f
JOIN atoms AS a ON a.feature = f.feature
LEFT JOIN logits AS l ON l.feature = f.feature
LEFT JOIN near AS n ON n.feature = f.feature
LEFT JOIN hist AS h ON h.feature = f.feature
WHERE f.run_id = $run AND f.dictionary_id = $dictionary AND f.feature BETWEEN $first AND $last
ORDER BY f.feature;

-- name: neuronpedia.activations
-- One row an example: the strongest (binMin -1, as SAEDashboard marks them), then those of each interval from the top down, as
-- the text around a token within its document. binContains is the share of all tokens that lie in the interval.
WITH examples AS (
    SELECT feature, 10 AS bin, rank, tok, -1::DOUBLE AS bin_min, max(abs(act)) OVER (PARTITION BY feature) AS bin_max, -1::DOUBLE AS contains
    FROM feature_top
    WHERE run_id = $run AND dictionary_id = $dictionary AND feature BETWEEN $first AND $last
    UNION ALL
    SELECT feature, "interval", rank, tok, lo, hi, n / $n_tokens
    FROM feature_sample
    WHERE run_id = $run AND dictionary_id = $dictionary AND feature BETWEEN $first AND $last
),
placed AS (
    SELECT
        e.*,
        greatest(d.tok_lo, e.tok::BIGINT - $before) AS span_lo,
        least(d.tok_hi, e.tok::BIGINT + $after + 1) AS span_hi
    FROM examples AS e
    ASOF JOIN (SELECT tok_lo, tok_hi FROM docs WHERE corpus_id = $corpus) AS d ON e.tok >= d.tok_lo
),
spans AS (
    SELECT p.*, unnest(range(span_lo, span_hi))::UINTEGER AS here FROM placed AS p
),
texts AS (
    SELECT
        s.feature, s.bin, s.rank, any_value(s.bin_min) AS bin_min, any_value(s.bin_max) AS bin_max,
        any_value(s.contains) AS contains, any_value(s.tok - s.span_lo) AS peak,
        list(storable(v.text) ORDER BY s.here) AS tokens,
        list(significant(coalesce(c.act, 0), 4) ORDER BY s.here) AS acts
    FROM spans AS s
    JOIN (SELECT tok, token_id FROM tokens WHERE corpus_id = $corpus) AS t ON t.tok = s.here
    JOIN (SELECT token_id, text FROM vocab WHERE corpus_id = $corpus) AS v ON v.token_id = t.token_id
    LEFT JOIN (
        SELECT feature, tok, act FROM acts
        WHERE run_id = $run AND dictionary_id = $dictionary AND feature BETWEEN $first AND $last
    ) AS c ON c.feature = s.feature AND c.tok = s.here
    GROUP BY s.feature, s.bin, s.rank
)
SELECT
    'c' || left(md5(concat_ws('/', $model, $layer, $run, feature, bin, rank)), 24) AS id,
    tokens,
    NULL::VARCHAR AS "dataIndex",
    feature::VARCHAR AS "index", $layer AS layer, $model AS "modelId",
    NULL::VARCHAR AS "dataSource",
    list_max(acts) AS "maxValue",
    list_position(acts, list_max(acts)) - 1 AS "maxValueTokenIndex",
    list_min(acts) AS "minValue",
    acts AS "values",
    []::DOUBLE[] AS "dfaValues", NULL::INTEGER AS "dfaTargetIndex", NULL::DOUBLE AS "dfaMaxValue",
    $creator AS "creatorId", $created AS "createdAt",
    []::DOUBLE[] AS "lossValues", NULL::VARCHAR AS "logitContributions",
    significant(bin_min, 4) AS "binMin", significant(bin_max, 4) AS "binMax", significant(contains, 4) AS "binContains",
    peak AS "qualifyingTokenIndex"
FROM texts
ORDER BY feature, bin DESC, rank;
