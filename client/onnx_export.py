"""The pulled model as one ONNX file: checked against the model itself before it is put in its place."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from client.models import KeptModel, newest_kept
from client.onnx_check import LIMIT, Difference, Events, Loss, Run, difference, loss, made_up_truth, run_in_parts
from client.onnx_graph import INPUTS, OUTPUTS, ScoringGraph
from client.progress import Begin
from client.settings import MerchantSettings
from client.statement import plain_epsilon
from daemons.files import write_private
from pp_model.accounting import epsilon_spent
from pp_model.config import to_mapping
from pp_model.errors import ConfigError, PurchasePowerError
from pp_model.model import load_model

OPSET = 18  # the exporter's own; what reads a newer one reads this
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
REFUSED_USES = "decisions on credit; accusations of fraud; prices for one person"
Precision = Literal["float32", "int8"]
_STEPS = 4
_KEPT_PRECISE = {"model.mix", "model.readout.linear.weight"}


class ExportError(PurchasePowerError):
    """The graph that was made does not say what the model says; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export says of itself.

    Attributes:
        sha256: of the file.
        model: SHA-256 of the pulled model's file.
        epsilon: of the whole run at one shop, or "inf".
        difference: of the graph in float32 from the model; at most `LIMIT`.
        loss: of the graph in int8 against the model; None in float32.
    """

    out: str
    sha256: str
    bytes: int
    precision: Precision
    opset: int
    model_id: int
    model: str
    plan_fingerprint: str
    encoder: str
    horizon_days: int
    epsilon: float | str
    delta: float
    difference: Difference
    loss: Loss | None

    def to_mapping(self) -> dict[str, Any]:
        """The summary for programs."""
        mapping: dict[str, Any] = to_mapping(self)
        return mapping


def check_out(out: Path, *, force: bool) -> None:
    """Returns if a graph can be written to `out`.

    Raises:
        ConfigError: its name does not end with .onnx, its folder is not there, or it exists and `force` is false.
    """
    if out.suffix != ".onnx":
        raise ConfigError(f"--onnx {out} ends with {out.suffix!r}; allowed: .onnx")
    if not out.parent.is_dir():
        raise ConfigError(f"--onnx {out}: there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise ConfigError(f"--onnx {out} is a folder; name a file")
    if out.exists() and not force:
        raise ConfigError(f"{out} exists and was left as it is; name another file, or replace it with --force")


def export_onnx(
    settings: MerchantSettings, *, out: Path, models: Path, int8: bool, force: bool, progress: Begin
) -> Exported:
    """Writes the newest pulled model as one graph from events to scores; no order of the merchant is read.

    Args:
        models: the folder of `pull_newest`.
        int8: the matrices of the encoder in eight bits.
        force: replaces `out`; else it must not be there.

    Raises:
        ConfigError: a package or the model is not there, it has nothing for int8, or `out` cannot be written.
        SignatureError: the model is not what the platform signed.
        ExportError: the graph does not say what the model says.
    """
    check_packages()
    model = newest_kept(models, settings.plan_key)
    if int8 and model.plan.model.encoder == "linear":
        raise ConfigError("a model without an encoder has no layers to keep in eight bits; export it without --int8")
    advance = progress("exporting the model", _STEPS)
    truth = made_up_truth(model.plan, model.arrays)
    advance(1)
    graph = onnx_graph(model)
    advance(1)
    found = difference(truth, run_in_parts(session(graph.SerializeToString()), truth.events))
    if not found.largest <= LIMIT:
        raise ExportError(
            f"the exported graph is up to {found.largest:.2g} away from the model; allowed: {LIMIT:g}. Nothing was "
            "written. Install the versions that the project's lock names, and tell the project"
        )
    advance(1)
    given_up = None
    if int8:
        graph = in_int8(graph)
        given_up = loss(truth, run_in_parts(session(graph.SerializeToString()), truth.events))
    precision: Precision = "int8" if int8 else "float32"
    describe(graph, model, precision=precision, measured=_measured(found, given_up))
    importlib.import_module("onnx").checker.check_model(graph, full_check=True)
    data = graph.SerializeToString(deterministic=True)
    check_out(out, force=force)
    write_private(out, data, replace=force)
    advance(1)
    plan = model.plan
    return Exported(
        out=str(out),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        precision=precision,
        opset=OPSET,
        model_id=model.manifest.model_id,
        model=model.manifest.sha256,
        plan_fingerprint=plan.fingerprint,
        encoder=plan.model.encoder,
        horizon_days=plan.features.horizon_days,
        epsilon=plain_epsilon(epsilon_spent(plan.events, delta=plan.delta)),
        delta=plan.delta,
        difference=found,
        loss=given_up,
    )


def check_packages() -> None:
    """Returns if all that an export needs is installed.

    Raises:
        ConfigError: names what is missing, and how to install it.
    """
    missing = [name for name in PACKAGES if not _installed(name)]
    if missing:
        raise ConfigError(
            f"an export needs packages that are not installed: {', '.join(missing)}. Install them: "
            "pip install 'purchase-power[onnx]'"
        )


def onnx_graph(model: KeptModel) -> Any:
    """The `onnx.ModelProto` of the model, in float32, from `INPUTS` to `OUTPUTS`; nothing of this machine is in it."""
    module = ScoringGraph(load_model(model.plan.model, model.arrays).requires_grad_(False), model.plan.features).eval()
    # The least numbers are for the tracer alone, which takes 1 for what is broadcast; the graph takes any.
    customers, lines = torch.export.Dim("customers", min=2), torch.export.Dim("lines", min=3)
    shapes = {name: {} if name == "cutoff_day" else {0: customers, 1: lines} for name in INPUTS}
    with _quietly(), torch.no_grad():
        traced = torch.export.export(module, _example(), dynamic_shapes=shapes, strict=True)
        program: Any = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            external_data=False,
            custom_translation_table=_exact_numbers(),
            verbose=False,
        )
    proto = program.model_proto
    del proto.graph.value_info[:]
    for part in (proto, proto.graph, *proto.graph.node):
        del part.metadata_props[:]  # where in this machine's files each operation came from
    _name_dimensions(proto.graph)
    return proto


def in_int8(graph: Any) -> Any:
    """The same graph with the matrices of the encoder in eight bits; what they multiply is rounded on the run.

    Each product's inputs are rounded on one scale for all customers of a call, so that a customer's figures depend a
    little on who else is asked about. The change of coordinates and the readout stay as they are: they are small, and
    rounding them costs several times as much as rounding all the rest.
    """
    quantization = importlib.import_module("onnxruntime.quantization")
    onnx = importlib.import_module("onnx")
    onnx.helper.set_model_props(graph, {"onnx.quant.pre_process": "onnxruntime.quant"})  # the exporter has folded it
    kept = [node.name for node in graph.graph.node if _KEPT_PRECISE & set(node.input)]
    with tempfile.TemporaryDirectory() as folder, _quietly():
        made = Path(folder) / "graph.onnx"
        quantization.quantize_dynamic(
            graph,
            made,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[*kept, *(f"{name}_MatMul" for name in kept)],  # the second: of a product with an addition
        )
        return onnx.load_model_from_string(made.read_bytes())


def describe(graph: Any, model: KeptModel, *, precision: Precision, measured: Mapping[str, str]) -> None:
    """Writes into the graph what it is, where it comes from, what it cost in privacy and what it is not for."""
    plan, manifest = model.plan, model.manifest
    epsilon = plain_epsilon(epsilon_spent(plan.events, delta=plan.delta))
    facts = {
        "platform": manifest.platform,
        "model_id": str(manifest.model_id),
        "model_sha256": manifest.sha256,
        "plan_id": plan.plan_id,
        "plan_fingerprint": plan.fingerprint,
        "encoder": plan.model.encoder,
        "precision": precision,
        "horizon_days": str(plan.features.horizon_days),
        "sequence_length": str(plan.features.sequence_length),
        "epsilon": str(epsilon),
        "delta": f"{plan.delta:g}",
        "privacy_unit": "one customer of one merchant",
        "refused_uses": REFUSED_USES,
        **measured,
    }
    importlib.import_module("onnx").helper.set_model_props(graph, facts)
    graph.producer_name, graph.producer_version = "purchase-power", ""
    graph.graph.name = "purchase_power"
    graph.doc_string = (
        f"Purchase power of customers over the {plan.features.horizon_days} days from the cutoff on, from their "
        f"events. Not for: {REFUSED_USES}."
    )
    words = {**INPUTS, **OUTPUTS}
    for value in (*graph.graph.input, *graph.graph.output):
        value.doc_string = words[value.name]


def session(data: bytes) -> Run:
    """What runs a graph on one thread: the inputs by name to the outputs by name."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    opened = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(events: Events) -> dict[str, NDArray[Any]]:
        given = {name: events[name] for name in INPUTS}
        return dict(zip(OUTPUTS, opened.run(list(OUTPUTS), given), strict=True))

    return run


