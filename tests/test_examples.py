"""Every example runs as it stands, in a folder of its own, and ends in a number or a picture."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import numbarnn

FOLDER = Path(__file__).parent.parent / "examples"
PICTURES = {"forecaster.py": 2, "many_series.py": 1, "vanishing_gradients.py": 1}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.py")))
def test_example(name, tmp_path):
    package = str(Path(numbarnn.__file__).parent.parent)
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": package, "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / name], cwd=tmp_path, env=environment,
        capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert len(list(tmp_path.glob("*.png"))) == PICTURES.get(name, 0)


def test_there_is_an_example_for_each_door():
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py"))
    for door in ("RNNRegressor", "RNNForecaster", "Recurrent"):
        assert f"from numbarnn import {door}" in text
