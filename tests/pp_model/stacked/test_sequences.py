"""Checklist: D1, D14, D34.

Each layer over events against autograd in double precision, with padding on the left, inside, and everywhere.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pp_model.stacked.layers import Frame, Linear
from pp_model.stacked.sequences import UNSEEN, Attention, Embeddings, Gru, MeanOfEvents, Positions
from tests.support.mechanism import passed, random_slot

MERCHANTS, WIDTH = 3, 8


def present(kind: str, rows: int, length: int) -> torch.Tensor:
    """[merchants, rows, length] of 1 and 0."""
    generator = torch.Generator().manual_seed(11)
    real = torch.ones(MERCHANTS, rows, length, dtype=torch.float64)
    if kind == "left":
        real = (torch.arange(length) >= torch.randint(0, length, (MERCHANTS, rows, 1), generator=generator)).double()
        real[:, 0] = 0  # and one without events
    elif kind == "anywhere":
        real = torch.randint(0, 2, real.shape, generator=generator).double()
    elif kind == "nothing":
        real = torch.zeros_like(real)
    return real


def each_frame(test):
    """All paddings, one window or several, one event or several, one customer or several."""
    sizes = [(4, 1, 5), (4, 3, 5), (1, 2, 3), (3, 1, 1), (3, 2, 1)]
    frames = [
        pytest.param(Frame(customers=c, windows=w, present=present(kind, c * w, length)), id=f"{kind}-{c}x{w}x{length}")
        for kind in ("full", "left", "anywhere", "nothing")
        for c, w, length in sizes
    ]
    return pytest.mark.parametrize("frame", frames)(test)


def events(frame: Frame, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(MERCHANTS, frame.real[0].numel(), width, dtype=torch.float64, generator=generator)


@each_frame
@pytest.mark.parametrize("tokens", ["random", "all-the-same", "few"])
def test_embeddings_of_several_fields(frame, tokens):
    sizes = (7, 3)
    slots = [random_slot(size, WIDTH, seed=i) for i, size in enumerate(sizes)]
    layer, generator = Embeddings(slots), torch.Generator().manual_seed(4)
    largest = {"random": sizes, "all-the-same": (1, 1), "few": (2, 1)}[tokens]
    number = frame.real[0].numel()
    x = torch.stack([torch.randint(0, most, (MERCHANTS, number), generator=generator) for most in largest], dim=-1)

    def plain(tables, token, _):
        return sum(functional.embedding(token[:, i], table) for i, table in enumerate(tables))

    passed(layer, plain, x, frame, slots=slots, trained=[layer], of_input=False).assert_equal()


@each_frame
@pytest.mark.parametrize("newest_first", [True, False])
def test_positions(frame, newest_first):
    table = random_slot(9, WIDTH)
    layer = Positions(table, newest_first=newest_first)

    def plain(parameters, x, real):
        length = real.shape[-1]
        rows = parameters[0][:length]
        return (x.view(-1, length, WIDTH) + (rows.flip(0) if newest_first else rows)).view_as(x)

    passed(layer, plain, events(frame, WIDTH), frame, slots=[table], trained=[layer]).assert_equal()


@each_frame
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_pytorchs_own(frame, heads):
    def plain(_, x, real):
        length = real.shape[-1]
        query, key, value = x.view(-1, length, 3, heads, WIDTH // heads).permute(2, 0, 3, 1, 4)
        mask = (UNSEEN * (1 - real))[:, None, None]
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2).reshape(-1, WIDTH)

    passed(Attention(heads=heads), plain, events(frame, 3 * WIDTH), frame).assert_equal()


@each_frame
def test_a_gru_is_pytorchs_own_cell_with_padding_left_out(frame):
    inputs = 6
    shapes = [(3 * WIDTH, inputs), (3 * WIDTH,), (3 * WIDTH, WIDTH), (3 * WIDTH,)]
    slots = [random_slot(*shape, seed=i) for i, shape in enumerate(shapes)]
    read, recall = Linear(*slots[:2]), Linear(*slots[2:])

    def plain(p, x, real):
        split = x.view(len(real), -1, inputs)
        state = torch.zeros(len(real), WIDTH, dtype=torch.float64)
        for step in range(split.shape[1]):
            moved = torch.gru_cell(split[:, step], state, p[0], p[2], p[1], p[3])
            state = torch.where(real[:, step, None] > 0, moved, state)
        return state

    passed(Gru(read, recall), plain, events(frame, inputs), frame, slots=slots, trained=[read, recall]).assert_equal()


def test_a_window_of_a_gru_has_the_same_gradient_whether_or_not_others_have_padding():
    """Bit for bit, also where the update gate is all but shut: what another customer has must not be felt."""
    slots = [random_slot(3 * WIDTH, 6), random_slot(3 * WIDTH, seed=1), random_slot(3 * WIDTH, WIDTH, seed=2)]
    slots += [random_slot(3 * WIDTH, seed=3)]
    slots[1].values[:, WIDTH : 2 * WIDTH] = -40.0
    full, x = torch.ones(MERCHANTS, 2, 4, dtype=torch.float64), None
    padded = full.clone()
    padded[:, 1, 0] = 0
    found = []
    for real in (full, padded):
        frame = Frame(customers=2, windows=1, present=real)
        x = events(frame, 6)
        _, back = Gru(Linear(*slots[:2]), Linear(*slots[2:])).forward(x, frame)
        found.append(back(torch.ones(MERCHANTS, 2, WIDTH, dtype=torch.float64))[:, :4])
    assert torch.equal(found[0], found[1])
    assert found[0].any()


@each_frame
def test_the_mean_of_real_events(frame):
    def plain(_, x, real):
        split = x.view(*real.shape, WIDTH)
        means = [
            each[mask > 0].mean(dim=0) if mask.any() else 0 * each[0] for each, mask in zip(split, real, strict=True)
        ]
        return torch.stack(means)

    passed(MeanOfEvents(), plain, events(frame, WIDTH), frame).assert_equal()


@each_frame
def test_what_is_padding_does_not_reach_the_mean(frame):
    x, real = events(frame, WIDTH), frame.real
    other = x + 100 * (1 - real).reshape(MERCHANTS, -1, 1)
    torch.testing.assert_close(MeanOfEvents().forward(x, frame)[0], MeanOfEvents().forward(other, frame)[0])


def test_a_layer_over_events_without_events_is_told_so():
    with pytest.raises(TypeError, match="present"):
        MeanOfEvents().forward(torch.zeros(1, 2, 3), Frame(customers=2, windows=1))