def _name_dimensions(graph: Any) -> None:
    table = graph.input[0].type.tensor_type.shape.dim
    names = {dimension.dim_param: name for dimension, name in zip(table, ("customers", "lines"), strict=True)}
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            dimension.dim_param = names[dimension.dim_param]


def _exact_numbers() -> dict[Any, Any]:
    """How numbers in the module's code are written: as they are. The exporter's own way is through float32."""
    ir, op = importlib.import_module("onnxscript").ir, importlib.import_module("onnxscript").opset18

    def number(value: float, dtype: Any) -> Any:
        return op.Constant(value=ir.tensor(value, dtype=ir.DataType(dtype)))

    # Names and annotations are those that the exporter knows the operations by.
    def scalar_tensor(s: float, dtype: int = 1) -> Any:
        return number(s, dtype)

    def clamp(self: Any, min: float | None = None, max: float | None = None) -> Any:
        low, high = (None if end is None else number(end, self.dtype) for end in (min, max))
        return op.Clip(self, low, high)

    aten = torch.ops.aten
    return {aten.scalar_tensor.default: scalar_tensor, aten.clamp.default: clamp}


def _example() -> tuple[torch.Tensor, ...]:
    """Two customers of four lines each: nothing is learnt from it but the types."""
    # Seven tensors: of one that is given twice, the tracer would make one input.
    tables = [torch.zeros(2, 4, dtype=dtype) for dtype in 3 * [torch.float64] + 3 * [torch.int64]]
    return (*tables, torch.tensor(20_000))


def _measured(found: Difference, given_up: Loss | None) -> dict[str, str]:
    facts = {"float32_difference": f"{found.largest:.1e} on {found.customers} made-up customers"}
    if given_up is not None:
        facts["int8_loss"] = (
            f"purchase probability up to {given_up.largest:.1e}, mean {given_up.mean:.1e}; AUC {given_up.auc_lost:.1e}"
        )
    return facts


def _installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporters' own words, which are for who writes them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
