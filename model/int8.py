"""The language model in int8, run by ONNX Runtime on the CPU: 8 bits a weight, and a scale for 32 of them.

Chosen by measuring on one core with AVX-512, MiniLM, float32: 280 texts/s, 11 ms for one alone. This: 360, 3 ms, cosine
.999 with float32. torchao 0.18: 410, 15 ms. torch's own dynamic int8: 620, 4.5 ms, cosine .97, deprecated. ONNX
Runtime's dynamic int8: 770, 2 ms, cosine .99, and a text's vector depends on the texts beside it.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from onnx import ModelProto

_BLOCK = 32
"""So many weights share a scale: of 32, 64 and 128 the nearest to float32, and as fast."""
_INT8_ACTIVATIONS = 4
"""What ONNX Runtime calls products of int8 with int8."""


class Compiled:
    """A model in int8: from tensors of tokens, (texts, tokens) each, to one row a text."""

    def __init__(self, file: Path, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # as many as it likes
        self.size_bytes = file.stat().st_size
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._names = {one.name.removeprefix("tokens_"): one.name for one in self._session.get_inputs()}

    def __call__(self, tokens: Mapping[str, torch.Tensor]) -> np.ndarray:
        return self._session.run(None, {of: tokens[name].numpy() for name, of in self._names.items()})[0]


def compiled(model: nn.Module, tokens: Mapping[str, torch.Tensor], threads: int | None) -> Compiled:
    """The model in int8.

    Args:
        model: takes a mapping of (texts, tokens) tensors, and returns one row a text.
        tokens: of some texts, at least two, and at least two tokens each.
        threads: of the processor.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        _quantise(_exported(model, tokens), file)
        return Compiled(file, threads)


def _exported(model: nn.Module, tokens: Mapping[str, torch.Tensor]) -> "ModelProto":
    """The model as ONNX, for any number of texts and tokens."""
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    texts, length = torch.export.Dim("texts"), torch.export.Dim("tokens")
    shapes = {"tokens": {name: {0: texts, 1: length} for name in tokens}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it warns of what it does with names
        program = torch.onnx.export(
            model, kwargs={"tokens": dict(tokens)}, dynamic_shapes=shapes, dynamo=True, verbose=False
        )
    assert program is not None  # it is where `dynamo` is true
    return program.model_proto


def _quantise(exported: "ModelProto", file: Path) -> None:
    """Products in int8, a scale a block; the table of word pieces in int8 with one scale, for it is only looked up."""
    with _root_logger_left_alone():
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    products = MatMulNBitsQuantizer(
        exported, bits=8, block_size=_BLOCK, is_symmetric=True, accuracy_level=_INT8_ACTIVATIONS
    )
    products.process()
    model = products.model.model
    add_pre_process_metadata(model)  # else it warns
    quantize_dynamic(model, file, op_types_to_quantize=["Gather"], weight_type=QuantType.QInt8)


@contextmanager
def _root_logger_left_alone() -> Iterator[None]:
    """Where the root logger has a handler, a module that sets it up as it is imported changes nothing."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
