"""What there is no kernel for is refused by its name; what is wrong with a device has an error of its own."""

import numpy as np
import pytest

from numbarnn import Recurrent, RNNRegressor
from numbarnn.cuda import blas, driver
from numbarnn.cuda.driver import DeviceError, DeviceLostError, DeviceMemoryError, DeviceUnavailableError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y = np.ones((5, 3, 2)), np.arange(5.0)
REFUSED = {
    "cell": {"cell": "lstm_layernorm"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_estimator_refuses_by_name_before_any_work(name):
    model = RNNRegressor(**{"hidden_size": 3, "device": "cuda", **REFUSED[name]})
    with pytest.raises(ValueError, match=rf"^{name} was .*device='cuda' expects"):
        model.fit(X, Y)
    assert not hasattr(model, "network_")
    model.set_params(device="cpu", max_iter=1).fit(X, Y)


def test_a_layer_refuses_cells_that_it_has_no_kernel_for():
    with pytest.raises(ValueError, match="cell was 'lstm_layernorm'.*device='cuda' expects"):
        Recurrent("lstm_layernorm", 2, 3, device="cuda")


def test_device_is_one_of_two():
    with pytest.raises(ValueError, match="device was 'tpu'; expected one of cpu, cuda"):
        Recurrent("gru", 2, 3, device="tpu")


def driver_error(text):
    """Return an error as the driver raises it, of the class that there is here."""
    from numba.cuda.cudadrv.driver import CudaAPIError

    return CudaAPIError(text) if driver.SIMULATED else CudaAPIError(2, text)


def fail(monkeypatch, text):
    """Let every array that is asked for on the device raise an error."""

    def refuse(*arguments, **options):
        raise driver_error(text)

    monkeypatch.setattr(driver.cuda, "device_array", refuse)
    monkeypatch.setattr(driver.cuda, "to_device", refuse)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("CUDA_ERROR_OUT_OF_MEMORY", DeviceMemoryError), ("CUDA_ERROR_LAUNCH_FAILED", DeviceLostError)],
)
def test_a_failure_has_a_name_and_leaves_the_estimator_as_it_was(monkeypatch, text, kind):
    model = RNNRegressor(hidden_size=3, device="cuda", max_iter=1, random_state=0).fit(X, Y)
    expected = model.predict(X)
    with monkeypatch.context() as patch:
        fail(patch, text)
        for call in (lambda: model.fit(X, Y), lambda: model.predict(X), lambda: model.partial_fit(X, Y)):
            with pytest.raises(kind, match="device was 'cuda'") as caught:
                call()
            assert isinstance(caught.value, DeviceError)
            assert text in str(caught.value)
    np.testing.assert_allclose(model.set_params(device="cpu").predict(X), expected, atol=1e-6)
    model.partial_fit(X, Y)


def test_a_failing_layer_works_on_the_cpu(monkeypatch):
    layer = Recurrent("gru", 2, 3, device="cuda", random_state=0)
    with monkeypatch.context() as patch:
        fail(patch, "CUDA_ERROR_OUT_OF_MEMORY")
        with pytest.raises(DeviceMemoryError):
            layer.forward(X)
    expected = layer.forward(X)[0]
    layer.device = "cpu"
    np.testing.assert_allclose(layer.forward(X)[0], expected, atol=1e-6)


def test_predictions_take_half_as_many_samples_when_memory_runs_out(monkeypatch):
    from numbarnn.cuda.network import DeviceNetwork

    model = RNNRegressor(hidden_size=3, device="cuda", max_iter=1, random_state=0).fit(X, Y)
    expected, forward = model.predict(X), DeviceNetwork._forward

    def small(self, x, lengths):
        if len(x) > 2:
            raise DeviceMemoryError("no room")
        return forward(self, x, lengths)

    monkeypatch.setattr(DeviceNetwork, "_forward", small)
    np.testing.assert_allclose(model.predict(X), expected, atol=1e-6)


def test_an_old_device_is_refused(monkeypatch):
    monkeypatch.setattr(driver, "capability", lambda: (6, 1))
    with pytest.raises(DeviceUnavailableError, match=r"device was 'cuda', a GPU of compute capability 6\.1"):
        Recurrent("gru", 2, 3, device="cuda")


def test_no_device_is_said_with_the_line_that_installs(monkeypatch):
    monkeypatch.setattr(driver.cuda, "is_available", lambda: False)
    model = RNNRegressor(hidden_size=3, device="cuda")
    with pytest.raises(DeviceUnavailableError, match=r"device was 'cuda'.*pip install \"numbarnn\[cuda\]\""):
        model.fit(X, Y)
    model.set_params(device="cpu", max_iter=1).fit(X, Y)


def test_a_missing_compiler_is_not_taken_for_a_missing_gpu(monkeypatch):
    monkeypatch.setattr(driver.cuda, "is_available", lambda: False)
    for has_gpu, missing in ((True, "libNVVM, is not found"), (False, "no GPU is found")):
        monkeypatch.setattr(driver, "_has_gpu", lambda has_gpu=has_gpu: has_gpu)
        with pytest.raises(DeviceUnavailableError, match=missing):
            driver.check_device()

    def fail():
        raise foreign("DynamicLibNotFoundError", "cuda.pathfinder")("libnvvm.so")

    monkeypatch.setattr(driver.cuda, "is_available", fail)
    with pytest.raises(DeviceUnavailableError, match="device was 'cuda'.*libnvvm.so"):
        driver.check_device()


