"""Measures two nodes on loopback: the way of a new topic's first message, what a relay adds to one's way, and
what links hold of memory that have nothing to do.

Arguments: binary, directory, topics, seconds of load. Every setting is the default one, but for ports and
directories. The clients are as small as they can be, and the same for both ways.
"""

import os
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "mesh"))

from nodes import Failed, Node, Publisher, spread, wait_until  # noqa: E402

LOCAL = ["--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0", "--gossip-address=127.0.0.1:0",
         "--mesh-address=127.0.0.1:0", "--broadcast-address=127.0.0.1"]
RATE = 1000


class Consumer(Publisher):
    """A connection that takes messages and finishes them."""

    def __init__(self, host, port, topic, channel, ready):
        super().__init__(host, port)
        self.socket.settimeout(60)
        self.socket.sendall(b"SUB %s %s\n" % (topic.encode(), channel.encode()))
        self.frame()
        self.socket.sendall(b"RDY %d\n" % ready)

    def frame(self):
        while True:
            size, kind = struct.unpack(">II", self.exactly(8))
            body = self.exactly(size - 4)
            if body == b"_heartbeat_":
                self.socket.sendall(b"NOP\n")
            elif kind == 1:
                raise OSError(body.decode())
            else:
                return body

    def message(self):
        frame = self.frame()
        self.socket.sendall(b"FIN " + frame[10:26] + b"\n")
        return frame[26:]


def start(binary, directory, *more):
    nodes = [Node(binary, directory, "a", [*LOCAL, *more]).start()]
    nodes.append(Node(binary, directory, "b", [*LOCAL, *more, f"--join=127.0.0.1:{nodes[0].gossip}"]).start())
    for node in nodes:
        wait_until("the nodes see each other", lambda: len(node.alive()) == 2)
    return nodes


def first_message(a, b, count):
    """From the first PUB of a topic that is new on A until a consumer has it that has subscribed on B before."""
    names = [f"new{number}" for number in range(count)]
    consumers = [Consumer(b.host, b.tcp, name, "c", 10) for name in names]
    for name in names:
        wait_until("A knows the channel", lambda: "c" in a.channels(name))
    publisher, times = Publisher(a.host, a.tcp), []
    for name, consumer in zip(names, consumers):
        # News that follow others closely wait for company, up to 10 ms.
        time.sleep(0.1)
        started = time.monotonic()
        publisher.publish(name, b"x")
        consumer.message()
        times.append(time.monotonic() - started)
    for consumer in consumers:
        consumer.socket.close()
    return times


def take(host, port, channel, count):
    """Prints how long each message took, in seconds; run as a process of its own."""
    consumer = Consumer(host, int(port), "load", channel, 500)
    print("ready", flush=True)
    times = []
    for _ in range(int(count)):
        sent = float(consumer.message())
        times.append(time.monotonic() - sent)
    print(*times)


def under_load(a, b, seconds):
    """How long messages take at 1,000/s from A, to a consumer on A and to one on B; one after the other."""
    measured = {}
    for way, node in [("direct", a), ("relayed", b)]:
        count = int(RATE * seconds)
        command = [sys.executable, os.path.abspath(__file__), "take", node.host, str(node.tcp), way, str(count)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        wait_until("A has the channel", lambda: way in a.channels("load"))
        time.sleep(1)
        load(a, count)
        measured[way] = [float(word) for word in process.stdout.readline().split()]
        process.wait()
        a.post(f"/channel/delete?topic=load&channel={way}")
    return measured


def load(node, count):
    """Publishes at a steady rate, without waiting for answers."""
    publisher = Publisher(node.host, node.tcp)
    begun = time.monotonic()
    for number in range(count):
        wait = begun + number / RATE - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        body = b"%.9f" % time.monotonic()
        publisher.socket.sendall(b"PUB load\n" + struct.pack(">I", len(body)) + body)
    for _ in range(count):
        publisher.exactly(10)
    publisher.socket.close()


def resident(node):
    with open(f"/proc/{node.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def idle(binary, directory, count):
    """Memory of both nodes, KiB, with `count` channels of A consumed on B and nothing published."""
    held = {}
    for relay in ("off", "auto"):
        there = f"{directory}/{relay}"
        os.mkdir(there)
        nodes = start(binary, there, f"--relay={relay}")
        try:
            a, b = nodes
            for number in range(count):
                a.post(f"/topic/create?topic=idle{number}")
                a.post(f"/channel/create?topic=idle{number}&channel=c")
            consumers = [Consumer(b.host, b.tcp, f"idle{number}", "c", 10) for number in range(count)]

            def linked():
                topics = b.json("/stats?format=json&include_clients=false")["topics"]
                channels = [channel for topic in topics for channel in topic["channels"]]
                return sum(link["state"] == "open" for channel in channels for link in channel.get("relays", []))

            wait_until("all links are open", lambda: linked() == (count if relay == "auto" else 0))
            time.sleep(2)
            held[relay] = [resident(node) for node in nodes]
            for consumer in consumers:
                consumer.socket.close()
        finally:
            for node in nodes:
                node.stop()
    return [(auto - off) / count for auto, off in zip(held["auto"], held["off"])]


def main(binary, directory, topics, seconds):
    nodes = []
    try:
        nodes = start(binary, directory)
        times = first_message(*nodes, topics)
        print(f"first PUB on A until a consumer on B has it   {spread(times)}", flush=True)
        measured = under_load(*nodes, seconds)
        for way, times in measured.items():
            print(f"{RATE}/s, {way:<8}                               {spread(times)}", flush=True)
        owner, consumers = idle(binary, directory, 500)
        print(f"memory of a link with nothing to do, of 500    {owner:.1f} KiB at the owner, "
              f"{consumers:.1f} KiB at the consumers' node", flush=True)
    except Failed as failed:
        sys.exit(f"failed: {failed}")
    finally:
        for node in nodes:
            node.stop()


if sys.argv[1] == "take":
    take(*sys.argv[2:6])
else:
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
