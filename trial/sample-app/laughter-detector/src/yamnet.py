"""Stand-in for loading YAMNet: asks the machine for what TensorFlow, TF Hub and Numba ask for.

Where a sandbox forbids one of these, the sample refuses to start. Giggles can be quieter about it and find no laughter
ever after, which is why a trial must find out.
"""

import mmap
import os
import socket
import tempfile
from pathlib import Path

_PAGE = 4096
_MIB = 1024 * 1024


class ModelError(RuntimeError):
    """The stand-in model could not be loaded; the message says what the sandbox or environment lacks."""


def touched_memory(mebibytes: int) -> bytearray:
    """Allocate memory that really counts as resident.

    Args:
        mebibytes: size in MiB, 0 or more.

    Returns:
        A buffer of that size, each page of it written to.
    """
    # Filled, not reserved: memory that nobody wrote to is address space, which no memory budget notices.
    return bytearray(b"\x01") * (mebibytes * _MIB)


def _write_cache_file(folder: Path, variable: str) -> None:
    scratch = folder / f".sample-yamnet.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Web app and nightly job share these folders and may load at the same moment.
        scratch.write_text("written by the sample app while loading its stand-in model\n", encoding="utf-8")
        scratch.replace(folder / "sample-yamnet")
    except OSError as error:
        raise ModelError(
            f"The model cache {folder} cannot be written ({error.strerror}). TF Hub and Numba write there when the "
            f"app starts. Point {variable} at a persistent folder that this user may write, and open it in the sandbox."
        ) from error


def _map_executable_page() -> None:
    try:
        mmap.mmap(-1, _PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError as error:
        raise ModelError(
            f"The system refused memory that is writable and executable ({error.strerror}). TensorFlow and LLVM "
            "compile into such memory. Leave MemoryDenyWriteExecute off for this service."
        ) from error


def _open_internet_socket() -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError as error:
        raise ModelError(
            f"The system refused an IPv4 socket ({error.strerror}). The model's class map, Limitless and the database "
            "are reached over the network. Allow AF_INET and AF_INET6 in RestrictAddressFamilies."
        ) from error


def load() -> bytearray:
    """Load the stand-in model.

    SAMPLE_MODEL_MB (MiB, default 20) sets its size; TFHUB_CACHE_DIR and NUMBA_CACHE_DIR say where the caches lie. Their
    defaults are those of the libraries: the temporary folder, and a folder beside the code, which a release does not
    let the app write.

    Returns:
        The model's memory, to be kept for the life of the process.

    Raises:
        ModelError: a cache folder cannot be written, or the system refuses executable memory or a socket.
    """
    _map_executable_page()
    _open_internet_socket()
    hub = os.environ.get("TFHUB_CACHE_DIR") or os.path.join(tempfile.gettempdir(), "tfhub_modules")
    _write_cache_file(Path(hub), "TFHUB_CACHE_DIR")
    numba = os.environ.get("NUMBA_CACHE_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__")
    _write_cache_file(Path(numba), "NUMBA_CACHE_DIR")
    return touched_memory(int(os.environ.get("SAMPLE_MODEL_MB", "20")))
