"""The parts of the network: the cascade of heads, and windows."""

import pytest
import torch
from support.efficientvit import images, small


@pytest.mark.parametrize("v_dim", [3, 8, 13])  # narrower than, equal to and wider than 16 / 2
def test_cascade_adds_the_overlap_to_the_next_heads_input(v_dim):
    attn = small(v_dim=[v_dim, 12, 16]).stages[0].blocks[0].mixer.m.attn
    seen = []
    hooks = [qkv.register_forward_hook(lambda _m, inputs, out: seen.append((inputs[0], out))) for qkv in attn.qkvs]
    x = images(3, 7, 16)
    attn(x)
    for hook in hooks:
        hook.remove()
    q, k, v = seen[0][1].split([4, 4, v_dim], dim=1)
    q = attn.dws[0](q).flatten(2).transpose(1, 2) * 4**-0.5
    rows = torch.arange(49)
    place = (rows[:, None] // 7 - rows // 7).abs() * 7 + (rows[:, None] % 7 - rows % 7).abs()
    out = (q @ k.flatten(2) + attn.attention_biases[0][place]).softmax(-1) @ v.flatten(2).transpose(1, 2)
    out = out.transpose(1, 2).reshape(3, v_dim, 7, 7)
    expected = x[:, 8:].clone()
    overlap = min(v_dim, 8)
    expected[:, :overlap] += out[:, :overlap]
    torch.testing.assert_close(seen[1][0], expected)


def test_windows_see_their_own_tokens_only():
    net = small(img_size=56)  # 14 x 14 in the first stage: four windows
    mixer = net.stages[0].blocks[0].mixer
    x = images(1, 14, 16)
    y = x.clone()
    y[:, :, :7, :7] += 1
    changed = (mixer(x) - mixer(y)).abs().sum(1)[0] > 0
    assert changed[:7, :7].all()
    assert not changed[7:].any()
    assert not changed[:, 7:].any()
