"""What ``el-attention`` reports: is everything here that generation with EL-attention needs?"""

import enum
import importlib
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

import el_attention
from el_attention.ops import extension

_INSTALL_FAIRSEQ = (
    "pip install 'pip<24.1', then pip install fairseq==0.12.2"
    if sys.version_info < (3, 11)
    else "pip install cython numpy setuptools wheel ninja, "
    "then pip install --no-build-isolation fairseq-fixed"
)
# The versions whose tests were run: the front end stands on methods that versions change.
TRIED_TRANSFORMERS = ("4.57", "5.24")


class Level(enum.Enum):
    """How much a finding matters: ``ERROR`` means that the plugin cannot be used."""

    OK = ""
    WARNING = "warning: "
    ERROR = "error: "


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what was looked at.
        text: what was found.
        level: whether that is a problem.
        remedy: what to do about it, empty if there is nothing to do.
    """

    topic: str
    text: str
    level: Level = Level.OK
    remedy: str = ""


def user_dir() -> Path:
    """The folder to give to fairseq as ``--user-dir``: the package itself."""
    return Path(el_attention.__path__[0])


def collect() -> list[Finding]:
    """Looks at everything the plugin depends on; problems are findings, never exceptions."""
    return [
        Finding("el_attention", el_attention.__version__),
        Finding(
            "Python",
            f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})",
        ),
        _torch(),
        _numpy(),
        _fairseq_provider(),
        _fairseq_import(),
        _plugin(),
        _transformers(),
        _extension(),
        *_cuda(),
        Finding("user-dir", str(user_dir())),
    ]


def is_usable(findings: Sequence[Finding]) -> bool:
    """Whether no finding is an error."""
    return all(finding.level is not Level.ERROR for finding in findings)


def render(findings: Sequence[Finding]) -> str:
    """The report as text: a line per finding, remedies below their finding, the verdict last."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.topic:<14}{finding.level.value}{finding.text}")
        if finding.remedy:
            lines.append(f"{'':<14}remedy: {finding.remedy}")
    verdict = "usable" if is_usable(findings) else "NOT usable, see the errors above"
    return "\n".join([*lines, f"{'verdict':<14}{verdict}"])


def _torch() -> Finding:
    if torch.__version__ >= "2.6":  # a TorchVersion: compares as a version, not as text
        return Finding("torch", str(torch.__version__))
    return Finding(
        "torch", f"{torch.__version__} is too old", Level.ERROR, "pip install 'torch>=2.6'"
    )


def _numpy() -> Finding:
    try:
        version = metadata.version("numpy")
    except metadata.PackageNotFoundError:
        return Finding("numpy", "not installed", Level.ERROR, "pip install 'numpy<2'")
    if version.startswith("1."):
        return Finding("numpy", version)
    return Finding(
        "numpy",
        f"{version}: fairseq cannot load data sets of single sentences "
        "(language_modeling with --sample-break-mode eos, denoising) with numpy 2",
        Level.WARNING,
        "pip install 'numpy<2'",
    )


def _fairseq_provider() -> Finding:
    # packages_distributions() names a distribution once per file where it has no top_level.txt.
    names = sorted(set(metadata.packages_distributions().get("fairseq", ())))
    text = " and ".join(f"{name} {metadata.version(name)}" for name in names)
    if len(names) > 1:
        return Finding(
            "fairseq",
            f"provided by {text}, which overwrite each other's files",
            Level.WARNING,
            f"pip uninstall {' '.join(names)}, then {_INSTALL_FAIRSEQ}",
        )
    return Finding("fairseq", text or "no installed distribution provides it")


def _fairseq_import() -> Finding:
    error = el_attention.fairseq_error
    if error is None:
        return Finding("import", "fairseq and the plugin import")
    level = Level.ERROR
    if isinstance(error, ModuleNotFoundError) and error.name == "fairseq":
        remedy = _INSTALL_FAIRSEQ
        if _transformers_error() is None:  # the other front end is enough
            level = Level.WARNING
    elif sys.version_info >= (3, 11) and "mutable default" in str(error):
        remedy = (
            "the official fairseq 0.12.2 does not run on Python 3.11 and newer: "
            f"pip uninstall fairseq, then {_INSTALL_FAIRSEQ}"
        )
    else:
        remedy = "python -c 'import el_attention; raise el_attention.fairseq_error' shows where"
    return Finding("import", f"{type(error).__name__}: {error}", level, remedy)


