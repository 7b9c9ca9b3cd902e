"""One cell of the client matrix with ansq. See matrix/README for the arguments and what is to be shown."""

import asyncio
import sys

import ansq

tcp, http, topic, transport, ca = sys.argv[1:6]
wanted = {b"single %d" % i for i in range(50)} | {b"batch %d" % i for i in range(50)}
attempts, finished = {}, set()


async def consume():
    if transport == "lookup":
        where = {"lookupd_http_addresses": [http], "lookupd_poll_interval": 1000}
    else:
        where = {"nsqd_tcp_addresses": [tcp]}
    reader = await ansq.create_reader(topic=topic, channel="test", **where)
    async for message in reader.messages():
        body = message.body
        attempts[body] = attempts.get(body, 0) + 1
        if body.endswith(b"0") and attempts[body] == 1:
            await message.req(0)
            continue
        await message.fin()
        finished.add(body)
        if finished == wanted:
            await asyncio.sleep(0.2)
            return


async def main():
    writer = await ansq.create_writer(nsqd_tcp_addresses=[tcp])
    for i in range(50):
        await writer.pub(topic, b"single %d" % i)
    await writer.mpub(topic, *[b"batch %d" % i for i in range(50)])
    try:
        await asyncio.wait_for(consume(), 40)
    except asyncio.TimeoutError:
        pass
    requeued = sum(1 for count in attempts.values() if count == 2)
    print("%d finished, %d requeued" % (len(finished), requeued), flush=True)
    sys.exit(0 if finished == wanted and requeued == 10 else 1)


asyncio.run(main())
