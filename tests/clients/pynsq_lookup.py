"""Consumes a topic with pynsq, which is told nothing but where one node answers lookups.

Arguments: lookup address, topic, channel, count. Prints one finished message a line; ends with 0 after
`count` different ones (0: never, until it is killed), and with 1 and a reason when that takes too long.
"""

import sys

import nsq
import tornado.ioloop

lookup, topic, channel, count = sys.argv[1:5]
wanted = int(count)
loop = tornado.ioloop.IOLoop.current()
bodies = set()


def end(code, text=None):
    if text:
        print(text, file=sys.stderr, flush=True)
    loop.stop()
    sys.exit(code)


def handle(message):
    body = message.body.decode()
    bodies.add(body)
    print(body, flush=True)
    if len(bodies) == wanted:
        # Leaves the connection open for a moment, so that the last FIN is sent.
        loop.call_later(0.2, end, 0)
    return True


nsq.Reader(
    topic, channel, message_handler=handle, lookupd_http_addresses=["http://" + lookup],
    lookupd_poll_interval=1, lookupd_poll_jitter=0.01, max_in_flight=50, heartbeat_interval=1,
)
if wanted > 0:
    loop.call_later(90, lambda: end(1, "%d of %d messages after 90 s" % (len(bodies), wanted)))
loop.start()
