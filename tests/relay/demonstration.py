"""Tells the story of five hosts and consumers that know one of them: nothing acknowledged is lost.

Arguments: prefix of the namespaces, binary, directory with the client libraries, scratch directory, seconds.
Node N has the address 10.77.0.N in namespace PREFIX-N. What is asked of a node is asked from its own namespace,
so that a cable which is cut hides it from the other nodes and from nobody else.
"""

import json
import os
import random
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MESH = os.path.join(HERE, "..", "mesh")
sys.path.insert(0, MESH)

from nodes import Cable, Failed, Node, lines, wait_until  # noqa: E402

prefix, binary, clients, directory = sys.argv[1:5]
seconds = float(sys.argv[5])
TOPIC, RATE, ENDS = "orders", 20, (1, 2, 3, 4, 5)
LIBRARIES = ("pynsq", "nsqjs")
DELAY_MS, LOSS = 2, 0.005
# The consumers' node is spared in two of three rounds, so that the others' misfortunes are seen from a node
# that has links.
VICTIMS = (2, 3, 4, 5, 2, 3, 4, 5, 1)


def say(text):
    print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)


class Host(Node):
    """A node that is asked from its own namespace, with a new connection each time."""

    def __init__(self, number, secret):
        self.number, host = number, f"10.77.0.{number}"
        args = [f"--tcp-address={host}:4150", f"--http-address={host}:4151", f"--gossip-address={host}:4160",
                f"--cluster-secret-file={secret}", f"--topology-zone=zone{number}"]
        args += [f"--join=10.77.0.{other}:4160" for other in ENDS[:2] if other != number]
        super().__init__(binary, directory, f"node{number}", args, f"{prefix}-{number}", host)

    def get(self, target):
        script = ("import sys, urllib.request\n"
                  "try:\n    print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())\n"
                  "except OSError as error:\n    sys.exit(str(error))")
        command = ["ip", "netns", "exec", f"{prefix}-{self.number}", sys.executable, "-c", script]
        ended = subprocess.run([*command, f"http://{self.host}:4151{target}"], capture_output=True, text=True)
        return (200, ended.stdout) if ended.returncode == 0 else None


def start_publisher(number):
    host, acknowledged = f"10.77.0.{number}", f"{directory}/acknowledged{number}"
    command = ["ip", "netns", "exec", f"{prefix}-{number}", sys.executable, f"{MESH}/publisher.py", host, "4150"]
    return subprocess.Popen([*command, TOPIC, f"p{number}", str(RATE), acknowledged])


def start_consumer(library):
    command = {
        "pynsq": [f"{clients}/py/bin/python", f"{HERE}/pynsq_direct.py"],
        "nsqjs": ["node", f"{HERE}/nsqjs_direct.js"],
    }[library]
    out, err = open(f"{directory}/{library}.received", "wb"), open(f"{directory}/{library}.log", "wb")
    environment = {**os.environ, "NODE_PATH": f"{clients}/js/node_modules"}
    command = ["ip", "netns", "exec", f"{prefix}-1", *command, "10.77.0.1:4150", TOPIC, library]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)


def news_from_everywhere():
    """Waits until messages that are newer than now have come from every producer to every consumer."""
    for number in ENDS:
        have = len(lines(f"{directory}/acknowledged{number}"))
        for library in LIBRARIES:
            last = lambda: max((int(body.split("-")[1]) for body in lines(f"{directory}/{library}.received")
                                if body.startswith(f"p{number}-")), default=-1)
            wait_until(f"{library} gets news of node {number}", lambda: last() >= have, every=0.2)


def trouble(nodes):
    """Kills nodes and cuts cables, one at a time, until the time is up. Returns how often it did which."""
    kills = cuts = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        victim = chance.choice(VICTIMS)
        if chance.random() < 0.5:
            nodes[victim - 1].kill()
            time.sleep(chance.uniform(0.1, 2))
            nodes[victim - 1].start()
            kills += 1
        else:
            cable.tell(f"cut w{victim}")
            time.sleep(chance.uniform(0.1, 6))
            cable.tell(f"heal w{victim}")
            cuts += 1
        time.sleep(chance.uniform(0, 3))
    return kills, cuts


