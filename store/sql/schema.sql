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

-- Parts of routers and experts, one row a shard: sums over its tokens, which can be added up while a run is live.
CREATE TABLE router_sums (
    run_id VARCHAR, corpus_id VARCHAR,
    layer     USMALLINT,
    n_tokens  UBIGINT,
    n_dropped UBIGINT,       -- tokens that got fewer than k experts
    entropy   DOUBLE,        -- of the router's probabilities, in bits
    z         DOUBLE         -- logsumexp(logits)^2
);

CREATE TABLE expert_sums (
    run_id VARCHAR, corpus_id VARCHAR,
    layer USMALLINT, expert USMALLINT,
    n_tokens UBIGINT,        -- tokens routed to it
    weight   DOUBLE,         -- its weights on them
    prob     DOUBLE          -- the router's probability of it, over all tokens
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

-- What the model loses without an expert: its loss with the expert's weight set to 0, against its loss as it is.
CREATE TABLE expert_ablations (
    run_id VARCHAR, corpus_id VARCHAR,
    layer USMALLINT, expert USMALLINT,
    domain   VARCHAR,        -- NULL over all domains
    n_tokens UBIGINT,        -- tokens scored
    loss     DOUBLE,         -- mean next-token loss as it is, in nats
    loss_ablated DOUBLE,
    change DOUBLE, lo DOUBLE, hi DOUBLE    -- loss_ablated - loss, with its 95 % interval over documents
);

-- Latents that fire more or less without the expert, on the same tokens; those that move most.
CREATE TABLE expert_ablation_features (
    run_id VARCHAR, corpus_id VARCHAR,
    layer USMALLINT, expert USMALLINT,
    dictionary_id VARCHAR, feature UINTEGER,
    n_before UBIGINT, n_after UBIGINT,     -- tokens on which it is active
    mass_before DOUBLE, mass_after DOUBLE  -- summed activation
);

-- Attention heads: one row a head and text length, averaged over texts, and over the queries of a text with equal weight.
-- Mass is normalised over keys; what a head's own sink logit takes beside them (gpt-oss) is learned_sink.
CREATE TABLE heads (
    run_id VARCHAR, corpus_id VARCHAR,
    layer        USMALLINT,
    head         USMALLINT,
    kv_head      USMALLINT,  -- the key-value head it reads
    length       UINTEGER,   -- tokens of a text as the model read it, BOS included
    n_texts      UINTEGER,   -- texts of that length
    "window"     UINTEGER,   -- keys a query may see (sliding window); NULL: all before it
    sink         DOUBLE,     -- mass on the first 4 keys
    learned_sink DOUBLE,     -- share of its attention that goes to the head's own sink logit, and so to no key; else 0
    local        DOUBLE,     -- mass on the 64 nearest keys, its own included
    previous     DOUBLE,     -- mass on the key just before
    induction    DOUBLE,     -- mass on keys just after the (up to 8 latest) earlier occurrences of the query's token
    induction_chance DOUBLE, -- the same if each query spread its mass evenly: what induction is to be read against
    distance     DOUBLE,     -- mean distance from query to key, in tokens
    entropy      DOUBLE,     -- nats
    keys90       DOUBLE,     -- mean number of keys that hold 90, 95, 99 % of a query's mass, on a sample of queries
    keys95       DOUBLE,
    keys99       DOUBLE,
    n_queries    UINTEGER,   -- queries a text in that sample
    class        VARCHAR,    -- best of local, sink-local, columns, diagonals, blocks at an equal number of pairs; diffuse where none
    class_recall DOUBLE,     -- mass that the best one keeps
    class_margin DOUBLE,     -- by how much it is ahead of the second
    class_budget DOUBLE,     -- share of the visible pairs each may keep
    write_norm   DOUBLE,     -- mean norm of what the head writes to the residual stream
    write_share  DOUBLE      -- its share of the summed squared norms written by the heads of its layer
);

-- The same before averaging: one row a head and text, there while a run is live.
CREATE TABLE head_texts (
    run_id VARCHAR, corpus_id VARCHAR, layer USMALLINT, head USMALLINT, length UINTEGER,
    tok_lo       UINTEGER,   -- first token of the text
    kv_head USMALLINT, "window" UINTEGER,
    sink DOUBLE, learned_sink DOUBLE, local DOUBLE, previous DOUBLE, induction DOUBLE, induction_chance DOUBLE,
    distance DOUBLE, entropy DOUBLE, keys90 DOUBLE, keys95 DOUBLE, keys99 DOUBLE, n_queries UINTEGER,
    recall_local DOUBLE, recall_sink_local DOUBLE, recall_columns DOUBLE, recall_diagonals DOUBLE, recall_blocks DOUBLE,
    class_budget DOUBLE, write_norm DOUBLE, write_share DOUBLE
);

-- What each sparse-attention method keeps of each head, averaged over texts: one row a head, length, method, config and budget.
CREATE TABLE head_methods (
    run_id VARCHAR, corpus_id VARCHAR, layer USMALLINT, head USMALLINT, length UINTEGER,
    n_texts      UINTEGER,
    method       VARCHAR,
    config       VARCHAR,    -- the method's settings, JSON
    budget       DOUBLE,     -- share of visible pairs asked for; NULL: the paper's own settings
    density      DOUBLE,     -- pairs kept / visible pairs (causal ones, inside the layer's window)
    block_density DOUBLE,    -- the same when whole 128 x 128 blocks are computed
    recall_mean  DOUBLE,     -- softmax mass on kept keys, mean over queries
    recall_p5    DOUBLE,     -- its 5th percentile over queries
    rows_below_90 DOUBLE,    -- share of queries with recall below 0.9
    recall_rest  DOUBLE,     -- recall of the mass beyond the first 4 keys: what is left when the sink is easy
    oracle       DOUBLE,     -- best possible recall_mean at this mask's own count in every row (of blocks or keys)
    granularity  VARCHAR,    -- block or token: what the oracle chooses
    out_err      DOUBLE,     -- ||o_sparse - o_dense|| / ||o_dense|| over all queries, before W_O
    bound        DOUBLE,     -- largest ||o - o'|| / (2 (1 - recall) max ||v||) of a query: never above 1
    pairs_read   DOUBLE,     -- logits computed to choose, as a share of visible pairs
    first_row    UINTEGER,   -- queries before this one are not scored (decode methods)
    applies      VARCHAR,    -- prefill, decode or n/a
    reason       VARCHAR,    -- why not, for n/a; the figures are NULL then
    notes        VARCHAR     -- JSON
);

-- The same before averaging: one row a head, text, method and budget, there while a run is live.
CREATE TABLE head_method_texts (
    run_id VARCHAR, corpus_id VARCHAR, layer USMALLINT, head USMALLINT, length UINTEGER, tok_lo UINTEGER,
    method VARCHAR, config VARCHAR, budget DOUBLE, density DOUBLE, block_density DOUBLE,
    recall_mean DOUBLE, recall_p5 DOUBLE, rows_below_90 DOUBLE, recall_rest DOUBLE, oracle DOUBLE, granularity VARCHAR,
    out_err DOUBLE, bound DOUBLE, pairs_read DOUBLE, first_row UINTEGER, applies VARCHAR, reason VARCHAR, notes VARCHAR
);

-- Mass by distance from query to key, in bins that double: [0,1) [1,2) [2,4) [4,8) ...
CREATE TABLE head_distances (
    run_id VARCHAR, corpus_id VARCHAR, layer USMALLINT, head USMALLINT, length UINTEGER, tok_lo UINTEGER,
    lo UINTEGER, hi UINTEGER,
    mass DOUBLE              -- mean over queries; sums to 1 over the bins
);

-- Block-mass maps, of the layers asked for (`profile heads --maps`): mean mass of a block of queries on a block of keys.
CREATE TABLE head_maps (
    run_id VARCHAR, corpus_id VARCHAR, layer USMALLINT, head USMALLINT, length UINTEGER, tok_lo UINTEGER,
    block  USMALLINT,        -- tokens a block
    q_block USMALLINT,       -- queries q_block * block and on
    mass   FLOAT[]           -- on key blocks 0..q_block; sums to 1
);

-- The strongest keys of some queries of each head, for reading on the text itself.
CREATE TABLE head_links (
    run_id VARCHAR, corpus_id VARCHAR, layer USMALLINT, head USMALLINT, length UINTEGER, tok_lo UINTEGER,
    tok     UINTEGER,        -- the query's token
    rank    UTINYINT,        -- 1 is the strongest key
    key_tok UINTEGER,        -- the key's token; NULL: BOS
    mass    FLOAT
);

-- Heads ranked by what they write on each token: sparse codes whose units are heads, layer * heads + head.
CREATE TABLE head_writes (
    run_id VARCHAR, corpus_id VARCHAR,
    tok  UINTEGER,
    rank UTINYINT,           -- 1 writes most
    unit UINTEGER,           -- layer * heads a layer + head
    norm FLOAT               -- of what it adds to the residual stream
);

-- The causal score: a model with a method on some heads against itself, on the same tokens.
CREATE TABLE head_effects (
    run_id VARCHAR, corpus_id VARCHAR,
    layer  USMALLINT,        -- NULL: heads of all layers
    head   USMALLINT,        -- NULL: all heads of the layer
    length UINTEGER, n_texts UINTEGER,
    method VARCHAR, config VARCHAR, budget DOUBLE,
    loss_dense DOUBLE,       -- nats a token
    loss       DOUBLE,       -- with the method
    kl         DOUBLE        -- KL(dense || with the method), nats a token
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
