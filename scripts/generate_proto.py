"""Make minidrop/config/minidrop_pb2.py from minidrop.proto: python scripts/generate_proto.py

Needs grpcio-tools 1.72.* (the extra `proto`), whose protoc is 6.30: code of that release imports with every
protobuf from 6.30 up to, and without, 8. The sha256 of the .proto stands in the result, so that a test can
tell a stale one without any protoc.
"""

import argparse
import hashlib
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROTO = ROOT / "minidrop/config/minidrop.proto"
MODULE = ROOT / "minidrop/config/minidrop_pb2.py"
PROTOC = (6, 30)


def generate():
    """Return the text of the generated module."""
    try:
        from grpc_tools import protoc
    except ImportError:
        sys.exit("generate_proto.py: no protoc here; run `pip install 'grpcio-tools==1.72.*'` first")
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["protoc", f"-I{ROOT}", f"--python_out={folder}", str(PROTO)]
        if protoc.main(arguments) != 0:
            sys.exit("generate_proto.py: protoc refused minidrop.proto, see above")
        text = (pathlib.Path(folder) / MODULE.relative_to(ROOT)).read_text()
    version = re.search(r"Protobuf Python Version: (\d+)\.(\d+)", text)
    if version is None or tuple(map(int, version.groups())) != PROTOC:
        found = version.group(0) if version else "no version"
        sys.exit(f"generate_proto.py: wanted code of protobuf {PROTOC[0]}.{PROTOC[1]}, got {found!r}; newer "
                 "code shuts out older runtimes: run `pip install 'grpcio-tools==1.72.*'`")
    return (f"# ruff: noqa\n# Made by scripts/generate_proto.py, not by hand.\n"
            f"# sha256 of minidrop.proto: {proto_hash()}\n{text}")


def proto_hash():
    """Return the sha256 of minidrop.proto."""
    return hashlib.sha256(PROTO.read_bytes()).hexdigest()


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    MODULE.write_text(generate())
    print(f"wrote {MODULE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
