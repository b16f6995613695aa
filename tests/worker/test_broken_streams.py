"""What a worker makes of streams on which something is missing or late."""

import asyncio

from mainspring.v1 import worker_pb2 as wire
from tests.worker.scripted import coordinators, running, until

_longest_s = 60


def test_a_message_that_is_missing_ends_the_stream_and_the_next_one_states_what_is_there() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address]):
            first = await coordinator.session()
            first.skip()
            first.assign(1)
            second = await coordinator.session()
            assert second.hello.incarnation == first.hello.incarnation
            await second.message(lambda m: m.inventory)
            assert not second.results()

    asyncio.run(asyncio.wait_for(scene(), _longest_s))


def test_a_welcome_of_an_incarnation_that_is_over_is_not_taken() -> None:
    async def scene() -> None:
        async with coordinators(2) as [quick, slow]:
            slow.welcomes.clear()
            async with running([quick.address]):
                first = await quick.session()
                await until(lambda: slow.hellos)
                first.say(goodbye=wire.Goodbye(reason=wire.GOODBYE_REASON_INCARNATION_LOST, message="lost"))
                present = (await quick.session()).hello.incarnation
                slow.welcomes.set()
                late = await slow.session()
                assert late.hello.incarnation == first.hello.incarnation
                await late.message(lambda m: m.HasField("goodbye"))
                assert (await slow.session()).hello.incarnation == present

    asyncio.run(asyncio.wait_for(scene(), _longest_s))
