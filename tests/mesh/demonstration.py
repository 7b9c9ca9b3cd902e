"""Tells the story of three hosts: found, cut off, healed, killed, given another key; nothing acknowledged is lost.

Runs in the network namespace of the clients. Arguments: prefix of the namespaces, binary, directory with the
client libraries, scratch directory. Node N has the address 10.77.0.N in namespace PREFIX-N.
"""

import json
import os
import signal
import subprocess
import sys
import time

from nodes import Cable, Failed, Node, Publisher, lines, spread, wait_until

prefix, binary, clients, directory = sys.argv[1:5]
HERE = os.path.dirname(os.path.abspath(__file__))
TOPIC, RATE, LIBRARIES = "orders", 100, ("pynsq", "nsqjs")
DELAY_MS, LOSS = 5, 0.01


def say(text):
    print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)


def start_node(number, secret, seed=None):
    host = f"10.77.0.{number}"
    args = [f"--tcp-address={host}:4150", f"--http-address={host}:4151", f"--gossip-address={host}:4160",
            f"--cluster-secret-file={secret}", f"--topology-zone=zone{number}"]
    if seed:
        args.append(f"--join={seed}")
    return Node(binary, directory, f"node{number}", args, f"{prefix}-{number}", host).start()


def start_publisher(number):
    host, acknowledged = f"10.77.0.{number}", f"{directory}/acknowledged{number}"
    command = ["ip", "netns", "exec", f"{prefix}-{number}", sys.executable, f"{HERE}/publisher.py", host, "4150"]
    return subprocess.Popen([*command, TOPIC, f"p{number}", str(RATE), acknowledged])


def start_consumer(library, lookup):
    scripts = f"{HERE}/../clients"
    command = {
        "pynsq": [f"{clients}/py/bin/python", f"{scripts}/pynsq_lookup.py"],
        "nsqjs": ["node", f"{scripts}/nsqjs_lookup.js"],
    }[library]
    out, err = open(f"{directory}/{library}.received", "wb"), open(f"{directory}/{library}.log", "wb")
    environment = {**os.environ, "NODE_PATH": f"{clients}/js/node_modules"}
    return subprocess.Popen([*command, lookup, TOPIC, library, "0"], stdin=subprocess.DEVNULL, stdout=out,
                            stderr=err, env=environment)


def wait_for_producers(asked, expected, patience=60.0):
    """Waits until every node in `asked` finds exactly `expected`; returns the seconds."""
    hosts = {(node.host, 4150) for node in expected}
    started = time.monotonic()
    for node in asked:
        wait_until(f"{node.name} finds {sorted(hosts)}", lambda: node.found(TOPIC) == hosts, patience=patience)
    return time.monotonic() - started


def first_publish(nodes, count):
    """From the first PUB of a new topic on the last node until lookups on the first name it."""
    first, last = nodes[0], nodes[-1]
    publisher, times = Publisher(last.host, last.tcp), []
    for number in range(count):
        topic, started = f"new{number}", time.monotonic()
        publisher.publish(topic, b"x")
        wait_until(f"{topic} is found", lambda: (last.host, 4150) in (first.found(topic) or ()), every=0.001)
        times.append(time.monotonic() - started)
    return times


def from_elsewhere(consumers_seen, name):
    """Waits until messages from a publisher that are newer than now have reached both consumers."""
    have = len(lines(f"{directory}/acknowledged{name}"))
    last = lambda library: max(
        (int(body.split("-")[1]) for body in lines(f"{directory}/{library}.received")
         if body.startswith(f"p{name}-")), default=-1)
    for library in consumers_seen:
        wait_until(f"{library} gets news from node {name}", lambda: last(library) >= have, every=0.1)


def key(secret, *words, stdin=None):
    command = [binary, "key", *words, "--http-address=10.77.0.1:4151", f"--cluster-secret-file={secret}"]
    ended = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
    if ended.returncode != 0:
        raise Failed(f"bruit key {words[0]} ended with {ended.returncode}: {ended.stdout}{ended.stderr}")
    return ended.stdout


def rotate(old, new):
    with open(new) as file:
        text = file.read()
    stale = json.loads(key(old, "list"))["nodes"][0]["keys"][0]["fingerprint"]
    fresh = json.loads(key(old, "install", "-", stdin=text))["fingerprint"]
    for secret, words in [(old, ["install", "-"]), (old, ["use", fresh]), (new, ["remove", stale])]:
        say(f"bruit key {words[0]}: " + key(secret, *words, "-o", "table", stdin=text).strip())


