"""Weights from Keras's arrays and files and back; what Keras computed with them is in fixtures."""

import io
import json
import subprocess
import sys
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from numbarnn import Recurrent
from numbarnn.cells import find_cell
from numbarnn.interop.keras import from_keras, read_keras, to_keras_weights
from numbarnn.interop.keras_file import ACTIVATIONS, name_cell

FIXTURES = Path(__file__).parent / "fixtures"
LAYERS, STACK = FIXTURES / "keras_layers.keras", FIXTURES / "keras_stack.keras"
# layer -> our options; unless they say otherwise 3 inputs, 4 units, with a bias, one direction
KINDS = {
    "rnn": {"cell": "rnn"},
    "rnn_relu": {"cell": "rnn_relu"},
    "rnn_no_bias": {"cell": "rnn", "bias": False},
    "lstm": {"cell": "lstm"},
    "lstm_no_bias": {"cell": "lstm", "bias": False},
    "lstm_last": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "gru_no_bias": {"cell": "gru", "bias": False},
    "gru_reset_before": {"cell": "gru_reset_before"},
    "gru_reset_before_no_bias": {"cell": "gru_reset_before", "bias": False},
    "bidirectional": {"cell": "lstm", "bidirectional": True},
    "bidirectional_last": {"cell": "gru", "bias": False, "bidirectional": True},
    "merge_None": {"cell": "gru", "bidirectional": True},
    "inner/lstm": {"cell": "lstm", "hidden_size": 2},
    "rnn_leaky_relu": {"cell": "rnn[leaky_relu(0.2)]"},
    "lstm_hard": {"cell": f"lstm[hard_sigmoid({1 / 6},0.5),softsign,softsign]"},
}
MERGES = {"merge_sum": "sum", "merge_ave": "mean", "merge_mul": "product"}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def answers():
    with np.load(FIXTURES / "keras.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def h5py():
    return pytest.importorskip("h5py")


def weights_of(answers, kind):
    """The arrays of ``layer.get_weights()``."""
    names = sorted(name for name in answers if name.startswith(f"layers/{kind}/weights/"))
    return [answers[name] for name in names]


def assert_gives(layer, x, expected):
    """Compare outputs with Keras's; without ``return_sequences`` that is h of the final state."""
    output, final = layer.forward(x)
    if expected.ndim == 2:
        h = final[0] if isinstance(final, tuple) else final
        output = np.concatenate(list(h), axis=1)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


# ------------------------------------------------------------------ numbers


@every_kind
def test_arrays(kind, answers):
    weights, cell = weights_of(answers, kind), KINDS[kind]["cell"]
    layer = from_keras(weights, cell=cell)
    expected = {"input_size": 3, "hidden_size": 4, "bias": True, "bidirectional": False, **KINDS[kind]}
    assert layer.cell.name == expected.pop("cell")
    assert {name: getattr(layer, name) for name in expected} == expected
    assert_gives(layer, answers["x"], answers[f"layers/{kind}/output"])
    if kind not in ("rnn_relu", "gru_reset_before_no_bias", "rnn_leaky_relu", "lstm_hard"):  # the shapes tell
        assert from_keras(weights).cell.name == cell
    for array, given in zip(to_keras_weights(layer), weights, strict=True):
        np.testing.assert_array_equal(array, given)


@every_kind
def test_file(kind, answers, h5py):
    layer, same = from_keras(LAYERS, kind), from_keras(weights_of(answers, kind), cell=KINDS[kind]["cell"])
    assert layer.cell.name == KINDS[kind]["cell"]
    assert list(layer.parameters) == list(same.parameters)
    for name, value in layer.parameters.items():
        np.testing.assert_array_equal(value, same.parameters[name])
    assert_gives(layer, answers["x"], answers[f"layers/{kind}/output"])


@pytest.mark.parametrize("kind", MERGES)
def test_directions_are_merged_as_in_keras(kind, answers, h5py):
    expected = answers[f"layers/{kind}/output"]
    assert_gives(from_keras(LAYERS, kind), answers["x"], expected)
    assert_gives(from_keras(weights_of(answers, kind), merge=MERGES[kind]), answers["x"], expected)


def test_activations_are_those_of_keras(answers):
    x = answers["activations/x"]
    assert set(ACTIVATIONS) == {name.partition("/")[2] for name in answers if "activations/" in name} - {"x"}
    for name, ours in ACTIVATIONS.items():
        (found,), _ = find_cell(name_cell("rnn", "sigmoid", ours)).forward((x,), (x,))
        np.testing.assert_allclose(found, answers[f"activations/{name}"], rtol=1e-6, atol=1e-6, err_msg=name)


def test_layers_one_behind_the_other(answers, h5py):
    layers = read_keras(str(STACK))
    assert list(layers) == ["lstm", "bidirectional", "lstm_1", "gru_1"]
    for k, (name, layer) in enumerate(layers.items()):
        assert_gives(layer, answers[f"stack/{name}/input"], answers[f"stack/{name}/output"])
        for same in (from_keras(STACK, name), from_keras(STACK, k)):
            assert all((same.parameters[n] == value).all() for n, value in layer.parameters.items())


def test_options_are_handed_on(h5py, answers):
    for source, which in ((STACK, "lstm"), (weights_of(answers, "lstm"), None)):
        layer = from_keras(source, which, dtype="float64", n_jobs=1)
        assert (layer.dtype, layer.n_jobs) == (np.float64, 1)
    assert {layer.dtype.name for layer in read_keras(STACK, dtype="float64").values()} == {"float64"}


@pytest.mark.parametrize(("stored", "expected"), [("float16", "float32"), ("float64", "float64")])
def test_type_of_the_weights(stored, expected, answers):
    weights = [array.astype(stored) for array in weights_of(answers, "gru")]
    layer = from_keras(weights)
    assert layer.dtype == expected
    np.testing.assert_array_equal(to_keras_weights(layer)[0], weights[0])


@pytest.mark.parametrize("cell", ["rnn", "rnn_relu", "lstm", "gru", "gru_reset_before"])
@pytest.mark.parametrize("bias", [True, False])
def test_every_layer_of_ours_can_go_to_keras(cell, bias):
    whole = Recurrent(cell, 3, 4, num_layers=2, bidirectional=True, bias=bias, random_state=0)
    x = hidden = np.random.default_rng(0).standard_normal((2, 5, 3))
    for k in range(2):
        layer = from_keras(to_keras_weights(whole, k), cell=cell)
        hidden, _ = layer.forward(hidden)
    np.testing.assert_allclose(hidden, whole.forward(x)[0], rtol=0, atol=1e-6)


def test_arrays_are_copies():
    layer = Recurrent("lstm", 3, 4, random_state=0)
    arrays = to_keras_weights(layer)
    before = [array.copy() for array in arrays]
    for value in layer.parameters.values():
        value[:] = 0
    for array, same in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, same)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(("name", "message"), [
    ("refused_go_backwards", "go_backwards=True; expected False"),
    ("refused_activation", "activation='gelu'; expected one of 'elu', 'hard_sigmoid', 'leaky_relu'"),
    ("refused_recurrent_activation", "recurrent_activation='softmax'; expected one of 'elu'"),
    ("refused_backward_layer", "unlike layers in its two directions"),
    ("refused_rnn", "class RNN"),
])
def test_layers_with_options_that_we_do_not_have(name, message):
    with pytest.raises(ValueError, match=f'^layer "{name}" .*{message}'):
        from_keras(LAYERS, name)


