-- The tables an analyst sees. `Store.connect()` offers each one as a view over all runs of the store; where there is no data
-- yet the view is empty but typed, so a query never fails for want of rows. This file is the schema: the writer takes its
-- column types from here, docs/sql.md and the app's schema browser their descriptions.

-- One row a (dictionary, latent, token) whose activation is not zero. (feature, tok) is unique within a run and dictionary.
CREATE TABLE acts (
    run_id        VARCHAR,   -- run that encoded it
    dictionary_id VARCHAR,   -- dictionary whose latent this is
    corpus_id     VARCHAR,   -- corpus that `tok` counts in
    feature       UINTEGER,  -- latent
    tok           UINTEGER,  -- position of the token in the whole corpus
    act           FLOAT      -- activation, rounded to bfloat16
);

-- Dense activations of a sample of tokens (or all, or none: `extract --activations`).
CREATE TABLE activations (
    run_id    VARCHAR,
    hook      VARCHAR,       -- TransformerLens name, e.g. blocks.9.hook_resid_post
    corpus_id VARCHAR,
    tok       UINTEGER,
    x         FLOAT[]        -- the activation vector
);

CREATE TABLE tokens (
    corpus_id VARCHAR,
    tok       UINTEGER,
    token_id  UINTEGER       -- id in the tokenizer's vocabulary; see vocab
);

CREATE TABLE docs (
    corpus_id VARCHAR,
    doc       UINTEGER,
    tok_lo    UINTEGER,      -- first token
    tok_hi    UINTEGER,      -- one past the last token
    domain    VARCHAR,       -- e.g. stdlib, pip-readmes
    source    VARCHAR,       -- file, package or record it came from
    split     VARCHAR        -- train or heldout: dictionaries are scored on heldout documents
);

CREATE TABLE vocab (
    corpus_id VARCHAR,
    token_id  UINTEGER,
    piece     VARCHAR,       -- the tokenizer's own spelling, e.g. Ġthe
    text      VARCHAR        -- as it reads in a text
);

-- Page tables: one row a latent and more, computed when a run is sealed.
CREATE TABLE features (
    run_id        VARCHAR,
    dictionary_id VARCHAR,
    corpus_id     VARCHAR,
    feature       UINTEGER,
    n_active      UBIGINT,   -- tokens on which it is active
    frac_nonzero  DOUBLE,    -- density: n_active / tokens encoded
    frac_lo       DOUBLE,    -- Wilson 95 % interval of the density
    frac_hi       DOUBLE,
    mean_act      DOUBLE,    -- mean over the tokens where it is active
    max_act       FLOAT,
    energy_share  DOUBLE,    -- its share of the dictionary's sum of squared activations
    n_docs        UINTEGER,  -- documents in which it is active
    tok_first     UINTEGER,  -- first and last token on which it is active
    tok_last      UINTEGER,
    dead          BOOLEAN,   -- active on no token of this corpus
    top_tokens    VARCHAR    -- the tokens it fires on most, as text, for tables
);

-- The strongest examples, one a context: of tokens that share their preceding tokens only the strongest is kept.
CREATE TABLE feature_top (
    run_id VARCHAR, dictionary_id VARCHAR, corpus_id VARCHAR, feature UINTEGER,
    rank   USMALLINT,        -- 1 is the strongest
    tok    UINTEGER,
    act    FLOAT
);

-- Random examples from each tenth of the range 0..max_act.
CREATE TABLE feature_sample (
    run_id VARCHAR, dictionary_id VARCHAR, corpus_id VARCHAR, feature UINTEGER,
    "interval" UTINYINT,     -- 0 (weakest) to 9 (strongest)
    lo     FLOAT,            -- the interval is (lo, hi]
    hi     FLOAT,
    n      UBIGINT,          -- tokens in the interval
    share  DOUBLE,           -- share of the latent's summed activation in the interval
    rank   USMALLINT,        -- 1.. within the interval
    tok    UINTEGER,
    act    FLOAT
);