def test_a_driver_that_is_too_old_is_named_with_its_version(monkeypatch):
    monkeypatch.setattr(blas, "driver_version", lambda: (12, 8))
    with pytest.raises(DeviceUnavailableError, match=r"driver is for CUDA 12\.8; expected.* for CUDA 13"):
        blas._cublas.__wrapped__(0)


def test_errors_of_others_keep_their_name():
    with pytest.raises(ZeroDivisionError), driver.naming_errors():
        raise ZeroDivisionError("out of memory")


def foreign(name, module):
    """Return a class of errors as a library names it."""
    return type(name, (Exception,), {"__module__": module})


@pytest.mark.parametrize(
    ("error", "module", "text", "kind"),
    [
        # launches of numba-cuda go through cuda.core, whose errors are not numba's
        ("CUDAError", "cuda.core._utils.cuda_utils", "CUDA_ERROR_ILLEGAL_ADDRESS: invalid", DeviceLostError),
        ("CUDAError", "cuda.core._utils.cuda_utils", "CUDA_ERROR_OUT_OF_MEMORY", DeviceMemoryError),
        ("CudaAPIError", "numba.cuda.cudadrv.driver", "[719] CUDA_ERROR_LAUNCH_FAILED", DeviceLostError),
        ("CudaAPIError", "numba.cuda.cudadrv.driver", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
         DeviceUnavailableError),
        ("cuBLASError", "nvmath.bindings.cublas", "EXECUTION_FAILED (13)", DeviceLostError),
        ("cuBLASError", "nvmath.bindings.cublas", "ALLOC_FAILED (3)", DeviceMemoryError),
        ("NvvmSupportError", "numba.cuda.cudadrv.error", "libNVVM cannot be found", DeviceUnavailableError),
        ("nvJitLinkError", "cuda.bindings.nvjitlink", "ERROR_PTX_COMPILE", DeviceUnavailableError),
        ("DynamicLibNotFoundError", "cuda.pathfinder", "libnvrtc.so", DeviceUnavailableError),
        ("LinkerError", "numba.cuda.cudadrv.driver", "no ptxas", DeviceUnavailableError),
        ("nvJitLinkError", "cuda.bindings.nvjitlink", "ERROR_OUTDATED_LIBRARY (14)", DeviceUnavailableError),
        ("cuBLASError", "nvmath.bindings.cublas", "NOT_INITIALIZED (1)", DeviceUnavailableError),
        ("CUDAError", "cuda.core._utils.cuda_utils", "CUDA_ERROR_INVALID_IMAGE", DeviceUnavailableError),
        ("CudaAPIError", "numba.cuda.cudadrv.driver", "CUDA_ERROR_NO_DEVICE", DeviceUnavailableError),
        ("CUDAError", "cuda.core._utils.cuda_utils", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", DeviceError),
        ("CudaAPIError", "numba.cuda.cudadrv.driver", "CUDA_ERROR_INVALID_VALUE", DeviceError),
    ],
)  # fmt: skip
def test_errors_of_each_library_have_a_name(error, module, text, kind):
    with pytest.raises(kind, match="device was 'cuda'") as caught, driver.naming_errors():
        raise foreign(error, module)(text)
    assert type(caught.value) is kind
    assert text in str(caught.value)
    assert ("a new process" in str(caught.value)) == (kind is DeviceLostError)
    assert ("pip install -U nvidia-nvjitlink" in str(caught.value)) == ("OUTDATED" in text)
    assert type(caught.value.__cause__).__name__ == error


def test_the_names_are_those_that_the_libraries_have():
    from cuda.core._utils.cuda_utils import CUDAError
    from numba.cuda.cudadrv.error import CudaSupportError

    with pytest.raises(DeviceLostError), driver.naming_errors():
        raise CUDAError("CUDA_ERROR_ILLEGAL_ADDRESS")
    with pytest.raises(DeviceUnavailableError), driver.naming_errors():
        raise CudaSupportError("no driver")


def test_errors_of_the_compiler_about_equations_keep_their_name():
    from numba.core.errors import TypingError

    with pytest.raises(TypingError), driver.naming_errors():
        raise TypingError("a cell of one's own that cannot be compiled")


def test_a_launch_that_fails_leaves_the_estimator_as_it_was(monkeypatch):
    """A device is lost in the middle of an epoch, with everything allocated."""
    from cuda.core._utils.cuda_utils import CUDAError

    from numbarnn.cuda.program import Program

    model = RNNRegressor(hidden_size=3, device="cuda", max_iter=1, random_state=0).fit(X, Y)
    expected, before = model.predict(X), model.network_.parameters.copy()

    def fail(self):
        raise CUDAError("CUDA_ERROR_LAUNCH_FAILED: an exception on the device")

    with monkeypatch.context() as patch:
        patch.setattr(Program, "run", fail)
        for call in (lambda: model.fit(X, Y), lambda: model.partial_fit(X, Y), lambda: model.predict(X)):
            with pytest.raises(DeviceLostError, match="CUDA_ERROR_LAUNCH_FAILED"):
                call()
    assert (model.network_.parameters == before).all()
    np.testing.assert_allclose(model.set_params(device="cpu").predict(X), expected, atol=1e-6)