def deliver_the_rest(nodes, publishers):
    for publisher in publishers:
        publisher.terminate()
        publisher.wait()
    for node in nodes:
        wait_until(f"{node.name} has delivered everything",
                   lambda: [*node.backlog(TOPIC).values()] == [0] * len(LIBRARIES), every=0.1, patience=120)


def count():
    """Compares what was acknowledged with what came out.

    A consumer writes down a message before it finishes it, so all of them are in the files by now.
    """
    acknowledged = {body for node in (1, 2, 3) for body in lines(f"{directory}/acknowledged{node}")}
    lost = False
    for library in LIBRARIES:
        received = lines(f"{directory}/{library}.received")
        missing = acknowledged - set(received)
        again = len(received) - len(set(received))
        say(f"channel {library}: {len(acknowledged)} acknowledged, {len(acknowledged & set(received))} of them "
            f"received, {len(missing)} missing, {again} came more than once")
        if missing:
            print(f"missing: {sorted(missing)[:20]}", file=sys.stderr)
        lost = lost or bool(missing) or not acknowledged
    if lost:
        raise Failed("an acknowledged message is missing")


def story():
    secrets = []
    for name in ("secret", "next"):
        path = f"{directory}/{name}"
        with open(path, "w") as file:
            subprocess.run([binary, "key", "generate"], stdout=file, check=True)
        secrets.append(path)
    started = time.monotonic()
    one = start_node(1, secrets[0])
    two, three = (start_node(number, secrets[0], "10.77.0.1:4160") for number in (2, 3))
    nodes = [one, two, three]
    children.extend(nodes)
    for node in nodes:
        wait_until(f"{node.name} sees three nodes", lambda: len(node.alive()) == 3)
    say(f"three nodes see each other, {time.monotonic() - started:.2f} s after the first was started")

    one.post(f"/topic/create?topic={TOPIC}")
    for library in LIBRARIES:
        one.post(f"/channel/create?topic={TOPIC}&channel={library}")
    for node in nodes:
        wait_until(f"{node.name} knows both channels", lambda: node.channels(TOPIC) == set(LIBRARIES))
    say("a topic with two channels was made on node 1; the others have it with the first message there")

    consumers = [start_consumer(library, "10.77.0.1:4151") for library in LIBRARIES]
    publishers = [start_publisher(number) for number in (1, 2, 3)]
    children.extend([*consumers, *publishers])
    wait_for_producers(nodes, nodes)
    for number in (1, 2, 3):
        from_elsewhere(LIBRARIES, number)
    say(f"pynsq and nsqjs, told of node 1 only, get what is published on all three ({RATE}/s each)")
    say(f"new topic on node 3 until lookup on node 1: {spread(first_publish(nodes, 50))}")

    cable.tell("cut w3")
    gone = wait_for_producers([one, two], [one, two])
    say(f"node 3 is cut off: gone from the lookups of the others after {gone:.2f} s")
    time.sleep(5)
    cable.tell("heal w3")
    back = wait_for_producers(nodes, nodes)
    say(f"healed: all three are in every lookup again after {back:.2f} s")
    from_elsewhere(LIBRARIES, 3)
    say("what was published on node 3 meanwhile is coming in")

    two.kill(signal.SIGKILL)
    gone = wait_for_producers([one, three], [one, three])
    say(f"node 2 was killed with -9: gone from the lookups of the others after {gone:.2f} s")
    two.start()
    back = wait_for_producers(nodes, nodes)
    from_elsewhere(LIBRARIES, 2)
    say(f"started again: in every lookup {back:.2f} s after it served, and its messages come")

    rotate(*secrets)
    for node in nodes:
        wait_until(f"{node.name} sees three nodes", lambda: len(node.alive()) == 3)
    for number in (1, 2, 3):
        from_elsewhere(LIBRARIES, number)
    say("the key is another one; all nodes are there and messages flow")

    deliver_the_rest(nodes, publishers)
    count()
    carried, lost = cable.tell("end")
    say(f"the cable ({DELAY_MS} ms, {LOSS:.0%} loss) carried {carried} frames and lost {lost}")


began = time.monotonic()
children = []
cable = Cable(prefix, (1, 2, 3, 9), DELAY_MS, LOSS)
try:
    story()
    print("shown")
except Failed as failed:
    print(f"failed: {failed}", file=sys.stderr)
    for number in (1, 2, 3):
        print(f"--- node {number}\n" + "\n".join(lines(f"{directory}/node{number}.log")[-15:]), file=sys.stderr)
    sys.exit(1)
finally:
    for child in children:
        child.stop() if isinstance(child, Node) else child.kill()
    cable.stop()
