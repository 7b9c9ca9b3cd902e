"""One cell of the client matrix with pynsq. See matrix/README for the arguments and what is to be shown."""

import ssl
import sys

import nsq
import tornado.ioloop

tcp, http, topic, transport, ca = sys.argv[1:6]
layers = set(transport.split("+"))
loop = tornado.ioloop.IOLoop.current()
wanted = {b"single %d" % i for i in range(50)} | {b"batch %d" % i for i in range(50)}
attempts, finished, answers = {}, set(), []
options = {
    "tls_v1": "tls" in layers, "snappy": "snappy" in layers, "deflate": "deflate" in layers,
    "tls_options": {"ca_certs": ca, "cert_reqs": ssl.CERT_REQUIRED} if "tls" in layers else None,
    "heartbeat_interval": 1,
}


def end(code, text):
    print(text, flush=True)
    loop.stop()
    sys.exit(code)


def answered(conn, data):
    if data != b"OK":
        end(1, "a publish was answered with %r" % data)
    answers.append(data)


def publish():
    if not any(conn.connected() for conn in writer.conns.values()):
        loop.call_later(0.05, publish)
        return
    for i in range(50):
        writer.pub(topic, b"single %d" % i, callback=answered)
    writer.mpub(topic, [b"batch %d" % i for i in range(50)], callback=answered)


def handle(message):
    body = message.body
    attempts[body] = attempts.get(body, 0) + 1
    message.enable_async()
    if body.endswith(b"0") and attempts[body] == 1:
        message.requeue(delay=0, backoff=False)
        return
    message.finish()
    finished.add(body)
    if finished == wanted:
        loop.call_later(0.2, check)


def check():
    requeued = sum(1 for count in attempts.values() if count == 2)
    if requeued != 10 or len(answers) != 51:
        end(1, "%d requeued, %d answers" % (requeued, len(answers)))
    end(0, "100 finished, 10 requeued")


where = {"nsqd_tcp_addresses": [tcp]}
if "lookup" in layers:
    where = {"lookupd_http_addresses": ["http://" + http], "lookupd_poll_interval": 1, "lookupd_poll_jitter": 0.01}
nsq.Reader(topic, "test", message_handler=handle, max_in_flight=20, **where, **options)
writer = nsq.Writer([tcp], **options)
loop.call_later(0.05, publish)
loop.call_later(40, lambda: end(1, "%d of 100 after 40 s" % len(finished)))
loop.start()
