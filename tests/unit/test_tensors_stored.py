"""Tensors of PyTorch and arrays of JAX are stored as NumPy arrays."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from broker.errors import CodecError
from broker.values.codec import decode, encode


class _StandIn:
    """The parts of a tensor that the codec uses."""

    def __init__(self, contents: Any, dtype: str = "torch.float32") -> None:
        self._contents = np.asarray(contents)
        self.dtype, self.device, self.ndim = dtype, "cuda:0", self._contents.ndim

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise RuntimeError("it is on another device and requires a gradient")
        return self._contents

    def item(self) -> Any:
        return self._contents.item()


def test_without_pytorch_its_rules_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", _module(Tensor=_StandIn))
    grid = np.arange(6, dtype=np.int32).reshape(2, 3).T
    back = decode(encode({"tokens": _StandIn(grid), "reward": _StandIn(0.5), "list": [_StandIn([True])]}))
    assert type(back["tokens"]) is np.ndarray
    np.testing.assert_array_equal(back["tokens"], grid)
    assert back["reward"] == 0.5
    assert type(back["reward"]) is float
    assert back["list"][0].tolist() == [True]
    with pytest.raises(CodecError, match=r"value\['x'\]: a tensor .* cannot be made a NumPy array: no data"):
        encode({"x": _Broken([1])})


@pytest.mark.parametrize(
    ("dtype", "instead"),
    [("bfloat16", ".float()"), ("complex32", ".to(torch.complex64)"), ("uint4", ".view(torch.uint8)")],
)
def test_a_dtype_that_numpy_lacks_is_told_with_what_to_send_instead(
    monkeypatch: pytest.MonkeyPatch, dtype: str, instead: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", _module(Tensor=_StandIn))
    with pytest.raises(CodecError, match=rf"tensors of torch.{dtype} are not stored.*{re.escape(instead)}"):
        encode({"x": _Broken([1], f"torch.{dtype}")})


class _Broken(_StandIn):
    def numpy(self, *, force: bool = False) -> Any:
        raise NotImplementedError("no data\nand a page about it")


def _module(**names: Any) -> ModuleType:
    made = ModuleType("stand-in")
    vars(made).update(names)
    return made


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_module_that_is_only_half_imported_has_no_tensors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, _module())
    with pytest.raises(CodecError, match=r"values of type builtins\.complex are not stored"):
        encode(3 + 4j)
    assert decode(encode([np.arange(2)]))[0].tolist() == [0, 1]


def test_arrays_of_other_kinds_are_refused_and_told_how_to_become_one() -> None:
    class Other:
        def __array__(self) -> Any:
            return np.arange(2)

    with pytest.raises(CodecError, match=r"numpy.asarray\(\) makes arrays of others"):
        encode({"x": Other()})


def test_decoded_arrays_are_read_only_and_a_copy_is_not() -> None:
    back = decode(encode({"x": np.arange(3)}))["x"]
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 7
    copied = back.copy()
    copied[0] = 7
    assert copied.tolist() == [7, 1, 2]


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def test_tensors_come_back_as_arrays(torch: Any) -> None:
    weights = torch.arange(6.0).reshape(2, 3).requires_grad_()
    values = {
        "strided": weights.T[::2],
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.float16)),
        "empty": torch.zeros(0, 3, dtype=torch.int64),
        "conjugated": torch.tensor([1 + 2j]).conj(),
        "negated": torch.tensor([1 + 2j]).conj().imag,
        "mask": torch.tensor([True, False]),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "scalar": torch.tensor(1 + 2j),
    }
    back = decode(encode(values))
    for name, tensor in values.items():
        expected = tensor.detach().resolve_conj().resolve_neg().numpy()
        assert type(back[name]) is np.ndarray, name
        assert back[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(back[name], expected)
    assert decode(encode(weights)).shape == (2, 3)


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", 0.5), ("bfloat16", 0.5), ("int64", 2**62), ("uint8", 7), ("bool", True)]
)
def test_a_tensor_without_dimensions_is_a_number(dtype: str, value: Any, torch: Any) -> None:
    (back,) = decode(encode([torch.tensor(value, dtype=getattr(torch, dtype))]))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t: t.ones(2, dtype=t.bfloat16), r"tensors of torch.bfloat16 are not stored, .* send its .float\(\)"),
        (lambda t: t.ones(2).to(t.float8_e4m3fn), r"send its .float\(\)"),
        (lambda t: t.empty(2, dtype=t.float4_e2m1fn_x2), r"send its bytes, .view\(torch.uint8\)"),
        (lambda t: t.empty(2, dtype=t.uint4), r"tensors of torch.uint4 are not stored, .* send its bytes, "),
        (lambda t: t.empty(2, dtype=t.bits8), r"send its bytes, .view\(torch.uint8\)"),
        (lambda t: t.quantize_per_tensor(t.ones(2), 0.1, 0, t.qint8), r"send its .dequantize\(\)"),
        (lambda t: t.eye(2).to_sparse(), "to_dense"),
        (lambda t: t.empty(2, device="meta"), "no data"),
    ],
)
def test_a_tensor_that_numpy_cannot_have_is_refused_in_words(make: Any, words: str, torch: Any) -> None:
    with pytest.raises(CodecError, match=rf"value\['x'\]\[0\]: .*{words}"):
        encode({"x": [make(torch)]})


def test_what_is_told_to_send_instead_can_be_sent(torch: Any) -> None:
    for instead in (
        torch.ones(2).to(torch.float8_e4m3fn).float(),
        torch.empty(2, dtype=torch.float4_e2m1fn_x2).view(torch.uint8),
        torch.empty(2, dtype=torch.uint4).view(torch.uint8),
        torch.empty(2, dtype=torch.bits8).view(torch.uint8),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8).dequantize(),
    ):
        assert decode(encode(instead)).shape == (2,)


def test_arrays_of_jax_come_back_as_arrays() -> None:
    jnp = pytest.importorskip("jax.numpy", reason="JAX is not installed")
    back = decode(encode({"x": jnp.arange(6).reshape(2, 3).T, "loss": jnp.float32(0.5), "mask": jnp.ones(2, bool)}))
    np.testing.assert_array_equal(back["x"], np.arange(6).reshape(2, 3).T)
    assert back["x"].dtype == np.int32
    assert (back["loss"], back["mask"].tolist()) == (0.5, [True, True])
    with pytest.raises(CodecError, match=r"value\[0\]: tensors of bfloat16 are not stored, .*astype\('float32'\)"):
        encode([jnp.ones(2, jnp.bfloat16)])
