"""Attention written out, and the calls that every backend is compared with it on. No pytest: gpu_check runs them too."""

from __future__ import annotations

import torch

from raylm.model.attention import Boundaries, attend

LENGTHS = [[5, 1, 9, 8], [16, 3, 2, 2]]


def documents(device="cpu"):
    """Two rows of 23 tokens, the second with 2 of padding."""
    rows = [[number for number, count in enumerate(row) for _ in range(count)] for row in LENGTHS]
    found = torch.tensor(rows, device=device)
    found[1, 21:] = -1
    return found


def prefixes(device="cpu"):
    """For `documents`: two of the first row, and one of the second, go on from the first of their row."""
    found = documents(device)
    found[0, 5:6], found[0, 15:] = 0, 0
    found[1, 19:21] = 0
    return found


def eager(query, key, value, scale, document_BT=None, window=None, prefix_BT=None):
    """Attention as its definition says: one query at a time, softmax over what it sees."""

    def seen(b, t):
        if document_BT is None:
            own = list(range(t + 1))
        else:
            of = [document_BT[b, t]] if prefix_BT is None else [prefix_BT[b, t], document_BT[b, t]]
            own = [s for s in range(t + 1) if document_BT[b, s] in of]
        return own if window is None else own[-window:]

    groups = query.shape[1] // key.shape[1]
    rows = []
    for b in range(len(query)):
        heads = []
        for h in range(query.shape[1]):
            outs = []
            for t in range(query.shape[2]):
                sees = seen(b, t)
                scores = torch.stack([(query[b, h, t] * key[b, h // groups, s]).sum() * scale for s in sees])
                outs.append((scores.softmax(0)[:, None] * value[b, h // groups, sees]).sum(0))
            heads.append(torch.stack(outs))
        rows.append(torch.stack(heads))
    return torch.stack(rows)


def draws(dtype, device="cpu", heads=4, kv=2, length=23, size=8, value=8):
    gen = torch.Generator().manual_seed(1)
    shapes = ((2, heads, length, size), (2, kv, length, size), (2, kv, length, value), (2, length, heads, value))
    return [torch.randn(shape, generator=gen, dtype=torch.float64).to(device, dtype) for shape in shapes]


CASES = {
    "documents": {"documents": True},
    "window": {"window": 3},
    "documents_window": {"documents": True, "window": 3},
    "prefixes": {"documents": True, "prefixes": True},
    "prefixes_window": {"documents": True, "prefixes": True, "window": 4, "kv": 1},
    "causal": {},
    "one_kv_head": {"documents": True, "kv": 1},
    "latent": {"documents": True, "kv": 4, "value": 5},
}


def check(backend, device, dtype, tolerance, case):
    table = dict(CASES[case])
    document_BT = documents(device) if table.pop("documents", False) else None
    prefix_BT = prefixes(device) if table.pop("prefixes", False) else None
    window = table.pop("window", None)
    query, key, value, upstream = draws(dtype, device, **table)
    found, expected = [], []
    ran = [x.detach().clone().requires_grad_() for x in (query, key, value)]
    boundaries = None if document_BT is None else Boundaries(document_BT, prefix_BT)
    out, _ = attend(None, *ran, None, scaling=0.4, sliding_window=window, boundaries=boundaries, backend=backend)
    # nobody reads what padding says
    real = torch.ones(2, 23, 1, 1, device=device, dtype=dtype)
    real[1, 21:] = 0
    (out * upstream * real).sum().backward()
    found = [(out * real).detach(), *(x.grad for x in ran)]
    written = [x.detach().double().cpu().requires_grad_() for x in (query, key, value)]
    where = None if document_BT is None else document_BT.cpu()
    out = eager(*written, 0.4, where, window, None if prefix_BT is None else prefix_BT.cpu()).transpose(1, 2)
    (out * upstream.double().cpu() * real.double().cpu()).sum().backward()
    expected = [(out * real.double().cpu()).detach(), *(x.grad for x in written)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double().cpu(), other, atol=tolerance, rtol=tolerance)