CREATE TABLE feature_hist (
    run_id VARCHAR, dictionary_id VARCHAR, feature UINTEGER,
    bin UTINYINT, lo FLOAT, hi FLOAT,
    n   UBIGINT              -- tokens whose activation lies in (lo, hi]
);

-- Token types a latent fires on most (at most 20 a latent).
CREATE TABLE feature_tokens (
    run_id VARCHAR, dictionary_id VARCHAR, corpus_id VARCHAR, feature UINTEGER,
    rank USMALLINT, token_id UINTEGER,
    n           UBIGINT,     -- occurrences on which it is active
    share       DOUBLE,      -- n / n_active: how much of the latent this token is
    recall      DOUBLE,      -- n / occurrences of the token in the encoded text: how much of the token this latent sees
    mean_act    DOUBLE
);

CREATE TABLE feature_domains (
    run_id VARCHAR, dictionary_id VARCHAR, corpus_id VARCHAR, feature UINTEGER,
    domain VARCHAR,
    n_active     UBIGINT,
    frac_nonzero DOUBLE      -- density within the domain
);

-- Direct effect on the output: atom x final-norm weight x unembedding (no later layers). 10 highest and 10 lowest.
CREATE TABLE feature_logits (
    run_id VARCHAR, dictionary_id VARCHAR, feature UINTEGER,
    sign     TINYINT,        -- 1 promotes, -1 suppresses
    rank     USMALLINT,
    token_id UINTEGER,
    token    VARCHAR,
    value    FLOAT
);

-- Latents that fire on the same tokens; counts from all tokens or a sample of them (`n_tokens`).
CREATE TABLE feature_coact (
    run_id VARCHAR, dictionary_id VARCHAR, feature UINTEGER,
    rank     USMALLINT,
    other    UINTEGER,
    n        UBIGINT,        -- tokens on which both are active
    n_tokens UBIGINT,        -- tokens looked at
    p_other_given_feature DOUBLE,
    p_feature_given_other DOUBLE,
    lift     DOUBLE,         -- n over what independence would give
    jaccard  DOUBLE
);

CREATE TABLE feature_neighbors (
    run_id VARCHAR, dictionary_id VARCHAR, feature UINTEGER,
    rank   USMALLINT,
    other  UINTEGER,
    cosine FLOAT             -- between atoms (decoder rows)
);

CREATE TABLE metrics (
    run_id        VARCHAR,
    dictionary_id VARCHAR,
    split         VARCHAR,   -- train or heldout
    domain        VARCHAR,   -- NULL over all domains
    step          UBIGINT,   -- optimiser step; NULL for final figures
    metric        VARCHAR,   -- explained_variance, fvu, l0, dead_share, ...
    value         DOUBLE
);

-- Mixture-of-experts routing: one row a token, layer and chosen expert. A token that a router dropped has fewer rows, or none.
CREATE TABLE routes (
    run_id VARCHAR, corpus_id VARCHAR,
    layer  USMALLINT, tok UINTEGER,
    rank   UTINYINT,         -- 1 is the router's first choice
    expert USMALLINT,
    weight FLOAT,            -- as the model used it; NULL where only ids are known
    margin FLOAT             -- router score at rank k minus rank k+1
);

-- Every router of a model as it was captured. Dense layers have no row.
CREATE TABLE routers (
    run_id VARCHAR, corpus_id VARCHAR,
    layer     USMALLINT,
    module    VARCHAR,       -- e.g. model.layers.3.mlp.gate
    n_experts USMALLINT,     -- to choose from; shared ones are not among them
    n_shared  USMALLINT,     -- experts that every token passes
    k         USMALLINT,     -- chosen a token
    score     VARCHAR,       -- how logits become weights: softmax, topk_softmax, sigmoid, ...
    renormalised BOOLEAN,    -- a token's weights are divided by their sum
    scale     DOUBLE,        -- and multiplied by this
    source    VARCHAR,       -- hooks, vllm, sglang, ...
    n_tokens  UBIGINT,       -- tokens that passed the router
    entropy   DOUBLE,        -- mean over tokens of the entropy of its probabilities, in bits
    z_loss    DOUBLE         -- mean over tokens of logsumexp(logits)^2, without a coefficient
);

