"""`raylm convert`: options are the keys of the formats, and mistakes in them are told in words."""

from __future__ import annotations

import pytest

from raylm.cli import main
from raylm.convert import CARDS


def test_every_format_of_plain_weights_can_be_asked_for():
    assert set(CARDS) == {
        "gguf", "hugging_face", "koboldcpp", "lm_studio", "megatron", "mlx", "ollama", "onnx", "text_generation_webui",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "hugging_face", "--tensor", "2"], "--tensor: hugging_face: unknown key. Known: dtype, kind."),
        (["--to", "megatron", "--ckpt-format", "zarr"], "--ckpt-format: megatron: Input should be 'torch' or 'torch_dist'"),
        (["--to", "megatron", "--tensor", "0"], "--tensor: megatron: Input should be greater than 0"),
    ],
)
def test_a_key_of_another_format_or_a_wrong_value_is_refused(tmp_path, capsys, options, message):
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "out"), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_that_holds_files_is_refused(tmp_path, capsys):
    (tmp_path / "own.txt").write_text("mine")
    assert main(["convert", str(tmp_path / "model"), str(tmp_path), "--to", "megatron"]) == 1
    assert "not empty" in capsys.readouterr().err


def test_only_what_can_be_read_stands_behind_from(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "model", "out", "--from", "hugging_face"])
    assert "choose from" in capsys.readouterr().err


def test_like_is_for_what_is_read(tmp_path, capsys):
    assert main(["convert", str(tmp_path), str(tmp_path / "out"), "--to", "hugging_face", "--like", str(tmp_path)]) == 1
    assert "--like is for --from" in capsys.readouterr().err
