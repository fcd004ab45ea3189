"""Sparse gradients where they name the entries to update: SparseAdam and Adagrad."""

import copy
import pickle

import pytest
import torch
from cases import each_eager_way, snapshot

import scratch_optim
from scratch_optim.testing.compare import assert_same, assert_same_bits, epsilons, same_bits
from scratch_optim.testing.options import describe
from scratch_optim.testing.subject import gradients, parameters

ROWS = 7
SHAPES = ((ROWS, 3), (ROWS,), (ROWS, 2, 2))

SPARSE_ADAM = [
    {},
    {"lr": 0.1, "betas": (0.5, 0.6), "eps": 1e-3},
    {"lr": 0.1, "maximize": True},
    {"lr": torch.tensor(0.1)},
    {"betas": (0.0, 0.0)},
]
ADAGRAD = [
    {},
    {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-3, "initial_accumulator_value": 0.5},
    {"lr": 0.1, "maximize": True},
]


def sparse_gradients(step, dtype=torch.float32, *, sparse_dims=1, coalesced=False):
    """Some rows of each shape, one of them twice; none of the first at step 3."""
    result = []
    for i, shape in enumerate(SHAPES):
        dims = min(sparse_dims, len(shape))
        named = 0 if (step, i) == (3, 0) else 4
        generator = torch.Generator().manual_seed(10 * step + i)
        indices = torch.stack(
            [torch.randint(n, (named,), generator=generator) for n in shape[:dims]]
        )
        if named:
            indices[:, 1] = indices[:, 0]
        values = torch.randn((named, *shape[dims:]), generator=generator, dtype=dtype)
        g = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)
        result.append(g.coalesce() if coalesced else g)
    return result


def run(kind, options, steps=8, dtype=torch.float32, **how):
    params = parameters(SHAPES, dtype)
    optimizer = kind(params, **options)
    for step in range(steps):
        for p, g in zip(params, sparse_gradients(step, dtype, **how), strict=True):
            p.grad = g
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("sparse_dims", [1, 2])
@pytest.mark.parametrize("coalesced", [False, True], ids=["uncoalesced", "coalesced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", SPARSE_ADAM, ids=describe)
def test_sparse_adam_gives_the_bits_of_torch(options, dtype, coalesced, sparse_dims):
    how = {"dtype": dtype, "coalesced": coalesced, "sparse_dims": sparse_dims}
    ours, torchs = (
        run(library.SparseAdam, options, **how) for library in (scratch_optim, torch.optim)
    )
    for p, q in zip(ours[0], torchs[0], strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))
        assert_same(ours[1].state[p], torchs[1].state[q], str(tuple(p.shape)))


@pytest.mark.parametrize("sparse_dims", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("options", ADAGRAD, ids=describe)
def test_adagrad_stays_within_few_epsilons_of_torch(options, dtype, sparse_dims):
    """Torch's sparse step is another formula: -lr (g / r), rounded twice, for (-lr g) / r.

    That is one rounding of half an epsilon more on either side, of the step and of the sum: two
    epsilons a step. The squares of complex gradients torch takes as complex numbers, which is
    another optimizer than its own with dense gradients; here both parts are on their own.
    """
    ours, _ = run(scratch_optim.Adagrad, options, dtype=dtype, sparse_dims=sparse_dims)
    if dtype.is_complex:
        dense = parameters(SHAPES, dtype)
        optimizer = torch.optim.Adagrad(dense, **options)
        for step in range(8):
            for p, g in zip(dense, sparse_gradients(step, dtype, sparse_dims=sparse_dims)):  # noqa: B905
                p.grad = g.to_dense()
            optimizer.step()
        torchs = dense
    else:
        torchs, _ = run(torch.optim.Adagrad, options, dtype=dtype, sparse_dims=sparse_dims)
    for p, q in zip(ours, torchs, strict=True):
        assert epsilons(p, q) <= 2 * 8


@pytest.mark.parametrize("way", [{}, {"foreach": True}, {"foreach": False}, {"fused": True}])
def test_adagrad_with_sparse_gradients_is_adagrad_with_dense_ones(way):
    """For all entries that are not named the dense equation changes nothing."""
    results = []
    for dense in (False, True):
        params = parameters(SHAPES)
        optimizer = scratch_optim.Adagrad(params, lr=0.1, **({} if dense else way))
        for step in range(5):
            for p, g in zip(params, sparse_gradients(step), strict=True):
                p.grad = g.to_dense() if dense else g
            optimizer.step()
        results.append(params)
    for p, q in zip(*results, strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))