-- Every expert of every router, those that got no token too.
CREATE TABLE experts (
    run_id VARCHAR, corpus_id VARCHAR,
    layer  USMALLINT, expert USMALLINT,
    shared BOOLEAN,          -- always on, not chosen by the router
    n_tokens UBIGINT,        -- tokens routed to it
    load   DOUBLE,           -- n_tokens over tokens x k
    importance DOUBLE,       -- its share of the summed routing weight
    mean_prob DOUBLE         -- mean over tokens of the router's probability of it, chosen or not; NULL where only ids are known
);

-- What the model would have said after each token: for vocabulary specialisation by predicted token.
CREATE TABLE predictions (
    run_id VARCHAR, corpus_id VARCHAR,
    tok      UINTEGER,
    token_id UINTEGER,       -- most probable next token
    loss     FLOAT           -- of the true next token, in nats; NULL at the end of a window
);

-- A label a token beside its document's domain: modality, part of speech, ... `labelling` names which.
CREATE TABLE token_labels (
    run_id VARCHAR, corpus_id VARCHAR,
    tok UINTEGER, labelling VARCHAR, label VARCHAR
);

-- Page tables of routing, written when a run with routes is complete. Intervals (lo, hi) are 95 % by a jackknife over groups of
-- documents; null_* is what a router that ignores the question would show, with its central 95 %.
CREATE TABLE routing_metrics (
    run_id VARCHAR, corpus_id VARCHAR,
    layer  USMALLINT,
    metric VARCHAR,          -- load_entropy, max_over_mean, dead_experts, balance_loss, repeat_first, mi_domain, ...
    unit   VARCHAR,          -- share, ratio, bits, ...
    value DOUBLE, lo DOUBLE, hi DOUBLE,
    null_value DOUBLE, null_lo DOUBLE, null_hi DOUBLE,
    null_model VARCHAR,      -- what the null is
    n_tokens UBIGINT         -- counted on
);

-- How often an expert is chosen on tokens of one label, against how often any expert would be.
CREATE TABLE expert_labels (
    run_id VARCHAR, corpus_id VARCHAR,
    layer USMALLINT, expert USMALLINT,
    labelling VARCHAR,       -- all, domain, position, or a labelling of token_labels
    label   VARCHAR,
    n       UBIGINT,         -- tokens of the label routed to it
    n_label UBIGINT,         -- tokens of the label
    share DOUBLE, lo DOUBLE, hi DOUBLE,    -- n / n_label: specialisation (OLMoE, section 5.3)
    uniform DOUBLE,          -- k / experts
    null_lo DOUBLE, null_hi DOUBLE         -- where shares lie when labels are shuffled among documents
);

