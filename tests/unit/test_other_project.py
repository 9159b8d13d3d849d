"""pip installs another project named `broker` into the same folder without a word: ours warns."""

import sys
import warnings
from pathlib import Path

import pytest

from broker.other_project import warn_of_other_project
from tests.child import finished


def site_packages(folder: Path, *names: str) -> Path:
    for name in ("broker", "rollout_broker-0.1.0.dist-info", *names):
        (folder / name).mkdir()
    return folder / "broker"


@pytest.mark.parametrize("name", ["broker-0.8.dist-info", "broker-0.8.egg-info"])
def test_the_other_project_in_the_same_folder_is_told(tmp_path: Path, name: str):
    with pytest.warns(UserWarning, match=r"broker 0\.8, another project, is installed in .*Uninstall both"):
        warn_of_other_project(site_packages(tmp_path, name))


def test_other_distributions_are_not(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_project(site_packages(tmp_path, "message_broker-1.0.dist-info", "brokers-2.dist-info"))


@pytest.mark.parametrize(
    "code", ["import broker", "import broker.__main__ as m, sys; sys.argv[1:] = ['--help']; m.entry_point()"]
)
def test_import_and_command_warn_once(tmp_path: Path, code: str):
    package = Path(sys.modules["broker"].__file__ or "").parent
    (tmp_path / "broker").symlink_to(package)
    (tmp_path / "broker-0.8.dist-info").mkdir()
    ended = finished("-c", code, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    assert ended.code == 0
    assert ended.err.count("another project, is installed") == 1
