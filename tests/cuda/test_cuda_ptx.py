"""The interpreter of PTX: it computes what instructions mean, and finds what must not be done."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.skipif("not __import__('conftest').INTERPRETED", reason="needs NUMBARNN_PTX=1")
