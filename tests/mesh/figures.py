"""Measures three nodes on loopback: how soon a new topic is found elsewhere, and how soon a killed node is gone.

Arguments: binary, directory, topics, kills. Every setting is the default one, but for ports and directories.
"""

import sys
import time

from nodes import Failed, Node, Publisher, spread, wait_until

binary, directory, topics, kills = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
LOCAL = ["--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0", "--gossip-address=127.0.0.1:0",
         "--mesh-address=127.0.0.1:0", "--broadcast-address=127.0.0.1"]


def start():
    nodes = [Node(binary, directory, "a", LOCAL).start()]
    for name in "bc":
        seed = f"--join=127.0.0.1:{nodes[0].gossip}"
        nodes.append(Node(binary, directory, name, [*LOCAL, seed]).start())
    for node in nodes:
        wait_until("the nodes see each other", lambda: len(node.alive()) == 3)
    return nodes


def first_publish(nodes, count):
    """From the first PUB of a new topic on A until /lookup on B names A, and likewise until its OK."""
    a, b = nodes[0], nodes[1]
    publisher, found, answered = Publisher(a.host, a.tcp), [], []
    for number in range(count):
        topic, started = f"new{number}", time.monotonic()
        publisher.publish(topic, b"x")
        answered.append(time.monotonic() - started)
        wait_until(f"{topic} is found", lambda: (a.host, a.tcp) in (b.found(topic) or ()), every=0.0005)
        found.append(time.monotonic() - started)
        time.sleep(0.05)
    return found, answered


def killed(nodes, count):
    """From kill -9 until /lookup on both others does not name the node any more."""
    times, victim = [], nodes[2]
    for number in range(count):
        topic = f"held{number}"
        Publisher(victim.host, victim.tcp).publish(topic, b"x")
        for node in nodes[:2]:
            wait_until("the victim is found", lambda: (victim.host, victim.tcp) in (node.found(topic) or ()))
        started = time.monotonic()
        victim.kill()
        waiting = nodes[:2]
        while waiting:
            waiting = [node for node in waiting if node.found(topic) != set()]
            if time.monotonic() - started > 60:
                raise Failed("a killed node is still found after 60 s")
            time.sleep(0.001)
        times.append(time.monotonic() - started)
        victim.start(f"--join=127.0.0.1:{nodes[0].gossip}")
        for node in nodes:
            wait_until("the victim is back", lambda: len(node.alive()) == 3)
        # Detection is measured from a quiet mesh, at any place of its probe rounds.
        time.sleep(1 + 0.137 * (number % 8))
    return times


nodes = []
try:
    nodes = start()
    found, answered = first_publish(nodes, topics)
    print(f"first publish on A until OK            {spread(answered)}", flush=True)
    print(f"first publish on A until lookup on B   {spread(found)}", flush=True)
    print(f"kill -9 until gone from both lookups   {spread(killed(nodes, kills))}", flush=True)
except Failed as failed:
    print(f"failed: {failed}", file=sys.stderr)
    sys.exit(1)
finally:
    for node in nodes:
        node.stop()
