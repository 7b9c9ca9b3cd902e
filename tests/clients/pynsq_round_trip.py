"""Publishes, consumes, requeues and touches with pynsq against the node whose address is given.

Ends with 0 and one line of counts when every message came, and with 1 and a reason otherwise.
"""

import sys

import nsq
import tornado.ioloop

TOPIC, CHANNEL, SINGLE, BATCHES, BATCH = "pynsq", "test", 200, 20, 10

address = sys.argv[1]
loop = tornado.ioloop.IOLoop.current()
wanted = {b"single %d" % i for i in range(SINGLE)}
wanted |= {b"batch %d %d" % (b, i) for b in range(BATCHES) for i in range(BATCH)}
wanted |= {b"deferred"}
attempts, finished, answers = {}, set(), []


def end(code, text):
    print(text, flush=True)
    loop.stop()
    sys.exit(code)


def answered(conn, data):
    if isinstance(data, nsq.Error):
        end(1, "a publish failed: %r" % data)
    answers.append(data)


def publish():
    if not any(conn.connected() for conn in writer.conns.values()):
        loop.call_later(0.05, publish)
        return
    for i in range(SINGLE):
        writer.pub(TOPIC, b"single %d" % i, callback=answered)
    for b in range(BATCHES):
        writer.mpub(TOPIC, [b"batch %d %d" % (b, i) for i in range(BATCH)], callback=answered)
    writer.dpub(TOPIC, 300, b"deferred", callback=answered)


def handle(message):
    body = message.body
    attempts[body] = attempts.get(body, 0) + 1
    if body not in wanted:
        end(1, "a message that nobody published: %r" % body)
    if message.attempts != attempts[body]:
        end(1, "%r came with attempts %d the %dth time" % (body, message.attempts, attempts[body]))
    message.enable_async()
    message.touch()
    if body.endswith(b"0") and message.attempts == 1:
        message.requeue(delay=0, backoff=False)
        return
    message.finish()
    finished.add(body)
    if finished == wanted:
        # Leaves the connection open for a moment, so that the last FIN is sent.
        loop.call_later(0.2, check)


def check():
    requeued = sum(1 for count in attempts.values() if count == 2)
    expected = sum(1 for body in wanted if body.endswith(b"0"))
    if requeued != expected:
        end(1, "%d messages were requeued instead of %d" % (requeued, expected))
    if answers != [b"OK"] * (SINGLE + BATCHES + 1):
        end(1, "not every publish was answered with OK: %d of them" % len(answers))
    end(0, "pynsq: %d finished, %d requeued" % (len(finished), requeued))


nsq.Reader(
    TOPIC, CHANNEL, message_handler=handle, nsqd_tcp_addresses=[address], max_in_flight=50,
    heartbeat_interval=1,
)
writer = nsq.Writer([address], heartbeat_interval=1)
loop.call_later(0.05, publish)
loop.call_later(90, lambda: end(1, "%d of %d messages after 90 s" % (len(finished), len(wanted))))
loop.start()