-- Experts chosen for the same token, over all pairs of a token's k choices.
CREATE TABLE expert_coact (
    run_id VARCHAR, corpus_id VARCHAR,
    layer USMALLINT, expert USMALLINT, other USMALLINT,
    n          UBIGINT,      -- tokens that chose both
    n_adjacent UBIGINT,      -- of them, with ranks next to each other (what OLMoE's script counts)
    p_other_given_expert DOUBLE,           -- n over the tokens of expert; a row sums to k - 1
    expected DOUBLE,         -- n of a router with these loads and this k that is otherwise indifferent
    lift DOUBLE, lo DOUBLE, hi DOUBLE      -- n / expected
);

-- Tokens that an expert is chosen on most: at least 10 occurrences each, at most 20 an expert and side.
CREATE TABLE expert_tokens (
    run_id VARCHAR, corpus_id VARCHAR,
    layer USMALLINT, expert USMALLINT,
    side     VARCHAR,        -- input, next (the true next token) or predicted (the model's)
    rank     USMALLINT,
    token_id UINTEGER,
    n        UBIGINT,        -- occurrences routed to it
    n_token  UBIGINT,        -- occurrences
    share DOUBLE, lo DOUBLE, hi DOUBLE,    -- n / n_token with a Wilson interval
    lift     DOUBLE          -- share over the expert's share of all tokens
);

-- From a token's first choice at one router to its first choice at the next.
CREATE TABLE expert_transitions (
    run_id VARCHAR, corpus_id VARCHAR,
    layer USMALLINT, expert USMALLINT,
    next_layer USMALLINT, next_expert USMALLINT,
    n        UBIGINT,        -- tokens
    p        DOUBLE,         -- n over the tokens whose first choice is expert
    expected DOUBLE,         -- n if the two choices were independent
    lift DOUBLE, lo DOUBLE, hi DOUBLE
);

-- Commonest paths of first choices through all routers (at most 200).
CREATE TABLE expert_paths (
    run_id VARCHAR, corpus_id VARCHAR,
    rank   USMALLINT,
    path   VARCHAR,          -- experts from the first router to the last, e.g. 3-0-7-7
    n      UBIGINT,          -- tokens
    share  DOUBLE,
    expected DOUBLE,         -- n if the choices were independent
    expected_markov DOUBLE   -- n if each depended on the one before only
);

-- Attention heads: one row a head and text length.
CREATE TABLE heads (
    run_id VARCHAR, layer USMALLINT, head USMALLINT, length UINTEGER,
    sink DOUBLE, local DOUBLE, previous DOUBLE, induction DOUBLE,
    entropy DOUBLE, keys90 DOUBLE, class VARCHAR
);

CREATE TABLE head_methods (
    run_id VARCHAR, layer USMALLINT, head USMALLINT, length UINTEGER,
    method VARCHAR, config VARCHAR, budget DOUBLE, density DOUBLE,
    recall_mean DOUBLE, recall_p5 DOUBLE, oracle DOUBLE, out_err DOUBLE, applies BOOLEAN
);

-- Latents of two dictionaries matched to each other.
CREATE TABLE matches (
    run_id VARCHAR, dictionary_a VARCHAR, dictionary_b VARCHAR,
    method    VARCHAR,
    feature_a UINTEGER, feature_b UINTEGER,
    cosine FLOAT, act_corr FLOAT, jaccard FLOAT, mutual BOOLEAN
);

-- From the store's own files: config.json and manifest.json of each run, cfg.json of each dictionary.
CREATE TABLE runs (
    run_id       VARCHAR,
    kind         VARCHAR,    -- train, extract, evaluate, ...
    name         VARCHAR,
    status       VARCHAR,    -- live, complete, sealed, failed or damaged
    corpus_id    VARCHAR,
    model        VARCHAR,
    model_revision VARCHAR,
    config_hash  VARCHAR,
    content_hash VARCHAR,
    code_version VARCHAR,
    kernel       VARCHAR,    -- which implementation ran
    created      TIMESTAMP,
    updated      TIMESTAMP,
    n_shards     UINTEGER,
    n_shards_planned UINTEGER,
    n_rows       UBIGINT,    -- codes committed
    n_tokens     UBIGINT,    -- tokens encoded
    bytes        UBIGINT,    -- of the committed code files
    note         VARCHAR,    -- e.g. what is wrong with a damaged run
    config       JSON
);

CREATE TABLE dictionaries (
    dictionary_id VARCHAR,
    kind      VARCHAR,       -- topk, jumprelu, matching_pursuit, ...
    model     VARCHAR,
    model_revision VARCHAR,
    model_note VARCHAR,
    hook      VARCHAR,
    d_in      UINTEGER,
    n_latents UINTEGER,
    k         UINTEGER,      -- NULL where sparsity varies
    trained_by VARCHAR,      -- run_id of the training run
    created   TIMESTAMP,
    cfg       JSON
);
