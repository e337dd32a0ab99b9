"""Makes purchase_power_pb2.py and .pyi out of client/serving/purchase_power.proto: `python scripts/protos.py`.

Another folder than the repository's root may be given to write below.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTO = "client/serving/purchase_power.proto"
HEAD = """\
# Made by scripts/protos.py out of purchase_power.proto; change that.
# ruff: noqa
# fmt: off
# mypy: ignore-errors
"""


def main(out: Path) -> int:
    """The exit code of protoc."""
    (out / PROTO).parent.mkdir(parents=True, exist_ok=True)
    code: int = protoc.main(["protoc", f"-I{ROOT}", f"--python_out={out}", f"--pyi_out={out}", PROTO])
    for suffix in (".py", ".pyi") if code == 0 else ():
        made = out / PROTO.replace(".proto", f"_pb2{suffix}")
        made.write_text(HEAD + made.read_text(encoding="utf-8"), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