def rewrite(path, change, source=STACK):
    """Write a file of changed members: ``change`` gets them as a dict, config.json as what it holds."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = json.loads(members["config.json"])
    change(members)
    if "config.json" in members:
        members["config.json"] = json.dumps(members["config.json"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def changed_config(path, name, **options):
    """Write a file in which the configuration of a layer says something else; None is the backward GRU."""
    def change(members):
        for entry in members["config.json"]["config"]["layers"]:
            if name is None and entry["class_name"] == "Bidirectional":
                entry["config"]["backward_layer"]["config"].update(options)
            elif entry["config"].get("name") == name:
                entry["config"].update(options)

    return rewrite(path, change)


@pytest.mark.parametrize(("name", "options", "message"), [
    ("lstm", {"activation": {"module": "mine", "class_name": "function", "config": "tanh"}}, "activation="),
    ("lstm", {"recurrent_activation": None}, "recurrent_activation=None"),
    ("lstm", {"go_backwards": True}, "go_backwards=True"),
    ("lstm", {"units": 5}, r"layers/lstm/cell/vars/0 .* had shape \(5, 16\); expected \(5, 20\)"),
    ("lstm", {"units": "4"}, "^units of layer"),
    ("gru_1", {"units": 4}, r"layers/gru/cell/vars/0 .* had shape"),
    ("bidirectional", {"merge_mode": "max"}, "merge_mode='max'"),
    ("bidirectional", {"merge_mode": []}, "merge_mode="),
    ("bidirectional", {"layer": None}, "class None"),
    (None, {"go_backwards": False}, "go_backwards=False; expected True"),
    (None, {"use_bias": False}, "unlike layers"),
    (None, {"reset_after": False}, "unlike layers"),
])
def test_configurations_that_are_refused(name, options, message, tmp_path, h5py):
    with pytest.raises((ValueError, TypeError), match=message):
        read_keras(changed_config(tmp_path / "changed.keras", name, **options))


def test_layer_of_another_library_is_refused(tmp_path):
    def change(members):
        members["config.json"]["config"]["layers"][2]["module"] = "mine.layers"

    path = rewrite(tmp_path / "model.keras", change)
    with pytest.raises(ValueError, match=r'^layer "lstm" was of class LSTM in mine.layers'):
        from_keras(path, "lstm")


@pytest.mark.parametrize("option", ["hidden_size", "bias", "num_layers"])
def test_options_that_the_weights_tell(option, h5py):
    with pytest.raises(TypeError, match=f"^{option} was 2; expected none: the weights tell it"):
        from_keras(STACK, np.int64(0), **{option: 2})


def test_which_layer_must_be_told():
    names = "'lstm', 'bidirectional', 'lstm_1', 'gru_1'"
    for layer in (None, "dense", 4, -1, True, 1.0):
        expected = rf"^layer was {layer!r}; expected one of {names}, or a number below 4"
        with pytest.raises(ValueError, match=expected):
            from_keras(STACK, layer)


def test_only_layer_need_not_be_told(tmp_path, answers, h5py):
    def change(members):
        layers = members["config.json"]["config"]["layers"]
        layers[:] = [entry for entry in layers if entry["class_name"] in ("Dense", "GRU")]

    assert from_keras(rewrite(tmp_path / "model.keras", change)).cell.name == "gru"


# ------------------------------------------------------------------ files that are wrong


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_missing_member(member, tmp_path):
    path = rewrite(tmp_path / "model.keras", lambda members: members.pop(member))
    with pytest.raises(ValueError, match=f"without {member}"):
        read_keras(path)


@pytest.mark.parametrize("config", [None, [], {}, {"config": {}}, {"config": {"layers": None}},
                                    {"config": {"layers": [1]}}, {"config": {"layers": [{"class_name": 1}]}}])
def test_model_of_another_kind(config, tmp_path):
    path = rewrite(tmp_path / "model.keras", lambda members: members.update({"config.json": config}))
    with pytest.raises(ValueError, match="no Sequential or Functional model"):
        read_keras(path)


def test_model_without_recurrent_layers(tmp_path):
    path = rewrite(
        tmp_path / "model.keras", lambda members: members["config.json"]["config"]["layers"].clear())
    with pytest.raises(ValueError, match="no recurrent layer that can be read: it has no layers; expected"):
        read_keras(path)

    def wrap(members):
        layers = members["config.json"]["config"]["layers"]
        around = {"class_name": "TimeDistributed", "config": {"name": "t", "layer": layers[2]}}
        layers[:] = [layers[1], around, {"class_name": "Mine", "config": layers[2]["config"]}]

    with pytest.raises(ValueError, match="it has Dense, TimeDistributed around LSTM, Mine; expected"):
        read_keras(rewrite(tmp_path / "model.keras", wrap))


def test_other_files(tmp_path, h5py):
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file["a"] = 1
    with pytest.raises(ValueError, match=r"^source was .*HDF5 file, as Keras 2 .* and save_weights writes"):
        from_keras(path)
    for content in (b"", b"no ZIP archive", STACK.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^source was .*no .keras file or a damaged one"):
            from_keras(path)
    with pytest.raises(FileNotFoundError):
        from_keras(tmp_path / "absent.keras")


@pytest.mark.parametrize("source", [STACK, LAYERS])  # as Keras writes it, and compressed
def test_damaged_files(source, tmp_path, h5py):
    """Cut off or overwritten anywhere, a file is an error or, where nothing hangs on it, what it was."""
    path, content = tmp_path / "model.keras", source.read_bytes()
    rng, name = np.random.default_rng(0), "lstm"
    whole = from_keras(source, name).parameters
    for at in rng.integers(0, len(content), 40):
        for damaged in (content[:at], content[:at] + rng.bytes(16) + content[at + 16:]):
            path.write_bytes(damaged)
            try:
                layer = from_keras(path, name)
            except ValueError:
                continue
            assert all((layer.parameters[n] == value).all() for n, value in whole.items())


def changed_weights(path, change, h5py):
    """Write a file with changed HDF5 contents."""
    def rewritten(members):
        stream = io.BytesIO(members["model.weights.h5"])
        with h5py.File(stream, "a") as file:
            change(file)
        members["model.weights.h5"] = stream.getvalue()

    return rewrite(path, rewritten)


def link_outside(h5py, file, name, other):
    """Put a link to another file, or a dataset that lies there, in the place of a dataset."""
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    if other == "external link":
        file[name] = h5py.ExternalLink("secret.h5", "/data")
    elif other == "soft link":
        file[name] = h5py.SoftLink("/layers/lstm_1/cell/vars/0")
    elif other == "external data":
        file.create_dataset(name, shape, dtype, external=[("secret.bin", 0, int(np.prod(shape)) * 4)])
    else:
        layout = h5py.VirtualLayout(shape, dtype)
        layout[:] = h5py.VirtualSource("secret.h5", "data", shape)
        file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("other", ["external link", "soft link", "external data", "virtual data"])
def test_nothing_leads_out_of_the_file(other, tmp_path, h5py, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.zeros(1000, np.float32).tofile("secret.bin")
    with h5py.File("secret.h5", "w") as file:
        file["data"] = np.zeros((5, 16), np.float32)
    name = "layers/lstm/cell/vars/0"
    path = changed_weights(
        tmp_path / "model.keras", lambda file: link_outside(h5py, file, name, other), h5py)
    with pytest.raises(ValueError, match=f"had no {name}"):
        from_keras(path, "lstm")


@pytest.mark.parametrize(("name", "value", "message"), [
    ("layers/lstm", None, "had no layers/lstm;"),
    ("layers/lstm/cell/vars/2", None, "had no layers/lstm/cell/vars/2;"),
    ("layers/lstm/cell/vars/2/group", 1, "had no layers/lstm/cell/vars/2;"),
    ("layers/lstm/cell", 1, "had no layers/lstm/cell/vars/0;"),
    ("layers/lstm/cell/vars/1", np.zeros((4, 12)), r"vars/1 .* had shape \(4, 12\); expected \(4, 16\)"),
    ("layers/lstm/cell/vars/0", 1.0, r"vars/0 .* had shape \(\)"),
    ("layers/lstm/cell/vars/2", ["a"] * 16, "bias_ih_l0"),
])
def test_weights_that_are_missing_or_of_another_shape(name, value, message, tmp_path, h5py):
    def change(file):
        del file[name.removesuffix("/group")]
        if value is not None:
            file[name] = value

    with pytest.raises((ValueError, TypeError), match=message):
        from_keras(changed_weights(tmp_path / "model.keras", change, h5py), "lstm")


def test_no_more_is_read_than_what_is_stored(tmp_path, h5py):
    units, path = 10**6, tmp_path / "model.keras"

    def unallocated(file):
        for k, shape in enumerate([(5, 4 * units), (units, 4 * units), (4 * units,)]):
            del file[f"layers/lstm/cell/vars/{k}"]
            file.create_dataset(f"layers/lstm/cell/vars/{k}", shape, "f4", chunks=True)

    def change(members):
        for entry in members["config.json"]["config"]["layers"]:
            entry["config"]["units"] = units

    rewrite(path, change, changed_weights(path, unallocated, h5py))
    with pytest.raises(ValueError, match=r"^layers/lstm/cell/vars/0 .* had 0 bytes for an array of 80000000"):
        from_keras(path, "lstm")
    for name in ("config.json", "model.weights.h5"):
        with zipfile.ZipFile(STACK) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for member in ("config.json", "model.weights.h5"):
                content = source.read(member)
                packed.writestr(member, content.ljust(2**24 + 1) if member == name else content)
        with pytest.raises(ValueError, match=rf"^source was .* 16777217 of {name} would be unpacked"):
            from_keras(path, "lstm")


@pytest.mark.parametrize(("masking", "zero", "warns"), [
    ({"class_name": "Masking", "config": {"name": "m"}}, False, True),
    ({"class_name": "Embedding", "config": {"name": "m", "mask_zero": True}}, False, True),
    ({"class_name": "Embedding", "config": {"name": "m", "mask_zero": False}}, False, False),
    ({"class_name": "Masking", "config": {"name": "m"}}, True, False),
])
@pytest.mark.parametrize("name", ["lstm", "bidirectional", "gru_1"])
def test_masked_steps_are_warned_of(name, masking, zero, warns, tmp_path, h5py):
    def change(members):
        layers = members["config.json"]["config"]["layers"]
        for entry in layers:
            config = entry["config"].get("layer", entry)["config"]
            config["zero_output_for_mask"] = zero
        layers.insert(1, masking)

    path, returns = rewrite(tmp_path / "model.keras", change), name != "gru_1"
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        from_keras(path, name)
    texts = [str(each.message) for each in found]
    expected = f'layer "{name}" stands behind "m" with zero_output_for_mask=False: at masked steps Keras'
    assert [text[: len(expected)] for text in texts] == [expected] * (warns and returns)


def test_bfloat16(answers, tmp_path, h5py):
    def change(file):
        for k in "012":
            value = file[f"layers/lstm/cell/vars/{k}"][()].view(np.uint32)
            del file[f"layers/lstm/cell/vars/{k}"]
            stored = (value >> 16).astype(np.uint16).view("V2")
            file.create_dataset(f"layers/lstm/cell/vars/{k}", data=stored).attrs["dtype"] = "bfloat16"

    layer = from_keras(changed_weights(tmp_path / "model.keras", change, h5py), "lstm")
    whole = from_keras(STACK, "lstm").parameters
    assert layer.dtype == "float32"
    for name, value in layer.parameters.items():
        np.testing.assert_array_equal(value, (whole[name].view(np.uint32) >> 16 << 16).view(np.float32))
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = [array.astype(ml_dtypes.bfloat16) for array in to_keras_weights(layer)]
    again = from_keras(arrays)
    assert again.dtype == "float32"
    np.testing.assert_array_equal(again.parameters["weight_hh_l0"], layer.parameters["weight_hh_l0"])


def test_weights_of_another_layer(tmp_path, h5py):
    def change(file):
        del file["layers/lstm"]
        file.move("layers/lstm_1", "layers/lstm")

    with pytest.raises(ValueError, match='^layers/lstm in .* was layer "lstm_1"; expected "lstm"'):
        from_keras(changed_weights(tmp_path / "model.keras", change, h5py), "lstm")


def test_weights_that_are_no_hdf5(tmp_path, h5py):
    path = rewrite(tmp_path / "model.keras", lambda members: members.update({"model.weights.h5": b"weights"}))
    with pytest.raises(ValueError, match="^model.weights.h5 was no HDF5 file"):
        from_keras(path, "lstm")


def test_files_of_earlier_versions_have_no_names_in_them(answers, tmp_path, h5py):
    path = changed_weights(tmp_path / "model.keras", lambda file: file.pop("layers/lstm/vars"), h5py)
    assert_gives(from_keras(path, "lstm"), answers["stack/lstm/input"], answers["stack/lstm/output"])


def test_h5py_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "numbarnn\[keras\]"'):
        from_keras(STACK, "lstm")


# ------------------------------------------------------------------ arguments that are wrong


def arrays_of(*shapes):
    return [np.zeros(shape) for shape in shapes]


@pytest.mark.parametrize(("source", "message"), [
    ([], "^source was 0 arrays"),
    (arrays_of((3, 16)), "^source was 1 arrays"),
    (arrays_of(*[(3, 16)] * 5), "^source was 5 arrays"),
    (arrays_of((3, 16), 4), r"^source\[1\] had shape \(4,\)"),
    (arrays_of((3, 16), (0, 16)), r"^source\[1\] had shape \(0, 16\)"),
    (arrays_of((3, 16), (4, 17)), r"^source\[1\] had shape \(4, 17\); expected 1, 3 or 4 times"),
    (arrays_of((3, 16), (4, 8)), r"^source\[1\] had shape \(4, 8\); expected 1, 3 or 4 times"),
    (arrays_of((3, 12), (4, 16)), r"^source\[0\] had shape \(3, 12\); expected \(3, 16\)"),
    (arrays_of((0, 16), (4, 16)), r"^source\[0\] had shape \(0, 16\)"),
    (arrays_of((), (4, 16)), r"^source\[0\] had shape \(\)"),
    (arrays_of((3, 16), (4, 16), 12), r"^source\[2\] had shape \(12,\); expected \(16,\)"),
    (arrays_of((3, 12), (4, 12), (2, 16)), r"^source\[2\] had shape \(2, 16\); expected \(2, 12\)"),
    (arrays_of((3, 16), (4, 16), (2, 16), (4, 16)), r"^source\[2\] had shape \(2, 16\); expected \(3, 16\)"),
    ([[["a"] * 16] * 3, np.zeros((4, 16))], "weight_ih_l0"),
    (np.zeros((2, 4, 4)), "^source was a ndarray"),
    (None, "^source was a NoneType"),
])
def test_bad_arrays(source, message):
    with pytest.raises((ValueError, TypeError), match=message):
        from_keras(source)


def test_bad_cells():
    lstm, gru = arrays_of((3, 16), (4, 16)), arrays_of((3, 12), (4, 12), (2, 12))
    bad = (lstm, "gru", "lstm"), (gru, "gru_reset_before", "gru"), (gru, "mgu", "gru")
    for arrays, cell, expected in bad:
        with pytest.raises(ValueError, match=rf"^cell was '{cell}'; expected {expected}, of which"):
            from_keras(arrays, cell=cell)
    with pytest.raises(ValueError, match=r"^cell was 'lstm'; expected None with a file"):
        from_keras(STACK, "lstm", cell="lstm")
    with pytest.raises(ValueError, match=r"^layer was 'lstm'; expected None with arrays"):
        from_keras(lstm, "lstm")


@pytest.mark.parametrize(("cell", "options", "message"), [
    ("mgu", {}, "cell was 'mgu'; expected one that Keras has: rnn, rnn_relu, gru"),
    ("lstm[sigmoid,tanh,relu]", {}, r"cell was 'lstm\[sigmoid,tanh,relu\]'; expected one that Keras has"),
    ("rnn[relu;clip=1.0]", {}, "cell was"),
    ("rnn[scaled_tanh]", {}, "cell was"),
    ("gru", {"num_layers": 2, "residual": True}, "residual was True; expected none"),
    ("lstm", {"zoneout": (0, 0.1)}, r"zoneout was \(0.0, 0.1\); expected none"),
    ("lstm", {"proj_size": 2}, "proj_size was 2; expected none"),
])  # fmt: skip
def test_cells_and_options_that_keras_does_not_have(cell, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        to_keras_weights(Recurrent(cell, 3, 4, **options), 0)


def test_what_cannot_go_to_keras():
    with pytest.raises(TypeError, match="^recurrent was a object; expected a Recurrent"):
        to_keras_weights(object())
    assert len(to_keras_weights(Recurrent("gru", 3, 4, num_layers=2), np.int64(1))) == 3
    layer = Recurrent("lstm", 3, 4, num_layers=2)
    for which in (None, 2, -1, True, "l0"):
        with pytest.raises(ValueError, match=rf"^layer was {which!r}; expected a number from 0 to 1"):
            to_keras_weights(layer, which)


# ------------------------------------------------------------------ Keras itself

WITH_KERAS = """
import os
os.environ["KERAS_BACKEND"] = "jax"
import keras, numpy as np
from numbarnn import Recurrent
from numbarnn.cells import find_cell
from numbarnn.interop.keras import from_keras, to_keras_weights

