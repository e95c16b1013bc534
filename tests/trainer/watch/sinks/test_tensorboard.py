"""The `tensorboard` sink: TensorBoard's own reader reads its files."""

from tests.trainer.watch.rows import falling, run


def test_what_is_written_is_read(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from raylm.trainer.watch.sinks.tensorboard import Tensorboard

    writer = Tensorboard().open(run(tmp_path))
    for row in falling(5):
        writer.write(row["step"], {"loss": row["loss"]})
    writer.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, round(event.value, 4)) for event in found.Scalars("loss")] == [
        (row["step"], round(row["loss"], 4)) for row in falling(5)
    ]
