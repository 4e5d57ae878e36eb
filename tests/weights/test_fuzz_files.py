"""Mutated files: only our own errors come out, memory stays bounded, nothing is executed.

Everything runs in one process with a limit on its address space (an allocation of gigabytes ends in
``MemoryError``, which is none of our errors) and an audit hook that ends it on the first attempt to
start a process, to open a file for writing, to connect, or to run or import code.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = r"""
import bz2, gzip, io, json, lzma, os, pickle, resource, sys, warnings
from pathlib import Path

import numpy, torch, yaml
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import save

from saebench.errors import SaebenchError
from saebench.files import CheckpointFiles

warnings.simplefilter("ignore")
ROOT, EXAMPLES = Path(sys.argv[1]), int(sys.argv[2])


def seeds():
    tensors = {"W": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    content = {"state_dict": tensors, "cfg": {"k": 4, "dtype": torch.float32}, "step": 3}
    arrays = {"W": numpy.ones((2, 3), "f4"), "b": numpy.asfortranarray(numpy.ones((2, 2)))}
    new, old, plain, packed = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(content, new)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    numpy.savez(plain, **arrays)
    numpy.savez_compressed(packed, **arrays)
    config = {"k": 4, "nested": {"a": [1, 2.5, None, True]}, "text": "é"}
    return [
        ("w.safetensors", save(tensors)),
        ("new.pt", new.getvalue()),
        ("old.pt", old.getvalue()),
        ("plain.pkl", pickle.dumps(content)),
        ("packed.pkl.gz", gzip.compress(pickle.dumps(content))),
        ("plain.npz", plain.getvalue()),
        ("packed.npz", packed.getvalue()),
        ("cfg.json", json.dumps(config).encode()),
        ("cfg.yaml", yaml.safe_dump(config).encode()),
    ]


SEEDS = seeds()
for codec in ("raw-unicode-escape", "unicode-escape", "latin-1", "ascii", "cp437", "idna", "utf-16"):
    "".encode(codec)  # imported when first used, which the hook would report
INTERESTING = [
    b"\xff" * 8, b"\x00" * 8, b"\x7f" + b"\xff" * 3, (2**62).to_bytes(8, "little"),
    b"cos\nsystem\n(S'x'\ntR.", b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R", b"ctorch\nTensor\n",
    b"99999999999", b"[[[[[[[[", b'"shape":[4611686018427387904,4]', b"&a [*a, *a]",
    b"!!python/name:os.system",
    b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04", b"NaN", b"\x95", b"\x8e", b"\x96", b".", b"}", b"(",
]
edits = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.floats(0, 1)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.sampled_from(INTERESTING) | st.binary(max_size=12)),
        st.tuples(st.just("over"), st.floats(0, 1), st.sampled_from(INTERESTING) | st.binary(max_size=12)),
        st.tuples(st.just("copy"), st.floats(0, 1), st.floats(0, 1)),
        st.tuples(st.just("end"), st.floats(0, 1), st.just(0)),
    ),
    min_size=1,
    max_size=4,
)


def mutate(data, changes, early):
    data = bytearray(data)
    for kind, where, what in changes:
        # Headers are at the start, and in archives at the end.
        at = int(where**3 * len(data)) if early else len(data) - int(where**2 * len(data))
        at = min(at, max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[at] ^= what
        elif kind == "cut":
            del data[at : at + 1 + int(what * 40)]
        elif kind == "insert":
            data[at:at] = what
        elif kind == "over":
            data[at : at + len(what)] = what
        elif kind == "copy":
            other = int(what * len(data))
            data[at : at + 16] = data[other : other + 16]
        elif kind == "end":
            del data[int((1 - where**3) * len(data)) :]
    return bytes(data)


ALLOWED = [0]
counts = {"ok": 0, "refused": 0}


def watch(event, arguments):
    if not ALLOWED[0]:
        return
    writing = event == "open" and arguments[1] is not None and set("wax+") & set(str(arguments[1]))
    wanted = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "exec", "import",
              "socket.connect", "pickle.find_class", "os.remove", "shutil.rmtree", "ctypes.dlopen")
    if writing or event in wanted:
        if event == "import" and arguments[0] in HARMLESS:
            return
        sys.stderr.write(f"{event} {arguments!r:.300}\n")
        os._exit(7)


HARMLESS = set(sys.modules)


def look(name):
    files = CheckpointFiles(ROOT, (name,), allow_pickle=True)
    if name.endswith(".json"):
        return files.json(name)
    if name.endswith(".yaml"):
        return files.yaml(name)
    files.header(name)
    found = files.state_dict(name).tensors
    return [found[key].float().sum() for key in found]


def test(name, data):
    (ROOT / name).write_bytes(data)
    ALLOWED[0] = 1
    try:
        look(name)
        counts["ok"] += 1
    except SaebenchError as error:
        str(error).encode()
        counts["refused"] += 1
    finally:
        ALLOWED[0] = 0


for name, data in SEEDS:
    test(name, data)
assert counts == {"ok": len(SEEDS), "refused": 0}, counts
sys.addaudithook(watch)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 29), resource.RLIM_INFINITY))


@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
          suppress_health_check=list(HealthCheck))
@given(st.sampled_from(SEEDS), edits, st.booleans())
def fuzz(seed, changes, early):
    test(seed[0], mutate(seed[1], changes, early))


fuzz()
print(counts["ok"], counts["refused"])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory as Linux does")
def test_mutated_files_raise_our_errors_and_do_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, tmp_path, "3000"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    read, refused = map(int, done.stdout.split())
    assert read > 100  # mutations of values and of padding leave a file whole
    assert refused > 500