x = np.random.default_rng(0).standard_normal((2, 7, 3)).astype("float32")
kinds = {"rnn": (keras.layers.SimpleRNN, {}), "rnn_relu": (keras.layers.SimpleRNN, {"activation": "relu"}),
         "lstm": (keras.layers.LSTM, {}), "gru": (keras.layers.GRU, {}),
         "gru_reset_before": (keras.layers.GRU, {"reset_after": False}),
         "gru[hard_sigmoid(0.5,0.5),elu]": (keras.layers.GRU, {"recurrent_activation": "sparse_sigmoid",
                                                               "activation": "elu"})}
for cell, (make, options) in kinds.items():
    for bias in (True, False):
        for bidirectional in (True, False):
            ours = Recurrent(cell, 3, 4, bias=bias, bidirectional=bidirectional, random_state=0)
            theirs = make(4, use_bias=bias, return_sequences=True, **options)
            theirs = keras.layers.Bidirectional(theirs) if bidirectional else theirs
            theirs.build(x.shape)
            theirs.set_weights(to_keras_weights(ours))
            expected = np.asarray(theirs(x))
            again = from_keras(theirs.get_weights(), cell=cell)
            for layer in (ours, again):
                np.testing.assert_allclose(layer.forward(x)[0], expected, rtol=0, atol=1e-5)
"""


@pytest.mark.slow
def test_with_keras_itself():
    """In a process of its own: Keras and JAX bring threads and settings along."""
    if find_spec("keras") is None or find_spec("jax") is None:
        pytest.skip("Keras or JAX is not installed")
    subprocess.run([sys.executable, "-c", WITH_KERAS], check=True)
