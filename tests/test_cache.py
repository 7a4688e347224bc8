"""The cache of compiled code: a warm process compiles nothing, and no old code is ever served.

Whole fits run in fresh processes on a copy of one warm cache folder; what is edited is a copy of the package.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import numbarnn
from numbarnn.kernels import compiler

PACKAGE = Path(numbarnn.__file__).parent
FIT = """
import json, logging, sys, warnings
from numba.core import event
from numba.core.dispatcher import Dispatcher

class Compiled(event.Listener):
    # of every function, be it a kernel, a helper or a C function: each goes through the compiler's passes
    names = set()
    def on_start(self, event):
        self.names.add(event.data["qualname"])
    def on_end(self, event):
        pass

class Said(logging.Handler):
    lines = []
    def emit(self, record):
        self.lines.append(record.getMessage())

event.register("numba:run_pass", Compiled())
logging.getLogger("numbarnn").addHandler(Said())
logging.getLogger("numbarnn").setLevel(logging.INFO)

import numpy as np
import numbarnn
from numbarnn import RNNRegressor, simd

X = np.random.default_rng(0).standard_normal((6, 5, 2))
warnings.simplefilter("ignore")  # two epochs are not enough
model = RNNRegressor(cell="rnn", hidden_size=5, max_iter=2, solver="sgd", learning_rate_init=0.1,
                     random_state=0)
model.fit(X, X[:, -1, 0])
modules = [module for name, module in sys.modules.items() if name.startswith("numbarnn")]
kernels = {value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)}
print(json.dumps({
    "prediction": model.predict(X).tolist(),
    "compiled": sorted(Compiled.names),
    "said": Said.lines,
    "hits": sum(sum(k.stats.cache_hits.values()) for k in kernels),
    "misses": sum(sum(k.stats.cache_misses.values()) for k in kernels),
    "bytes": simd.VECTOR_BYTES,
    "package": numbarnn.__file__,
}))
"""


def start(cache, package, **environment):
    """Begin a process that fits a little network with this cache folder and this copy of the package."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")} | environment
    if cache is not None:
        variables["NUMBA_CACHE_DIR"] = str(cache)
    variables["PYTHONPATH"] = str(package.parent)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", FIT], env=variables, stdout=pipe, stderr=pipe, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)


def fit(*args, **kwargs):
    return finish(start(*args, **kwargs))


def copy_package(source, target):
    """Copy with time stamps and without compiled code."""
    return shutil.copytree(source, target / "numbarnn", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The package as it was when these tests began: it may be edited while they run."""
    return copy_package(PACKAGE, tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def cold(original, tmp_path_factory):
    """The answers of two processes that started at once on an empty cache, and that cache."""
    folder = tmp_path_factory.mktemp("cache")
    return [finish(process) for process in [start(folder, original), start(folder, original)]], folder


@pytest.fixture
def warm(cold, tmp_path):
    """A copy of the warm cache folder."""
    return shutil.copytree(cold[1], tmp_path / "cache")


@pytest.fixture
def package(original, tmp_path):
    """A copy of the package, to be edited."""
    return copy_package(original, tmp_path / "copy")


def edit(path, old, new, keep_time=False):
    text, stat = path.read_text(encoding="utf-8"), path.stat()
    assert text.count(old) == 1, f"{path.name} no longer has what this test edits: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


# ---- cold and warm


def test_two_processes_that_start_at_once_on_an_empty_cache(cold):
    first, second = cold[0]
    assert first["prediction"] == second["prediction"]
    assert np.isfinite(first["prediction"]).all()


def test_first_process_says_that_it_compiles_and_compiles_its_own_cell_only(cold):
    for answer in cold[0]:
        assert len(answer["said"]) == 1 and "compiling" in answer["said"][0]
        text = " ".join(answer["compiled"])
        assert "scan_forward" in text and "rnn_tanh_forward" in text
        assert not re.search("gru|lstm|rnn_relu", text)


def test_second_process_compiles_nothing(cold, warm, original):
    answer = fit(warm, original)
    assert answer["compiled"] == [] and answer["said"] == []
    assert answer["misses"] == 0 and answer["hits"] >= 2
    assert answer["prediction"] == cold[0][0]["prediction"]


# ---- edits


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("simd.py", "return lambda x: _tanh_rational(", "return lambda x: 0.5 * _tanh_rational("),
        ("cells/rnn.py", "    h = tanh(a)\n", "    h = tanh(a) * 0.5\n"),
    ],
    ids=["simd", "cell"],
)
def test_edit_is_seen_though_time_stamps_say_nothing(cold, warm, package, file, old, new):
    before = package.joinpath(file).read_bytes()
    edit(package / file, old, new, keep_time=True)
    edited = fit(warm, package)
    assert "scan_forward" in " ".join(edited["compiled"])
    assert not np.allclose(edited["prediction"], cold[0][0]["prediction"], rtol=0.01)

    package.joinpath(file).write_bytes(before)
    assert fit(warm, package)["prediction"] == cold[0][0]["prediction"]


def test_edit_in_an_optimizer_is_seen(cold, warm, package):
    edit(package / "optimizers.py", "p[i] -= rate * (scale * g[i])", "p[i] -= 2.0 * rate * (scale * g[i])")
    edited = fit(warm, package)
    assert Path(edited["package"]).parent == package
    assert not np.allclose(edited["prediction"], cold[0][0]["prediction"], rtol=0.01)
    assert "scan_forward" not in " ".join(edited["compiled"])  # what does not depend on it is kept


# ---- other machines


def test_other_vector_width_on_the_same_folder(cold, warm, original):
    wide = cold[0][0]
    narrow = fit(warm, original, NUMBA_CPU_NAME="generic")
    assert narrow["bytes"] == 16
    np.testing.assert_allclose(narrow["prediction"], wide["prediction"], rtol=1e-4)
    for environment, before in (({}, wide), ({"NUMBA_CPU_NAME": "generic"}, narrow)):
        again = fit(warm, original, **environment)
        assert again["prediction"] == before["prediction"] and again["bytes"] == before["bytes"]
        assert again["compiled"] == []


# ---- folders that cannot be written


@pytest.fixture
def read_only(package, tmp_path):
    """A copy of the package that cannot keep compiled code, not even root's: files stand for its folders."""
    (package / "__pycache__").write_text("")
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    return package, {"HOME": str(blocked), "XDG_CACHE_HOME": str(blocked)}


def test_unwritable_install_and_home(cold, read_only):
    package, home = read_only
    answer = fit(None, package, **home)
    assert answer["prediction"] == cold[0][0]["prediction"]
    if sys.platform != "win32":  # Windows is asked for its folder; the environment has no say
        assert answer["hits"] == 0
        assert any("NUMBA_CACHE_DIR" in line for line in answer["said"])


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is for Linux")
def test_unwritable_install_uses_the_users_folder(cold, warm, read_only, tmp_path):
    package, home = read_only
    warm.rename(tmp_path / "numbarnn")
    answer = fit(None, package, **home | {"XDG_CACHE_HOME": str(tmp_path)})
    assert answer["compiled"] == []


# ---- a kernel's own cache, in this process


def twice(x):
    return 2 * x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "cache_folder", lambda: tmp_path)
    return tmp_path


