"""One cell of the client matrix with gnsq. See matrix/README for the arguments and what is to be shown.

Its producer fails with any layer by itself (a KeyError), so it publishes in clear text.
"""

import gevent.monkey

gevent.monkey.patch_all()

import ssl
import sys

import gevent
import gnsq

tcp, http, topic, transport, ca = sys.argv[1:6]
layers = set(transport.split("+"))
wanted = {b"single %d" % i for i in range(50)} | {b"batch %d" % i for i in range(50)}
attempts, finished = {}, set()
options = {"heartbeat_interval": 1}
if "tls" in layers:
    options.update(tls_v1=True, tls_options={"ca_certs": ca, "cert_reqs": ssl.CERT_REQUIRED})
if "snappy" in layers:
    options.update(snappy=True)
if "deflate" in layers:
    options.update(deflate=True)
if "lookup" in layers:
    where = {"lookupd_http_addresses": ["http://" + http], "lookupd_poll_interval": 1}
else:
    where = {"nsqd_tcp_addresses": [tcp]}
consumer = gnsq.Consumer(topic, "test", max_in_flight=20, **where, **options)


@consumer.on_message.connect
def handle(consumer, message):
    body = message.body
    attempts[body] = attempts.get(body, 0) + 1
    message.enable_async()
    if body.endswith(b"0") and attempts[body] == 1:
        message.requeue(0, backoff=False)
        return
    message.finish()
    finished.add(body)


producer = gnsq.Producer(tcp)
producer.start()
for i in range(50):
    producer.publish(topic, b"single %d" % i)
producer.multipublish(topic, [b"batch %d" % i for i in range(50)])
consumer.start(block=False)
with gevent.Timeout(40, False):
    while finished != wanted:
        gevent.sleep(0.05)
gevent.sleep(0.2)
requeued = sum(1 for count in attempts.values() if count == 2)
print("%d finished, %d requeued" % (len(finished), requeued), flush=True)
sys.exit(0 if finished == wanted and requeued == 10 else 1)
