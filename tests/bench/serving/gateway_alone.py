"""A gateway of raylm's as a process of its own, in front of one replica that somebody else runs.

python -m tests.bench.serving.gateway_alone PORT REPLICA_PORT KEY_DIGEST
"""

from __future__ import annotations

import asyncio
import sys

from raylm.serve.config import GatewaySpec
from raylm.serve.control import Control, ControlSettings
from raylm.serve.directory import Address, Load, Orders
from raylm.serve.gateway.gateway import Gateway
from raylm.serve.gateway.settings import GatewaySettings, ModelFacts
from raylm.serve.guards.request_rate import RequestRate
from raylm.serve.guards.token_rate import TokenRate
from tests.serve.gateway.running import Direct

GUARDS = (RequestRate(per_minute=1_000_000), TokenRate(per_minute=100_000_000))


async def serve(port: int, replica: int, digest: str) -> None:
    """Until it is ended."""
    control = Control(ControlSettings({"raylm": Orders()}))
    await control.register(Address("r", "raylm", "127.0.0.1", replica, "secret", "", "f00d", "float32", 4096))
    models = (ModelFacts("raylm", "model", most_ongoing=100_000),)
    settings = GatewaySettings("127.0.0.1", port, models, GatewaySpec(), key_digest=digest, guards=GUARDS)
    await Gateway(settings, Direct(control)).start()
    print("listening", flush=True)
    while True:
        await asyncio.sleep(0.5)
        await control.beat("r", Load())


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
