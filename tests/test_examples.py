"""Each example runs as it stands; those that train do so for two epochs, and nothing else about them is changed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from isolation import LIMIT

EXAMPLES = {path.stem: path for path in (Path(__file__).parent.parent / "examples").glob("*.py")}
TRAINING = {
    "classify_patches": r"right on (\d+\.\d)% of 400 held-out patches",
    "denoise_ct": r"network +(\d+\.\d) dB",
    "detect_lesions": r"matched filter (\d+\.\d\d) at",
    "digits": r"right on (\d+\.\d)% of 450 test digits",
    "segment_volume": r"Dice on the left half, which was never trained on: (0\.\d\d)",
}
LEAST = {"classify_patches": 50, "denoise_ct": 25, "detect_lesions": 5, "digits": 50, "segment_volume": 0.01}


def test_every_example_is_run():
    # The one about Numba is run where its compiler is tested.
    assert set(EXAMPLES) == {*TRAINING, "numba_loop"}


@pytest.mark.parametrize("name", TRAINING)
def test_example_trains_and_answers(name, tmp_path):
    for extra in ("pydicom", "nibabel", "skimage", "sklearn"):
        pytest.importorskip(extra)
    source, count = re.subn(r"^EPOCHS = \d+$", "EPOCHS = 2", EXAMPLES[name].read_text(), flags=re.MULTILINE)
    assert count == 1
    (tmp_path / "example.py").write_text(source)
    command = [sys.executable, "-W", "error", "example.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    answer = re.search(TRAINING[name], result.stdout)
    assert answer, result.stdout
    assert float(answer[1]) >= LEAST[name]


def test_pictures_of_the_story_are_drawn(tmp_path):
    for extra in ("pydicom", "nibabel", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    docs = Path(__file__).parent.parent / "docs"
    command = [sys.executable, "-W", "error", str(docs / "pictures.py"), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stderr
    shown = re.findall(r"\(pictures/(\w+\.png)\)", (docs / "how-a-cnn-sees.md").read_text())
    assert sorted(shown) == sorted(path.name for path in tmp_path.iterdir())
    assert sorted(shown) == sorted(path.name for path in (docs / "pictures").iterdir())