@pytest.mark.parametrize("name", ["SparseAdam", "Adagrad"])
def test_entries_that_are_not_named_and_the_gradient_stay_as_they_are(name):
    params = parameters(((ROWS, 3),))
    optimizer = getattr(scratch_optim, name)(params, lr=0.1)
    before = params[0].detach().clone()
    g = torch.sparse_coo_tensor([[1, 4, 1]], torch.ones(3, 3), (ROWS, 3))
    params[0].grad = g
    optimizer.step()
    for row in range(ROWS):
        assert torch.equal(params[0][row], before[row]) is (row not in (1, 4))
    assert params[0].grad is g
    assert not g.is_coalesced()
    assert_same_bits(g._values(), torch.ones(3, 3), "the values of the gradient")


def test_sparse_adam_on_every_row_is_adam_to_few_epsilons():
    """With all rows named, but eps: Adam adds it after the correction of the root."""
    sparse, dense = parameters(SHAPES[:1]), parameters(SHAPES[:1])
    ours = scratch_optim.SparseAdam(sparse, lr=0.1, eps=1e-30)
    adam = scratch_optim.Adam(dense, lr=0.1, eps=1e-30)
    for step in range(5):
        g = gradients(SHAPES[:1])[step % 3][0]
        sparse[0].grad, dense[0].grad = g.to_sparse(1), g
        ours.step()
        adam.step()
    assert epsilons(sparse[0], dense[0]) <= 5 * 4  # 8 roundings of half an epsilon a step


def test_a_step_without_any_entry_is_counted_and_moves_nothing():
    params = parameters(((ROWS, 3),))
    optimizer = scratch_optim.SparseAdam(params)
    before = params[0].detach().clone()
    params[0].grad = torch.sparse_coo_tensor(
        torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, 3), (ROWS, 3)
    )
    optimizer.step()
    assert_same_bits(params[0], before, "the parameter")
    assert optimizer.state[params[0]]["step"] == 1


@pytest.mark.parametrize("direction", ["from torch", "to torch"])
@pytest.mark.parametrize("options", SPARSE_ADAM, ids=describe)
def test_sparse_adams_state_dict_goes_both_ways_in_mid_run(options, direction):
    kinds = [scratch_optim.SparseAdam, torch.optim.SparseAdam]
    pairs = [run(kind, options, steps=4) for kind in kinds]
    if direction == "from torch":
        kinds.reverse()
        pairs.reverse()
    (mine, source), (theirs, _) = pairs
    fresh = kinds[1](theirs, **options)
    fresh.load_state_dict(copy.deepcopy(source.state_dict()))
    for optimizer, params in ((source, mine), (fresh, theirs)):
        for step in range(4, 8):
            for p, g in zip(params, sparse_gradients(step), strict=True):
                p.grad = g
            optimizer.step()
    for p, q in zip(mine, theirs, strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))
        assert_same(source.state[p], fresh.state[q], str(tuple(p.shape)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_sparse_adam_go_on_as_the_original(copied):
    params, optimizer = run(scratch_optim.SparseAdam, {"lr": 0.1}, steps=4)
    twins, twin = copied((params, optimizer))
    for own, opt in ((params, optimizer), (twins, twin)):
        for p, g in zip(own, sparse_gradients(4), strict=True):
            p.grad = g
        opt.step()
    assert all(map(same_bits, params, twins))


def test_a_parameter_that_steps_later_counts_its_own_steps():
    results = []
    for kind in (scratch_optim.SparseAdam, torch.optim.SparseAdam):
        params = parameters(SHAPES)
        optimizer = kind(params, lr=0.1)
        for step in range(6):
            for i, (p, g) in enumerate(zip(params, sparse_gradients(step), strict=True)):
                p.grad = None if (i == 1 and step < 3) else g
            optimizer.step()
        assert [optimizer.state[p]["step"] for p in params] == [6, 3, 6]
        resumed = kind(params, lr=0.1)  # counts by what it loads alone, not by who came late
        resumed.load_state_dict(optimizer.state_dict())
        for p, g in zip(params, sparse_gradients(6), strict=True):
            p.grad = g
        resumed.step()
        assert [resumed.state[p]["step"] for p in params] == [7, 4, 7]
        results.append(params)
    for p, q in zip(*results, strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))


@pytest.mark.parametrize(
    "options",
    [{"lr": 0.0}, {"lr": -1}, {"eps": 0.0}, {"eps": -1e-8}, {"betas": (1.0, 0.9)}],
    ids=describe,
)
def test_options_that_torch_refuses_are_refused_in_its_words(options):
    texts = []
    for kind in (scratch_optim.SparseAdam, torch.optim.SparseAdam):
        with pytest.raises(ValueError, match="Invalid") as caught:
            kind(parameters(SHAPES), **options)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_parameters_that_are_sparse_or_complex_are_refused_in_torchs_words():
    bad = [torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.complex64)]
    for p in bad:
        texts = []
        for kind in (scratch_optim.SparseAdam, torch.optim.SparseAdam):
            with pytest.raises(ValueError, match="params at indices") as caught:
                kind([{"params": [torch.ones(2)]}, {"params": [torch.ones(3), p]}])
            texts.append(str(caught.value))
        assert texts[0] == texts[1]


