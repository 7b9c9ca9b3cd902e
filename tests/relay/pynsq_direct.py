"""Consumes a topic with pynsq, which is told nothing but the addresses of some nodes.

Arguments: addresses with commas between them, topic, channel. Prints one finished message a line, until it is
killed.
"""

import sys

import nsq

addresses, topic, channel = sys.argv[1:4]


def handle(message):
    print(message.body.decode(), flush=True)
    return True


nsq.Reader(
    topic, channel, message_handler=handle, nsqd_tcp_addresses=addresses.split(","), max_in_flight=50,
    heartbeat_interval=1, max_tries=0,
)
nsq.run()