def _plugin() -> Finding:
    if el_attention.fairseq_error is not None:
        return Finding("plugin", "not registered: the import failed")
    from fairseq.tasks import TASK_REGISTRY

    tasks = sorted(name for name in TASK_REGISTRY if name.startswith("el_"))
    if "el_translation" not in tasks:
        return Finding(
            "plugin",
            f"el_translation is not a registered task (found: {', '.join(tasks) or 'none'})",
            Level.ERROR,
        )
    return Finding("plugin", f"registered tasks: {', '.join(tasks)}")


def _transformers() -> Finding:
    error = _transformers_error()
    if isinstance(error, ModuleNotFoundError) and error.name == "transformers":
        return Finding("transformers", "not installed: needed for its models only")
    if error is not None:
        return Finding(
            "transformers",
            f"{type(error).__name__}: {error}",
            Level.WARNING,
            "python -c 'import el_attention.transformers_plugin' shows where",
        )
    version = metadata.version("transformers")
    if ".".join(version.split(".")[:2]) in TRIED_TRANSFORMERS:
        return Finding("transformers", version)
    return Finding(
        "transformers",
        f"{version} was not tried, {' and '.join(TRIED_TRANSFORMERS)} were: generation may fail "
        "or give other results",
        Level.WARNING,
        f"pip install 'transformers=={TRIED_TRANSFORMERS[-1]}.*'",
    )


def _transformers_error() -> Exception | None:
    try:
        importlib.import_module("el_attention.transformers_plugin")
    except Exception as error:  # it fails in many ways, as where torchaudio does not fit torch
        return error
    return None


def _extension() -> Finding:
    if extension.unsupported is not None:
        return Finding(
            "extension",
            f"{extension.unsupported}; the operators are the slower pure-PyTorch ones",
            Level.WARNING,
            "with a C++ compiler, in el_attention's source tree: "
            "pip install ninja, then pip install --no-build-isolation .",
        )
    built = importlib.import_module("el_attention._C").build_information()
    text = f"CPU operators ({built['instruction_set']})"
    if not built["instruction_set"]:
        text = "no CPU operators, because torch finds no AVX2 here"
    if built["cuda"] is not None:
        architectures = " ".join(f"sm_{number}" for number in built["gpu_architectures"])
        text += f" and CUDA {built['cuda']} operators ({architectures})"
    text += f", built for torch {built['torch']}"
    if built["cuda"] is None and torch.cuda.is_available():
        return Finding(
            "extension",
            f"{text}; on a GPU the operators are the slower pure-PyTorch ones",
            Level.WARNING,
            "with nvcc, in el_attention's source tree: "
            "EL_ATTENTION_CUDA=1 pip install --no-build-isolation .",
        )
    return Finding("extension", text)


def _cuda() -> list[Finding]:
    if torch.version.cuda is None:
        return [Finding("CUDA", "torch is built without CUDA")]
    built = f"torch is built for CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        return [Finding("CUDA", f"{built}; no usable device")]
    try:
        devices = [_cuda_device(index) for index in range(torch.cuda.device_count())]
    except RuntimeError as error:
        return [
            Finding("CUDA", f"{built}; {error}", Level.WARNING, "check the driver (nvidia-smi)")
        ]
    return [Finding("CUDA", f"{built}: {' '.join(torch.cuda.get_arch_list())}"), *devices]


def _cuda_device(index: int) -> Finding:
    device = torch.cuda.get_device_properties(index)
    memory = f"{device.total_memory / 2**30:.1f} GiB"
    return Finding(f"cuda:{index}", f"{device.name}, sm_{device.major}{device.minor}, {memory}")
