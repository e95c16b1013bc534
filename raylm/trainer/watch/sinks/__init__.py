"""Where metrics go: the closed set of cards that a `sinks` list may hold."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.trainer.watch.sinks.mlflow import Mlflow
from raylm.trainer.watch.sinks.prometheus import Prometheus
from raylm.trainer.watch.sinks.tensorboard import Tensorboard
from raylm.trainer.watch.sinks.wandb import Wandb

AnySink = Annotated[Tensorboard | Wandb | Mlflow | Prometheus | CustomCard, Field(discriminator="kind")]