def new_kernel(function=twice):
    """The kernel as another process would have it."""
    return compiler.kernel(function)


def test_kernel_is_taken_from_the_cache(folder):
    assert new_kernel()(21) == 42
    dispatcher = new_kernel()
    assert dispatcher(21) == 42
    assert sum(dispatcher.stats.cache_hits.values()) == 1 and not dispatcher.stats.cache_misses


DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(255 - b for b in data),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_costs_a_compilation(folder, damage):
    new_kernel()(21)
    (path,) = folder.glob("*.nbc")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert new_kernel()(21) == 42
    healed = new_kernel()
    assert healed(21) == 42
    assert sum(healed.stats.cache_hits.values()) == 1


def test_edit_of_a_constant_is_seen_though_size_and_time_are_the_same(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "edited.py"
    for factor in (2, 3):
        path.write_text(f"def times(x):\n    return {factor} * x\n")
        os.utime(path, (0, 0))
        namespace = {"__name__": "edited"}
        exec(compile(path.read_text(), path, "exec"), namespace)
        assert new_kernel(namespace["times"])(21) == factor * 21


def test_vanished_folder_costs_a_compilation(folder):
    new_kernel()(21)
    shutil.rmtree(folder)
    assert new_kernel()(21) == 42


def test_folder_that_became_a_file_costs_the_saving(folder):
    shutil.rmtree(folder)
    folder.write_text("")
    assert new_kernel()(21) == 42


def test_code_of_another_signature_is_not_taken(folder):
    """As it was when processes that saved different signatures at once gave them the same file."""
    first = new_kernel()
    assert repr(first(21)) == "42" and repr(first(1.25)) == "2.5"
    one, two = sorted(folder.glob("*.nbc"))
    one.write_bytes(two.read_bytes())
    second = new_kernel()
    assert repr(second(21)) == "42" and repr(second(1.25)) == "2.5"


def test_functions_of_one_name_do_not_meet(folder):
    def scope(factor):
        def inner(x):
            return factor * x

        return inner

    for factor in (2, 3, 2):
        assert new_kernel(scope(factor))(21) == factor * 21


def test_threads_that_meet_a_kernel_at_once(folder):
    dispatcher, answers = new_kernel(), []
    barrier = threading.Barrier(4)

    def call():
        barrier.wait()
        answers.append(dispatcher(21))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [42] * 4
