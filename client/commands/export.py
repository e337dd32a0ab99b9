"""`pp-client export`: the pulled model as a file for other programs, from a customer's events to its scores."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.commands import add_models, new_command
from daemons.exit_codes import Exit

if TYPE_CHECKING:
    from client.onnx_export import Exported

_TEXT = """The file holds the newest pulled model with all that comes before and after it: lines of orders go in, scores
come out. It is checked against the model on made-up customers before it is written. No order is read, no connection is
opened. Do not use the scores for decisions on credit, accusations of fraud, or prices for one person."""


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "export",
        run,
        about="write the newest model that was pulled as an ONNX file",
        text=_TEXT,
        example="pp-client export --onnx purchase_power.onnx",
    )
    parser.add_argument(
        "--onnx", type=Path, required=True, metavar="FILE", help="ends with .onnx; readable by you alone"
    )
    parser.add_argument("--int8", action="store_true", help="matrices in eight bits; the summary says what that loses")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    add_models(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Writes the file and says what is in it."""
    from client.onnx_export import check_out, export_onnx
    from client.progress import shown_progress
    from client.settings import load_settings

    settings = load_settings(args.config)
    check_out(args.onnx, force=args.force)
    with shown_progress() as progress:
        exported = export_onnx(
            settings,
            out=args.onnx,
            models=args.models or settings.paths.models,
            int8=args.int8,
            force=args.force,
            progress=progress,
        )
    if args.json:
        sys.stdout.write(json.dumps(exported.to_mapping(), indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write(summary_text(exported))
    return Exit.DONE


def summary_text(exported: Exported) -> str:
    """The summary for a person."""
    from client.statement import epsilon_text

    found, loss = exported.difference, exported.loss
    lines = [
        f"Exported: {exported.out}, {exported.bytes / 1024:,.0f} KiB, {exported.precision}, opset {exported.opset}",
        f"  Model:   {exported.model_id} ({exported.model[:12]}), verified; encoder {exported.encoder}",
        f"  Says:    the {exported.horizon_days} days from the cutoff on",
        f"  Privacy: epsilon {epsilon_text(float(exported.epsilon))} at delta {exported.delta:g} for a customer of one "
        "merchant; the file adds nothing to it",
        f"  Checked: on {found.customers:,} made-up customers, float32 is at most {found.largest:.1e} away from the "
        "model",
    ]
    if loss is not None:
        lines.append(
            f"  Loss:    int8 moves the purchase probability by up to {loss.largest:.4f}, {loss.mean:.5f} in the mean, "
            f"expected spend by {100 * loss.expected_spend:.2f} % in the mean, and AUC from {loss.auc:.4f} by "
            f"{-loss.auc_lost:+.4f}"
        )
    return "\n".join([*lines, ""])