def test_a_dense_gradient_is_refused_before_anything_changes():
    params = parameters(SHAPES)
    optimizer = scratch_optim.SparseAdam(params)
    for p, g in zip(params, sparse_gradients(0), strict=True):
        p.grad = g
    optimizer.step()
    params[2].grad = torch.ones_like(params[2])
    before = snapshot(optimizer)
    texts = []
    for kind in (None, torch.optim.SparseAdam):
        refusing = kind(params) if kind else optimizer
        with pytest.raises(RuntimeError, match="dense gradients") as caught:
            refusing.step()
        texts.append(str(caught.value))
        if not kind:
            for part in ("params", "state"):
                assert_same(snapshot(optimizer)[part], before[part], part)
    assert texts[0] == texts[1]


def test_weight_decay_and_sparse_gradients_are_refused_before_anything_changes():
    params = parameters(((3,), (ROWS, 3)))
    optimizer = scratch_optim.Adagrad(params, weight_decay=0.1)
    params[0].grad = torch.ones(3)
    params[1].grad = sparse_gradients(0)[0]
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match="not compatible with sparse gradients"):
        optimizer.step()
    for part in ("params", "state"):
        assert_same(snapshot(optimizer)[part], before[part], part)


@pytest.mark.parametrize("step", [None, 2.5, torch.tensor(3.0), "missing"], ids=str)
def test_a_state_without_an_int_as_step_count_is_refused(step):
    _, optimizer = run(scratch_optim.SparseAdam, {}, steps=2)
    saved = copy.deepcopy(optimizer.state_dict())
    if step == "missing":
        saved["state"][0].pop("step")
    else:
        saved["state"][0]["step"] = step
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="step"):
        optimizer.load_state_dict(saved)
    assert_same(snapshot(optimizer), before)


def test_adagrads_sums_can_be_shared_between_processes():
    optimizer = scratch_optim.Adagrad(parameters(SHAPES))
    optimizer.share_memory()
    assert all(state["sum"].is_shared() for state in optimizer.state.values())


# ------------------------------------------------------------------ SGD


@each_eager_way
@pytest.mark.parametrize("coalesced", [False, True], ids=["uncoalesced", "coalesced"])
@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.1, "maximize": True},
    ],
    ids=describe,
)
def test_sparse_gradients_beside_dense_ones_give_the_bits_of_torch(options, coalesced, way):
    shapes = ((6, 3), (5,))

    def run(kind):
        params = parameters(shapes)
        optimizer = kind(params, **options, **way)
        for step in range(6):
            values = gradients(((3, 3),))[step][0]
            rows = [step % 6, (2 * step + 1) % 6, step % 6]
            g = torch.sparse_coo_tensor([rows], values.clone(), (6, 3))
            params[0].grad = g.coalesce() if coalesced else g
            params[1].grad = gradients(shapes)[step][1].clone()
            optimizer.step()
        return params, optimizer

    try:
        theirs, torchs = run(torch.optim.SGD)
    except RuntimeError as error:
        # torch cannot either: what it says is the kernel's, and not promised.
        with pytest.raises((RuntimeError, ValueError)):
            run(scratch_optim.SGD)
        pytest.skip(f"torch does not take this: {error}")
    mine, ours = run(scratch_optim.SGD)
    for p, q in zip(mine, theirs, strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))
        for name, value in torchs.state[q].items():
            assert_same_bits(ours.state[p][name], value, name)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_gradient_laid_out_anew_is_noticed_beside_a_sparse_one():
    def run(**way):
        table, weight = parameters(((5, 2), (4, 6)))
        optimizer = scratch_optim.SGD([table, weight], lr=0.1, momentum=0.9, **way)
        for step in range(4):
            table.grad = torch.ones(5, 2).to_sparse(1)
            g = torch.arange(24.0).view(4, 6) - step
            weight.grad = g if step < 2 else g.t().contiguous().t()
            optimizer.step()
        return weight

    torch.testing.assert_close(run(fused=True), run(foreach=False))