def deliver_the_rest(nodes, publishers):
    for publisher in publishers:
        publisher.terminate()
        publisher.wait()
    for node in nodes:
        wait_until(f"{node.name} has delivered everything",
                   lambda: [*node.backlog(TOPIC).values()] == [0] * len(LIBRARIES), every=0.5, patience=180)


def count():
    """Compares what was acknowledged with what came out.

    A consumer writes down a message before it finishes it, so all of them are in the files by now.
    """
    acknowledged = {body for number in ENDS for body in lines(f"{directory}/acknowledged{number}")}
    lost = not acknowledged
    for library in LIBRARIES:
        received = lines(f"{directory}/{library}.received")
        missing = acknowledged - set(received)
        again = len(received) - len(set(received))
        say(f"channel {library}: {len(acknowledged)} acknowledged, {len(acknowledged & set(received))} of them "
            f"received, {len(missing)} missing, {again} deliveries were repeated ones")
        if missing:
            print(f"missing: {sorted(missing)[:20]}", file=sys.stderr)
        lost = lost or bool(missing)
    if lost:
        raise Failed("an acknowledged message is missing")


def links(node):
    """The channel's links on a node, by library."""
    stats = node.json(f"/stats?format=json&topic={TOPIC}")
    topics = stats["topics"] if stats else []
    return {channel["channel_name"]: channel.get("relays", []) for topic in topics for channel in topic["channels"]}


def story():
    secret = f"{directory}/secret"
    with open(secret, "w") as file:
        subprocess.run([binary, "key", "generate"], stdout=file, check=True)
    nodes = [Host(number, secret) for number in ENDS]
    children.extend(nodes)
    for node in nodes:
        node.start()
    for node in nodes:
        wait_until(f"{node.name} sees {len(ENDS)} nodes", lambda: len(node.alive()) == len(ENDS), every=0.2)
    say(f"{len(ENDS)} nodes see each other")
    children.extend(start_consumer(library) for library in LIBRARIES)
    for node in nodes:
        wait_until(f"{node.name} knows the channels", lambda: node.channels(TOPIC) == set(LIBRARIES), every=0.2)
    publishers = [start_publisher(number) for number in ENDS]
    children.extend(publishers)
    news_from_everywhere()
    say(f"pynsq and nsqjs, told of 10.77.0.1:4150 only, get what is published on all ({RATE}/s each)")
    open_links = [link for one in links(nodes[0]).values() for link in one if link["state"] == "open"]
    say(f"node 1 has {len(open_links)} open links, such as {json.dumps(open_links[:1])}")
    kills, cuts = trouble(nodes)
    say(f"{kills} times a node was killed with -9 and started again, {cuts} times its cable cut and healed")
    news_from_everywhere()
    say("messages come from everywhere again")
    deliver_the_rest(nodes, publishers)
    count()
    carried, lost = cable.tell("end")
    say(f"the cable ({DELAY_MS} ms, {LOSS:.1%} loss) carried {carried} frames and lost {lost}")


began = time.monotonic()
chance = random.Random(int(os.environ.get("SEED", "1")))
children = []
cable = Cable(prefix, ENDS, DELAY_MS, LOSS)
try:
    story()
    print("shown")
except Failed as failed:
    print(f"failed: {failed}", file=sys.stderr)
    for end in ENDS:
        print(f"--- node {end}\n" + "\n".join(lines(f"{directory}/node{end}.log")[-15:]), file=sys.stderr)
    sys.exit(1)
finally:
    for child in children:
        child.stop() if isinstance(child, Node) else child.kill()
    cable.stop()
