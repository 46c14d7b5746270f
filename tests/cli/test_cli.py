"""The doctor and the command line, in this environment and in broken ones."""

import os
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

import el_attention
from crossed import REST
from el_attention import cli
from el_attention.cli import doctor, gpu, main
from el_attention.cli.doctor import Finding, Level
from el_attention.ops import check, extension


def run_module(*arguments, cwd, first_on_path=()):
    """Runs ``python -m el_attention`` away from the source tree."""
    path = [*map(str, first_on_path), str(doctor.user_dir().parent)]
    return subprocess.run(
        [sys.executable, "-m", "el_attention", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def shadow(folder, name, source):
    """Makes a package that stands before that of the environment."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)


def findings_by_topic():
    return {finding.topic: finding for finding in doctor.collect()}


def test_user_dir_prints_the_path_and_nothing_else(tmp_path):
    result = run_module("user-dir", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{doctor.user_dir()}\n"
    assert (doctor.user_dir() / "__init__.py").is_file()


@pytest.mark.parametrize("arguments", [(), ("doctor",)])
def test_doctor_reports_a_usable_installation(arguments, capsys):
    assert cli.main(arguments) == 0
    report = capsys.readouterr().out
    for expected in (
        el_attention.__version__,
        sys.executable,
        torch.__version__,
        metadata.version("numpy"),
        "el_translation",
        "extension",
        "CUDA",
        str(doctor.user_dir()),
    ):
        assert expected in report
    assert report.splitlines()[-1].split() == ["verdict", "usable"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'fairseq'\", name='fairseq')",
            ["No module named 'fairseq'", "remedy: pip install"],
        ),
        pytest.param(
            "raise RuntimeError('half installed')",
            ["RuntimeError: half installed", "remedy: "],
            marks=REST,
        ),
    ],
)
def test_doctor_survives_missing_and_broken_fairseq(tmp_path, source, expected):
    shadow(tmp_path, "fairseq", source)
    shadow(tmp_path, "transformers", "raise ModuleNotFoundError(name='transformers')")
    result = run_module(cwd=tmp_path, first_on_path=[tmp_path])
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    for text in (*expected, "not registered", "NOT usable"):
        assert text in result.stdout
    path = run_module("user-dir", cwd=tmp_path, first_on_path=[tmp_path])
    assert (path.returncode, path.stdout) == (0, f"{doctor.user_dir()}\n")


def test_doctor_is_content_with_transformers_alone(tmp_path):
    pytest.importorskip("transformers")
    shadow(tmp_path, "fairseq", "raise ModuleNotFoundError(name='fairseq')")
    result = run_module(cwd=tmp_path, first_on_path=[tmp_path])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "import        warning: ModuleNotFoundError" in result.stdout
    assert result.stdout.splitlines()[-1].split() == ["verdict", "usable"]


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("4.56.2", Level.WARNING),
        ("4.57.6", Level.OK),
        ("5.3.0", Level.WARNING),
        ("5.24.1", Level.OK),
        ("5.240", Level.WARNING),
    ],
)
def test_doctor_warns_of_versions_of_transformers_that_were_not_tried(monkeypatch, version, level):
    pytest.importorskip("transformers")
    monkeypatch.setattr(metadata, "version", lambda name: version)
    finding = findings_by_topic()["transformers"]
    assert (finding.level, version in finding.text) == (level, True)
    assert ("pip install 'transformers==5.24.*'" in finding.remedy) == (level is Level.WARNING)


@pytest.mark.parametrize(
    ("error", "level", "text"),
    [
        (ModuleNotFoundError("No module", name="transformers"), Level.OK, "not installed"),
        (ModuleNotFoundError("No module", name="huggingface_hub"), Level.WARNING, "No module"),
        (RuntimeError("torchaudio does not fit"), Level.WARNING, "torchaudio does not fit"),
    ],
)
def test_doctor_says_why_transformers_cannot_be_used(monkeypatch, error, level, text):
    def fail(name):
        raise error

    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    monkeypatch.setattr(extension, "unsupported", "not built: this test does without")
    finding = findings_by_topic()["transformers"]
    assert (finding.level, text in finding.text) == (level, True)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="fairseq 0.12.2 works on Python 3.10")
def test_doctor_names_the_remedy_for_official_fairseq_on_new_pythons(monkeypatch):
    error = ValueError("mutable default <class 'CommonConfig'> for field common is not allowed")
    monkeypatch.setattr(el_attention, "fairseq_error", error)
    finding = findings_by_topic()["import"]
    assert finding.level is Level.ERROR
    assert "fairseq-fixed" in finding.remedy


@pytest.mark.parametrize(
    ("providers", "text", "level"),
    [
        ([], "no installed distribution", Level.OK),
        (["fairseq-fixed", "fairseq-fixed"], "fairseq-fixed 1.0", Level.OK),
        (["fairseq", "ve-fairseq"], "fairseq 1.0 and ve-fairseq 1.0", Level.WARNING),
    ],
)
def test_doctor_names_every_provider_of_fairseq(monkeypatch, providers, text, level):
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"fairseq": providers})
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    finding = findings_by_topic()["fairseq"]
    assert text in finding.text
    assert finding.level is level


def test_doctor_reports_an_unregistered_plugin(monkeypatch):
    from fairseq.tasks import TASK_REGISTRY

    monkeypatch.delitem(TASK_REGISTRY, "el_translation")
    assert findings_by_topic()["plugin"].level is Level.ERROR


def test_doctor_reports_an_old_torch(monkeypatch):
    old = type(torch.__version__)("2.5.1")
    monkeypatch.setattr(torch, "__version__", old)
    assert findings_by_topic()["torch"].level is Level.ERROR


@pytest.mark.parametrize(
    ("version", "level"), [("1.26.4", Level.OK), ("2.0.0", Level.WARNING), ("10.1", Level.WARNING)]
)
def test_doctor_warns_of_numpy_2(monkeypatch, version, level):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    finding = findings_by_topic()["numpy"]
    assert (finding.level, version in finding.text) == (level, True)
    assert ("numpy<2" in finding.remedy) == (level is Level.WARNING)


def extension_finding(monkeypatch, instruction_set="AVX2", cuda=None, architectures=()):
    """The finding where an extension is loaded that says this of itself."""
    information = {
        "torch": "2.13.0",
        "instruction_set": instruction_set,
        "cuda": cuda,
        "gpu_architectures": list(architectures),
    }
    module = SimpleNamespace(build_information=lambda: information)
    monkeypatch.setitem(sys.modules, "el_attention._C", module)
    monkeypatch.setattr(extension, "unsupported", None)
    return findings_by_topic()["extension"]


@pytest.mark.parametrize(
    ("instruction_set", "text"),
    [
        ("AVX2", "CPU operators (AVX2), built for torch 2.13.0"),
        ("", "no CPU operators, because torch finds no AVX2 here, built for torch 2.13.0"),
    ],
)
def test_doctor_names_the_instruction_set_in_use(monkeypatch, instruction_set, text):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finding = extension_finding(monkeypatch, instruction_set)
    assert finding.text == text
    assert finding.level is Level.OK


def test_doctor_names_the_gpus_that_the_extension_is_for(monkeypatch):
    finding = extension_finding(monkeypatch, cuda="13.0", architectures=[80, 90])
    assert "and CUDA 13.0 operators (sm_80 sm_90), built for torch 2.13.0" in finding.text
    assert finding.level is Level.OK


def test_doctor_warns_of_a_gpu_without_operators(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    finding = extension_finding(monkeypatch)
    assert finding.level is Level.WARNING
    assert "EL_ATTENTION_CUDA=1" in finding.remedy


def test_doctor_says_why_there_is_no_extension(monkeypatch):
    monkeypatch.setattr(extension, "unsupported", "built for torch 2.6.0, running torch 2.13.0")
    finding = findings_by_topic()["extension"]
    assert "built for torch 2.6.0, running torch 2.13.0" in finding.text
    assert finding.level is Level.WARNING
    assert "pip install --no-build-isolation" in finding.remedy


def test_doctor_lists_cuda_devices(monkeypatch):
    device = SimpleNamespace(name="Some GPU", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    findings = findings_by_topic()
    assert findings["CUDA"].text == "torch is built for CUDA 13.0: sm_80 sm_90"
    assert findings["cuda:0"].text == "Some GPU, sm_90, 80.0 GiB"


def test_doctor_survives_a_broken_cuda_driver(monkeypatch):
    def fail(index):
        raise RuntimeError("driver too old")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", fail)
    finding = findings_by_topic()["CUDA"]
    assert "driver too old" in finding.text
    assert finding.level is Level.WARNING


def test_report_puts_remedies_below_their_finding():
    report = doctor.render([Finding("part", "broken", Level.ERROR, "mend it")]).splitlines()
    assert [line.split(maxsplit=1) for line in report] == [
        ["part", "error: broken"],
        ["remedy:", "mend it"],
        ["verdict", "NOT usable, see the errors above"],
    ]


def test_version_and_wrong_arguments(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"el-attention {el_attention.__version__}\n"
    with pytest.raises(SystemExit, match="2"):
        cli.main(["no-such-command"])
    assert "invalid choice: 'no-such-command'" in capsys.readouterr().err


def test_doctor_tries_every_operator_on_a_device(monkeypatch, capsys):
    monkeypatch.setattr(check, "MANY", check.FIRST)
    monkeypatch.setattr(gpu, "gpus", lambda: [torch.device("cpu")])
    if extension.unsupported is not None:
        pytest.skip(f"the compiled operators are {extension.unsupported}")
    assert main(["doctor", "--gpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| cpu |")]
    assert len(rows) == 4 * len(check.OPERATORS)
    assert all(row.endswith("| right |") for row in rows)
    assert lines[-1] == "verdict: all operators are right"


def test_doctor_names_what_is_wrong_on_a_device(monkeypatch, capsys):
    def run(operator, device, dtype, effort):
        fault = "two | lines\nof it" if operator == "weights" else None
        return check.Outcome(operator, dtype, 1, 0.1, fault)

    monkeypatch.setattr(check, "run", run)
    monkeypatch.setattr(extension, "unsupported", None)
    monkeypatch.setattr(gpu, "gpus", lambda: [torch.device("cpu")])
    assert main(["doctor", "--gpu"]) == 1
    out = capsys.readouterr().out
    assert "| cpu | weights | float16 | 1 |  | WRONG: two / lines of it |" in out
    assert "| cpu | attend | float16 | 1 | 10.0% | right |" in out
    assert out.splitlines()[-1] == "verdict: 4 are WRONG: please report this"


def test_doctor_says_why_no_gpu_was_tried(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(extension, "unsupported", None)
    assert main(["doctor", "--gpu"]) == 1
    assert "nothing was tried, because there is no GPU that torch" in capsys.readouterr().out
