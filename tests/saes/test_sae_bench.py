"""A dictionary as SAEBench sees it: dense codes, unit atoms, the fields of its config."""

import pytest
import torch

from sparse_rep.config_dictionary import MPConfig, StandardConfig, TopKConfig
from sparse_rep.errors import ConfigError
from sparse_rep.saes.formats.sae_bench import bench_sae
from sparse_rep.saes.registry import build_coder


@pytest.mark.parametrize("config", [TopKConfig(n_latents=64, k=5), MPConfig(n_latents=64, k=5)], ids=lambda c: c.kind)
def test_codes_and_reconstructions_are_the_dictionarys_in_both_shapes(config):
    rng = torch.Generator().manual_seed(0)
    coder = build_coder(config, 24)
    x = torch.randn(40, 24, generator=rng) * 7 + 2
    coder.initialise(x, rng)
    bench = bench_sae(coder, "gpt2", "blocks.8.hook_resid_pre")
    codes = coder.encode(x)
    torch.testing.assert_close(bench.encode(x), codes.coalesce().dense(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bench(x), coder.decode(codes), rtol=1e-4, atol=1e-3)
    assert torch.equal(bench(x.view(4, 10, 24)), bench(x).view(4, 10, 24))
    torch.testing.assert_close(bench.W_dec.norm(dim=-1), torch.ones(64))
    assert bench.W_enc.shape == (24, 64)
    fields = bench.cfg.to_dict()
    assert (fields["d_sae"], fields["hook_layer"], fields["hook_name"]) == (64, 8, "blocks.8.hook_resid_pre")


def test_a_transcoder_is_refused():
    with pytest.raises(ConfigError, match="transcoder"):
        bench_sae(build_coder(StandardConfig(n_latents=8), 4, d_out=4), "gpt2", "blocks.8.hook_resid_mid")
